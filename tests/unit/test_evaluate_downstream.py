"""``evaluate --downstream``: one budget for all arms, figures that follow the labels, resuming, the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import blobs, tiny_plan

import ctfast
from ctfast.cli.main import main
from ctfast.errors import CancelledError, RequestError
from ctfast.evaluate.downstream.cases import Store, read_cases
from ctfast.evaluate.downstream.result import Downstream
from ctfast.evaluate.downstream.run import downstream
from ctfast.evaluate.downstream.text import table
from ctfast.evaluate.downstream.training import Settings, dice, new_network, order_of, segment, segmentation_loss
from ctfast.evaluate.volumes import find_set

TINY = Settings(steps=50, batch=2, patch=(16, 16, 16), rate=5e-3, width=16)
FEW = Settings(steps=3, batch=1, patch=(16, 16, 16), width=8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    blobs.write(folder / "real", range(8))
    blobs.write(folder / "held", range(100, 108))
    blobs.write(folder / "wrong", range(20, 28), wrong=True)
    blobs.write(folder / "made", range(40, 48))
    return folder


@pytest.fixture(scope="module")
def wrong(sets: Path) -> Downstream:
    """Synthetic volumes whose labels are exchanged."""
    return downstream(
        sets / "real", sets / "held", sets / "wrong", ratios=["1:1"], folds=2, settings=TINY, work=sets / "work"
    )


def test_a_synthetic_set_that_is_the_real_one_is_worth_as_much(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "real", tmp_path / "copy")
    result = downstream(sets / "real", sets / "held", tmp_path / "copy", ratios=[], folds=2, settings=FEW)
    real, synthetic = ([fold.dice for fold in arm.folds] for arm in result.arms)
    assert real == synthetic
    assert real[0] != real[1]
    (found,) = result.comparisons
    assert (found.difference.value, found.p, found.verdict) == (0, 1, "no clear difference")
    assert "no clear difference" in table(result)


def test_wrong_labels_are_worth_less(wrong: Downstream) -> None:
    real, synthetic = wrong.arm("real"), wrong.arm("synthetic")
    assert real.dice.value is not None
    assert synthetic.dice.value is not None
    assert real.dice.value > 0.3
    assert synthetic.dice.value < 0.1
    against = next(found for found in wrong.comparisons if found.arm == "synthetic")
    assert against.verdict == "worse"
    assert against.corrected < 0.05
    assert against.higher == 0
    assert against.difference.high is not None
    assert against.difference.high < 0


def test_every_arm_has_the_same_budget(wrong: Downstream) -> None:
    patches = TINY.steps * TINY.batch
    for arm in wrong.arms:
        assert [sum(fold.drawn) for fold in arm.folds] == [patches] * 2
        share = np.mean([fold.drawn[1] for fold in arm.folds]) / patches
        assert share == arm.share if arm.share in (0, 1) else abs(share - arm.share) < 0.15
    assert wrong.arm("real").folds[0].volumes == (4, 0)
    assert wrong.arm("synthetic").folds[0].volumes == (0, 4)
    assert wrong.arm("1:1").folds[0].volumes == (4, 4)
    assert wrong.settings["steps"] == TINY.steps


def test_the_order_of_patches() -> None:
    settings = Settings(steps=600, batch=2, patch=(16, 16, 16))
    for share in (0.0, 0.5, 2 / 3, 1.0):
        order = order_of(share, (7, 5), settings, 0)
        assert order.shape == (1200, 2)
        assert abs(order[:, 0].mean() - share) < 0.05
        for which, size in ((0, 7), (1, 5)):
            drawn = order[order[:, 0] == which, 1]
            counts = np.bincount(drawn, minlength=size)
            assert counts.max() - counts.min() <= 1
            assert len(counts) == size
    # The same chances for every arm: what is synthetic at a lower share is so at a higher one.
    low, high = (order_of(share, (7, 5), settings, 0)[:, 0] for share in (0.3, 0.6))
    assert (high >= low).all()
    assert not np.array_equal(order_of(0.5, (7, 5), settings, 0), order_of(0.5, (7, 5), settings, 1))


def test_initial_weights_are_those_of_the_run() -> None:
    first, same, other = (new_network(3, FEW, run).state_dict() for run in (0, 0, 1))
    assert all(first[name].equal(same[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_the_result_survives_its_file(wrong: Downstream, tmp_path: Path) -> None:
    path = tmp_path / "down.json"
    path.write_text(wrong.to_json())
    assert Downstream.load(path) == Downstream.from_json(wrong.to_json())
    assert Downstream.load(path).to_json() == wrong.to_json()
    assert len(wrong.per_patient) == 3 * 8
    for arm in wrong.arms:
        rows = [row for row in wrong.per_patient if row["arm"] == arm.name]
        assert np.mean([row["dice"] for row in rows]) == pytest.approx(arm.dice.value)
        assert np.mean([fold.dice for fold in arm.folds]) == pytest.approx(arm.dice.value)
        for score in arm.labels:
            assert score.patients == 8
            assert np.mean([row["labels"][str(score.label)] for row in rows]) == pytest.approx(score.dice.value)
    with pytest.raises(RequestError, match="there is no arm '3:1': expected one of real, synthetic, 1:1"):
        wrong.arm("3:1")


def test_foreign_results_are_refused(wrong: Downstream, tmp_path: Path) -> None:
    content = json.loads(wrong.to_json())
    for broken, message in (
        ("nothing", "expected what 'ctfast evaluate --downstream' writes"),
        (json.dumps({**content, "format": 2}), "newer ctfast"),
        (json.dumps({**content, "kind": "sweep"}), "kind: expected one of downstream"),
        (json.dumps({**content, "arms": [{"name": "real"}]}), r"arms\[0\]\.share"),
    ):
        with pytest.raises(RequestError, match=message):
            Downstream.from_json(broken)
    with pytest.raises(RequestError, match="cannot be read"):
        Downstream.load(tmp_path / "missing.json")


def test_a_run_that_was_broken_off_gives_the_same(sets: Path, tmp_path: Path) -> None:
    def run(work: Path, progress: Any = None) -> Downstream:
        return downstream(
            sets / "real",
            sets / "held",
            sets / "made",
            ratios=[],
            folds=2,
            settings=FEW,
            work=work,
            progress=progress,
        )

    def comparable(result: Downstream) -> Any:
        content = result.as_dict()
        for key in ("date", "seconds"):
            del content[key]
        for fold in (fold for arm in content["arms"] for fold in arm["folds"]):
            del fold["seconds"]
        return content

    whole = run(tmp_path / "a")
    assert comparable(run(tmp_path / "b")) == comparable(whole)

    def stop(stage: str, done: int, total: int) -> bool:
        return not (stage == "synthetic, run 1 of 2" and done == 2)

    with pytest.raises(CancelledError, match="synthetic, run 1 of 2"):
        run(tmp_path / "c", stop)
    stages: list[str] = []
    again = run(tmp_path / "c", lambda stage, done, total: stages.append(stage))
    assert comparable(again) == comparable(whole)
    assert "real, run 1 of 2" not in stages
    assert "synthetic, run 1 of 2" in stages
    stages.clear()
    run(tmp_path / "c", lambda stage, done, total: stages.append(stage))
    assert not any("run" in stage for stage in stages)
    spoilt = next((tmp_path / "c" / "runs").glob("*/run.json"))
    spoilt.write_text("{")
    assert comparable(run(tmp_path / "c")) == comparable(whole)


def test_a_label_that_a_map_lacks_is_neither_learnt_nor_unlearnt() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 3, 8, 8, 8, generator=generator)
    targets = (torch.rand(1, 1, 8, 8, 8, generator=generator) < 0.2).long()
    higher = scores.clone()
    higher[:, 2] += 3
    for drawn, same in ((True, False), (False, True)):
        flags = torch.tensor([[True, True, drawn]])
        first, second = (segmentation_loss(each, targets, flags) for each in (scores, higher))
        assert torch.isfinite(first)
        assert torch.equal(first, second) is same


def test_the_loss_falls_where_scores_are_right() -> None:
    targets = torch.zeros(1, 1, 8, 8, 8).long()
    targets[..., :4] = 1
    drawn = torch.ones(1, 2, dtype=torch.bool)
    right = torch.nn.functional.one_hot(targets[:, 0]).movedim(-1, 1).float() * 20
    assert float(segmentation_loss(right, targets, drawn)) < 0.01
    assert float(segmentation_loss(-right, targets, drawn)) > 5


def test_large_volumes_are_segmented_in_windows(sets: Path) -> None:
    (case, *_) = read_cases(find_set(sets / "held", 1), lambda done, total: None, named=True)
    hu, _ = Store((blobs.DENSE,)).get(case)
    network = new_network(2, FEW, 0).eval()
    assert segment(network, np.tile(hu, (2, 1, 2)), FEW).shape == (32, 16, 32)
    assert segment(network, hu[:10, :, :13], FEW).shape == (10, 16, 13)


def test_dice() -> None:
    wanted = np.array([True, True, False, False])
    assert dice(wanted, wanted) == 1
    assert dice(~wanted, wanted) == 0
    assert dice(np.array([True, False, False, False]), wanted) == pytest.approx(2 / 3)


def test_a_plan_makes_the_synthetic_set(tmp_path: Path) -> None:
    """One volume and more of every label map, made once; each goes with the patient whose label map it has."""
    random = np.random.default_rng(0)
    affine = np.diag([*tiny_plan.SPACING, 1.0])
    for folder, names in (("real", "abcd"), ("held", "ef")):
        for name in names:
            labels = np.full(tiny_plan.SIZE, tiny_plan.BODY, np.uint8)
            labels[2 : 4 + ord(name) - ord("a"), 3:9, 4:10] = 7
            blobs.save(
                tmp_path / folder, name, random.integers(-50, 50, tiny_plan.SIZE).astype(np.int16), labels, affine
            )
    engine = ctfast.load(tiny_plan.write(tmp_path / "tiny.plan"))
    stages: list[str] = []

    def run(progress: Any = None) -> Downstream:
        return downstream(
            tmp_path / "real",
            tmp_path / "held",
            engine=engine,
            copies=2,
            ratios=[],
            folds=2,
            settings=FEW,
            work=tmp_path / "work",
            progress=progress,
        )

    result = run(lambda stage, done, total: stages.append(stage))
    assert (result.synthetic.volumes, result.synthetic.patients, result.labels) == (8, 4, (7,))
    assert result.generation is not None
    assert result.generation["plan"]["sha256"] == engine.identity
    folder = Path(result.synthetic.path)
    metas = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert sorted(meta["sample"] for meta in metas) == list(range(8))
    assert stages.count("generate") >= 8
    changed = folder / "a_0_ct.nii.gz"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "a_0_ct.json").unlink()
    assert run().arms == result.arms
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {
        changed.name,
        "a_0_ct.json",
        "a_0_ct_labels.nii.gz",
    }


def test_impossible_settings_are_refused(sets: Path) -> None:
    for given in ({"steps": 0}, {"batch": 0}, {"patch": (16, 16, 12)}, {"patch": (8, 16, 16)}, {"width": 12}):
        with pytest.raises(RequestError, match="expected"):
            Settings(**given)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="either a folder of generated volumes or a plan"):
        downstream(sets / "real", sets / "held")
    with pytest.raises(RequestError, match="leak"):
        downstream(sets / "real", sets / "real", sets / "made", settings=FEW)


def test_the_command(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "down.json"
    words = ["evaluate", str(sets / "made"), "--downstream", "segmentation", "--train", str(sets / "real")]
    words += ["--reference", str(sets / "held")]
    more = ["--ratios", "1:3", "--folds", "2", "--steps", "2", "--patch", "16", "16", "16", "--labels", "3"]
    assert main([*words, *more, "--real", "6", "--work", str(tmp_path / "w"), "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    result = Downstream.load(output)
    assert [arm.name for arm in result.arms] == ["real", "synthetic", "1:3"]
    assert (result.labels, result.real.patients, result.synthetic.volumes) == ((3,), 6, 8)
    assert "real: 6 volumes of 6 patients" in shown
    assert "held out: 8 volumes" in shown
    assert main([*words, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "downstream"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--downstream", "segmentation", "--reference", "x"], "expected a folder of real volumes with --train"),
        (["--downstream", "segmentation", "--train", "x"], "expected a folder of real volumes with --reference"),
        (["--downstream", "segmentation", "--train", "x", "--reference", "x", "--paired"], "--paired does not go with"),
        (["g", "--downstream", "segmentation", "--train", "x", "--reference", "x", "--copies", "2"], "--copies"),
        (["g", "--downstream", "segmentation", "--train", "x", "--reference", "x", "--labels", "a"], "--labels"),
        (["--downstream", "segmentation", "--sweep", "steps=5"], "no sweep of solvers"),
        (["g", "--reference", "x", "--folds", "2"], "--folds goes with --downstream segmentation"),
    ],
)
def test_options_that_do_not_go_together(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *more]) == 2
    assert message in capsys.readouterr().err
