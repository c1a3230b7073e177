"""Statistics of downstream comparisons against scipy and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctfast.evaluate.downstream.folds import Arm
from ctfast.evaluate.downstream.runs import Run
from ctfast.evaluate.downstream.statistics import Figure, holm, mean_with_interval, signed_rank, verdict
from ctfast.evaluate.downstream.summary import arm_result, by_patient, comparisons, rows


def run(*figures: dict[int, float]) -> Run:
    return Run(volumes=(2, 0), drawn=(10, 0), figures=figures, seconds=1.0)


def test_the_signed_rank_test_by_hand() -> None:
    # Five differences above 0: of the 2^5 signs only one is as extreme, and its mirror image.
    assert signed_rank([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    # Rank sum of the negative one is 1: signs with a sum of 0 or 1 are 2 of 32, doubled.
    assert signed_rank([-0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(4 / 32)
    assert signed_rank([0.0, 0.0]) == 1
    assert signed_rank([0.0, 0.1, 0.2, 0.3]) == pytest.approx(2 / 8)


def test_the_signed_rank_test_is_scipys() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(0.7, 0.1, 20), random.normal(0.75, 0.1, 20)
    assert signed_rank(list(second - first)) == pytest.approx(float(stats.wilcoxon(second, first).pvalue))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_verdicts() -> None:
    assert verdict(0.1, 0.049) == "better"
    assert verdict(-0.1, 0.049) == "worse"
    assert verdict(0.1, 0.05) == "no clear difference"


def test_means_have_intervals() -> None:
    values = list(np.random.default_rng(1).normal(0.6, 0.1, 40))
    found = mean_with_interval(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * np.std(values) / np.sqrt(40)
    assert found.low == pytest.approx(np.mean(values) - half, abs=0.005)
    assert found.high == pytest.approx(np.mean(values) + half, abs=0.005)
    assert mean_with_interval([]) == Figure(None)
    assert mean_with_interval([0.5]) == Figure(0.5)


def test_runs_are_averaged_per_patient_and_label() -> None:
    """Two runs, three volumes of two patients, of whom the second has label 2 only."""
    patients = [0, 0, 2]
    runs = [run({1: 0.2, 2: 0.4}, {1: 0.4}, {2: 0.9}), run({1: 0.4, 2: 0.6}, {1: 0.6}, {2: 0.7})]
    assert by_patient(runs, patients) == {0: {1: pytest.approx(0.4), 2: pytest.approx(0.5)}, 2: {2: pytest.approx(0.8)}}
    arm = arm_result(Arm("real", 0.0), runs, patients, (1, 2))
    assert arm.dice.value == pytest.approx((0.45 + 0.8) / 2)
    assert [(score.label, score.dice.value, score.patients) for score in arm.labels] == [
        (1, pytest.approx(0.4), 1),
        (2, pytest.approx(0.65), 2),
    ]
    assert [fold.dice for fold in arm.folds] == [pytest.approx((0.35 + 0.9) / 2), pytest.approx((0.55 + 0.7) / 2)]
    assert arm.spread == pytest.approx(np.std([0.625, 0.625], ddof=1))


def test_arms_are_compared_over_the_same_patients() -> None:
    random = np.random.default_rng(2)
    base = random.uniform(0.5, 0.7, 12)
    noise = random.normal(0, 0.02, 12)
    scores = {
        "real": {index: {1: float(value)} for index, value in enumerate(base)},
        "synthetic": {index: {1: float(value) - 0.2} for index, value in enumerate(base)},
        "1:1": {index: {1: float(value)} for index, value in enumerate(base + noise)},
        "1:2": {index: {1: float(value) + 0.1 + 0.01 * index} for index, value in enumerate(base)},
    }
    worse, same, better = comparisons(scores)
    assert [found.verdict for found in (worse, same, better)] == ["worse", "no clear difference", "better"]
    assert worse.difference.value == pytest.approx(-0.2)
    assert (worse.higher, better.higher, worse.patients) == (0, 12, 12)
    assert same.p == pytest.approx(float(stats.wilcoxon(noise).pvalue))
    assert [found.corrected for found in (worse, same, better)] == holm([worse.p, same.p, better.p])
    table = rows(scores, {index: f"p{index}" for index in range(12)})
    assert len(table) == 48
    assert table[0] == {"arm": "real", "patient": "p0", "dice": base[0], "labels": {"1": base[0]}}
