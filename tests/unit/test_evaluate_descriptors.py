"""Descriptors, organs and nearest neighbours: figures computed elsewhere, worked examples and extremes."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from support import tiny_sets

from ctfast.evaluate.descriptors import compare, describe
from ctfast.evaluate.memorisation import SIDE, chance_nearer, coarse, nearest, share_too_near
from ctfast.evaluate.organs import Organ, bounds, organs_of, separation, table_of
from ctfast.evaluate.volumes import find_set, load_scan

# By the script that these descriptors were first defined in, of the volumes below.
FIRST_VOLUME = {
    **{"body_litres": 0.066, "hu_p1": -8.26, "hu_p5": 8.0, "hu_p25": 28.0, "hu_p50": 43.0, "hu_p75": 59.0},
    **{"hu_p95": 596.3, "hu_p99": 625.26, "frac_lung": 0.0, "frac_fat": 0.0, "frac_soft": 0.877091},
    **{"frac_bone": 0.0909091, "extent_x_mm": 80.0, "profile_sd_x": 0.106079, "slice_jump_x": 117.972},
    **{"slice_curve_x": 227.041, "extent_y_mm": 52.0, "profile_sd_y": 0.129486, "slice_jump_y": 166.552},
    **{"slice_curve_y": 321.635, "extent_z_mm": 33.0, "profile_sd_z": 0.127967, "slice_jump_z": 199.874},
    **{"slice_curve_z": 387.961, "mirror_corr": 0.996658, "log_power_0.05_0.12": -0.161429},
    **{"log_power_0.12_0.25": -1.18183, "log_power_0.25_0.5": -1.22582},
}
ENERGY, SPREAD = 6.510043678937301, 0.9194599903525646


def described(seeds: Any, **options: Any) -> list[dict[str, float]]:
    return [describe(tiny_sets.volume(seed, **options)[0].astype(np.float32), tiny_sets.SPACING) for seed in seeds]


def test_descriptors_and_their_distance_are_those_of_the_script_that_defined_them() -> None:
    reference, generated = described(range(1, 6)), described(range(11, 15), bone=500)
    assert list(reference[0]) == list(FIRST_VOLUME)
    assert reference[0] == pytest.approx(FIRST_VOLUME, rel=2e-5, abs=1e-6)
    result = compare(generated, reference)
    assert result.distances.energy() == pytest.approx(ENERGY, rel=1e-6)
    assert result.spread == pytest.approx(SPREAD, rel=1e-6)
    assert next(iter(result.gaps)) == "hu_p95"


def test_the_script_itself_agrees_on_real_scans(tmp_path: Path) -> None:
    data = Path(os.environ.get("CTFAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    script = data.parent / "tools" / "realism.py"
    scans = sorted((data / "openkbp").glob("*_ct.nii.gz"))[:6]
    if not script.exists() or len(scans) < 6:
        pytest.skip(f"needs {script} and the scans of {data / 'openkbp'} (set CTFAST_DATA)")
    for scan in scans:
        folder = tmp_path / ("generated" if scan in scans[:3] else "reference")
        folder.mkdir(exist_ok=True)
        (folder / scan.name).symlink_to(scan)
    tool = runpy.run_path(str(script))
    tables = {name: tool["table"](str(tmp_path / name), None) for name in ("generated", "reference")}
    mean, spread = tables["reference"][0].mean(0), tables["reference"][0].std(0) + 1e-6
    shown = {
        name: np.clip((table - mean) / spread, -20, 20) / np.sqrt(len(names)) for name, (table, names) in tables.items()
    }
    ours = {name: [describe_scan(item) for item in find_set(tmp_path / name).items] for name in tables}
    for name, (table, names) in tables.items():
        np.testing.assert_allclose([[row[each] for each in names] for row in ours[name]], table, rtol=1e-5, atol=1e-6)
    energy = compare(ours["generated"], ours["reference"]).distances.energy()
    assert energy == pytest.approx(tool["energy"](shown["reference"], shown["generated"]), rel=1e-4)


def describe_scan(item: Any) -> dict[str, float]:
    scan = load_scan(item)
    return describe(scan.hu, scan.spacing)


def test_the_energy_distance_is_that_of_scipys_distances() -> None:
    reference, generated = described(range(1, 6)), described(range(11, 15), bone=500)
    real, made = (np.array([list(row.values()) for row in rows]) for rows in (reference, generated))
    mean, spread = real.mean(0), real.std(0) + 1e-6
    first, second = (np.clip((each - mean) / spread, -20, 20) / np.sqrt(real.shape[1]) for each in (made, real))
    within = [cdist(each, each).sum() / (len(each) * (len(each) - 1)) for each in (first, second)]
    wanted = 2 * cdist(first, second).mean() - sum(within)
    assert compare(generated, reference).distances.energy() == pytest.approx(wanted)


def test_volumes_counted_not_at_all_are_as_if_they_were_not_there() -> None:
    rows = described(range(1, 7))
    distances = compare(rows[:3], rows[3:]).distances
    fewer = distances.energy((np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0])))
    assert fewer == pytest.approx(compare(rows[:2], rows[3:]).distances.energy())


def test_the_energy_distance_at_its_extremes() -> None:
    rows = described(range(1, 9))
    same = compare(rows, rows).distances.energy()
    assert same < 0  # pairs of a volume with itself are left out within a set and not between sets
    assert (
        abs(compare(rows[:4], rows[4:]).distances.energy())
        < 0.5 * compare(described(range(11, 15), noise=200), rows).distances.energy()
    )
    assert compare(rows[:1], rows).distances.energy() != 0
    assert compare(rows[:1], rows[:1]).distances.energy() == 0


def test_a_volume_of_air_has_descriptors() -> None:
    air = describe(np.full((8, 8, 8), -1000, np.float32), (1, 1, 1))
    assert np.isfinite(list(air.values())).all()
    assert (air["mirror_corr"], air["extent_x_mm"], air["hu_p50"]) == (0, 0, -1000)


def test_organs_have_their_medians_and_smallest_ones_are_left_out() -> None:
    hu, labels = tiny_sets.volume(1)
    labels[0, 0, 0] = 3
    organs = organs_of(hu.astype(np.float32), labels.astype(np.uint16))
    assert set(organs) == {tiny_sets.BONE, tiny_sets.BODY}
    assert organs[tiny_sets.BONE].median == np.median(hu[labels == tiny_sets.BONE])
    assert organs[tiny_sets.BONE].coherence == pytest.approx(1)


def test_an_image_that_ignores_its_mask_is_not_coherent() -> None:
    noise = np.random.default_rng(1).normal(0, 100, tiny_sets.SIZE).astype(np.float32)
    labels = tiny_sets.volume(1)[1].astype(np.uint16)
    found = organs_of(noise, labels)[tiny_sets.BONE].coherence
    assert found is not None
    assert found < 0.15
    whole = organs_of(noise, np.ones(tiny_sets.SIZE, np.uint16))
    assert whole[1].coherence is None  # nothing is outside


def test_separation_is_that_of_all_pairs() -> None:
    random = np.random.default_rng(1)
    first, second = random.integers(0, 9, 30).astype(np.float32), random.integers(3, 12, 20).astype(np.float32)
    above, equal = (first[:, None] > second).mean(), (first[:, None] == second).mean()
    assert separation(first, second) == pytest.approx(abs(2 * (above + equal / 2) - 1))
    assert separation(first, first) == pytest.approx(0)
    assert separation(first, first + 100) == 1


def test_organs_of_two_sets_by_hand() -> None:
    real = [{1: Organ(float(value), 0.9), 2: Organ(0.0, None)} for value in (40, 50, 60)]
    made = [{1: Organ(55.0, 0.5), 5: Organ(1.0, 1.0)}, {1: Organ(900.0, None)}]
    table = table_of(made, real)
    row = table.rows[1]
    assert set(table.rows) == {1}
    assert (row.generated, row.reference, row.gap, row.outside) == (477.5, 50.0, 427.5, 0.5)
    assert (row.coherence, row.coherence_reference) == (0.5, pytest.approx(0.9))
    assert table.gap == 427.5
    assert (table.outside(made[0]), table.outside(made[1]), table.outside({5: made[0][5]})) == (0, 1, None)
    assert np.isnan(table_of(made, [{9: made[0][1]}]).gap)


def test_bounds_are_the_wider_of_six_deviations_and_percentiles() -> None:
    values = [40.0, 50.0, 60.0]
    assert bounds(values) == pytest.approx((50 - 6 * np.std(values), 50 + 6 * np.std(values)))
    outlier = [0.0] * 999 + [1000.0] * 9
    low, high = bounds(outlier)
    assert high == pytest.approx(max(np.mean(outlier) + 6 * np.std(outlier), 1000))
    assert low < 0


def test_a_copy_of_a_training_volume_is_found() -> None:
    training = [coarse(tiny_sets.volume(seed)[0].astype(np.float32)) for seed in range(20)]
    real = [coarse(tiny_sets.volume(seed)[0].astype(np.float32)) for seed in range(100, 120)]
    noisy = tiny_sets.volume(3)[0] + np.random.default_rng(5).normal(0, 5, tiny_sets.SIZE)
    made = [training[7], coarse(noisy.astype(np.float32)), real[0]]
    found, unseen = nearest(made, training), nearest(real, training)
    assert list(found.nearest[:2]) == [7, 3]
    assert found.distance[0] == 0
    wanted = cdist(real, training).min(1) / np.sqrt(SIDE**3)
    np.testing.assert_allclose(unseen.distance, wanted, rtol=1e-4)
    assert share_too_near(found.distance, unseen.distance) == pytest.approx(2 / 3)
    assert share_too_near(unseen.distance, unseen.distance) == pytest.approx(0.05)
    assert chance_nearer(unseen.distance, unseen.distance) == 0.5
    assert chance_nearer(found.distance[:2], unseen.distance) == 1


def test_volumes_of_any_size_are_compared_as_block_means() -> None:
    hu = np.random.default_rng(1).normal(0, 300, (48, 72, 24)).astype(np.float32)
    blocks = np.clip(hu, -1000, 1000).reshape(24, 2, 24, 3, 24, 1).mean((1, 3, 5))
    np.testing.assert_allclose(coarse(hu), blocks.ravel(), rtol=1e-4, atol=1e-3)
