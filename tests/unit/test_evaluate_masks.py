"""Agreement of masks: worked examples, an implementation by distance maps, and empty masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from ctfast.errors import RequestError
from ctfast.evaluate.masks import Agreement, agreement, agreements

SPACING = (2.0, 1.0, 3.0)


def box(*sides: tuple[int, int], size: tuple[int, int, int] = (14, 13, 12)) -> Any:
    mask = np.zeros(size, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def blob(seed: int) -> Any:
    noise = np.random.default_rng(seed).normal(size=(14, 13, 12))
    return ndimage.gaussian_filter(noise, 2) > 0.02


def by_distance_maps(found: Any, wanted: Any, tolerance: float) -> Agreement:
    def surface(mask: Any) -> Any:
        return mask & ~ndimage.binary_erosion(mask)

    first, second = surface(found), surface(wanted)
    there = ndimage.distance_transform_edt(~second, sampling=SPACING)[first]
    back = ndimage.distance_transform_edt(~first, sampling=SPACING)[second]
    both = np.concatenate([there, back])
    common = (found & wanted).sum()
    return Agreement(
        2 * common / (found.sum() + wanted.sum()),
        common / (found | wanted).sum(),
        max(np.percentile(there, 95), np.percentile(back, 95)),
        both.mean(),
        (both <= tolerance).mean(),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_agreement_is_that_of_distance_maps(seed: int) -> None:
    found, wanted = blob(seed), blob(seed) ^ (blob(seed + 10) & blob(seed + 20))
    ours = agreement(found, wanted, SPACING, tolerance=2.0)
    theirs = by_distance_maps(found, wanted, 2.0)
    assert ours is not None
    for name in ("dice", "iou", "hd95", "asd", "nsd"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-5), name
    assert 0 < ours.dice < 1


def test_a_box_moved_by_one_voxel_along_an_axis_of_two_millimetres() -> None:
    result = agreement(box((2, 6), (2, 6), (2, 6)), box((3, 7), (2, 6), (2, 6)), SPACING)
    assert result is not None
    assert result.dice == pytest.approx(2 * 48 / 128)
    assert result.iou == pytest.approx(48 / 80)
    assert result.hd95 == pytest.approx(2.0)
    assert result.nsd == pytest.approx(1.0)
    strict = agreement(box((2, 6), (2, 6), (2, 6)), box((3, 7), (2, 6), (2, 6)), SPACING, tolerance=0.5)
    assert strict is not None
    assert strict.nsd < 1


def test_equal_masks_agree_and_far_ones_do_not() -> None:
    mask = box((2, 6), (2, 6), (2, 6))
    assert agreement(mask, mask, SPACING) == Agreement(1, 1, 0, 0, 1)
    apart = agreement(mask, box((10, 13), (2, 6), (2, 6)), SPACING)
    assert apart is not None
    assert (apart.dice, apart.iou, apart.nsd) == (0, 0, 0)
    assert apart.hd95 > 8


def test_masks_that_fill_the_grid_have_its_border_as_surface() -> None:
    full = np.ones((6, 6, 6), bool)
    assert agreement(full, full, SPACING) == Agreement(1, 1, 0, 0, 1)


def test_two_empty_masks_are_no_evidence_and_one_is_the_worst_there_is() -> None:
    empty, mask = box((0, 0), (0, 0), (0, 0)), box((2, 6), (2, 6), (2, 6))
    diagonal = float(np.linalg.norm([14 * 2, 13, 12 * 3]))
    worst = Agreement(0, 0, pytest.approx(diagonal), pytest.approx(diagonal), 0)
    assert agreement(empty, empty, SPACING) is None
    assert agreement(mask, empty, SPACING) == worst
    assert agreement(empty, mask, SPACING) == worst


def test_labels_are_compared_one_by_one() -> None:
    found, wanted = np.zeros((2, 14, 13, 12), np.uint16)
    found[box((2, 6), (2, 6), (2, 6))] = 3
    wanted[box((2, 6), (2, 6), (2, 6))] = 3
    wanted[box((8, 9), (2, 6), (2, 6))] = 9
    results = agreements(found, wanted, SPACING)
    assert set(results) == {3, 9}
    assert (results[3].dice, results[9].dice) == (1, 0)
    assert agreements(np.zeros_like(found), np.zeros_like(found), SPACING) == {}


def test_grids_must_have_one_shape() -> None:
    with pytest.raises(RequestError, match="one shape"):
        agreement(np.ones((3, 3, 3), bool), np.ones((3, 3, 4), bool), SPACING)
    with pytest.raises(RequestError, match="one shape"):
        agreements(np.ones((3, 3, 3), np.uint16), np.ones((3, 3, 4), np.uint16), SPACING)
