"""PSNR, SSIM and MS-SSIM: worked examples and implementations with scipy's filters."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from support import tiny_plan, tiny_sets

import ctfast
from ctfast.errors import RequestError
from ctfast.evaluate import diversity
from ctfast.evaluate.reconstruction import psnr, round_trip, ssim, unit_range
from ctfast.evaluate.volumes import find_set


def scene(seed: int, size: tuple[int, int, int]) -> Any:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 1.5)
    return (noise * 2500).astype(np.float32)


def similarity(first: Any, second: Any) -> tuple[float, float]:
    """SSIM and its contrast part on [0, 1], over voxels whose window is inside; the window by scipy."""

    def blur(image: Any) -> Any:
        return ndimage.gaussian_filter(image, 1.5, truncate=5 / 1.5)[(slice(5, -5),) * 3]

    mean, other = blur(first), blur(second)
    variance, other_variance = blur(first**2) - mean**2, blur(second**2) - other**2
    covariance = blur(first * second) - mean * other
    contrast = (2 * covariance + 0.03**2) / (variance + other_variance + 0.03**2)
    light = (2 * mean * other + 0.01**2) / (mean**2 + other**2 + 0.01**2)
    return float((light * contrast).mean()), float(contrast.mean())


def unit(hu: Any) -> Any:
    return (np.clip(hu, -1000, 1000).astype(np.float64) + 1000) / 2000


def test_psnr_by_hand() -> None:
    wanted = np.zeros((3, 3, 3), np.float32)
    assert psnr(wanted + 20, wanted) == pytest.approx(20 * np.log10(2000 / 20))
    assert psnr(wanted, wanted) == float("inf")
    half = np.zeros((3, 3, 3), bool)
    half[0] = True
    found = wanted.copy()
    found[0] += 200
    assert psnr(found, wanted, half) == pytest.approx(20)
    # What is beyond the range is no error.
    assert psnr(wanted + 3000, wanted + 1500) == float("inf")
    with pytest.raises(RequestError, match="voxels inside the body"):
        psnr(wanted, wanted, half & ~half)


def test_ssim_is_that_of_scipys_filters() -> None:
    first, second = scene(1, (16, 15, 14)), scene(2, (16, 15, 14))
    assert ssim(first, second) == pytest.approx(similarity(unit(first), unit(second))[0], abs=2e-4)
    assert ssim(first, first) == pytest.approx(1, abs=1e-6)
    with pytest.raises(RequestError, match="at least 11 voxels"):
        ssim(first[:8], second[:8])
    with pytest.raises(RequestError, match="one shape"):
        ssim(first, second[:-1])


def test_ms_ssim_is_that_of_scipys_filters() -> None:
    first = scene(1, (44, 48, 46))
    second = first + 0.6 * scene(2, (44, 48, 46))
    kept = np.array(diversity.WEIGHTS[:3])
    weights = kept * sum(diversity.WEIGHTS) / kept.sum()
    images, wanted = [unit(first), unit(second)], 1.0
    for scale, weight in enumerate(weights):
        both, contrast = similarity(*images)
        wanted *= (both if scale == 2 else contrast) ** weight
        cut = [image[tuple(slice(side // 2 * 2) for side in image.shape)] for image in images]
        images = [image.reshape(*(n for side in image.shape for n in (side // 2, 2))).mean((1, 3, 5)) for image in cut]
    assert 0.1 < wanted < 0.99
    assert diversity.ms_ssim(unit_range(first), unit_range(second), 3) == pytest.approx(wanted, abs=1e-3)
    assert diversity.ms_ssim(unit_range(first), unit_range(first), 3) == pytest.approx(1, abs=1e-6)


def test_small_volumes_have_fewer_scales() -> None:
    smallest = {5: 176, 4: 99, 3: 44, 2: 22, 1: 11}
    for scales, side in smallest.items():
        assert diversity.scales_for((200, side, 200)) == scales
        assert diversity.scales_for((200, 200, side - 1)) == scales - 1
    for scales in (1, 2, 3):  # larger ones take long
        image = unit_range(scene(1, (smallest[scales],) * 3))
        assert diversity.ms_ssim(image, image, scales) == pytest.approx(1, abs=1e-6)
    with pytest.raises(RequestError, match="too small"):
        diversity.ms_ssim(unit_range(scene(1, (20, 20, 20))), unit_range(scene(2, (20, 20, 20))), 5)
    with pytest.raises(RequestError, match="one size"):
        diversity.ms_ssim(unit_range(scene(1, (20, 20, 20))), unit_range(scene(2, (20, 20, 22))), 1)


def test_pairs_are_all_or_as_many_as_allowed() -> None:
    assert diversity.chosen_pairs(4, 6, 0) == list(combinations(range(4), 2))
    some = diversity.chosen_pairs(40, 30, 1)
    assert len(set(some)) == 30
    assert all(0 <= first < second < 40 for first, second in some)
    assert some == diversity.chosen_pairs(40, 30, 1) != diversity.chosen_pairs(40, 30, 2)
    assert diversity.chosen_pairs(1, 30, 1) == []


def test_the_interval_over_pairs_holds_their_mean() -> None:
    pairs = diversity.chosen_pairs(12, 66, 0)
    values = list(np.random.default_rng(1).normal(0.8, 0.05, len(pairs)))
    low, high = diversity.interval(pairs, values, 100, 0)
    assert low is not None
    assert high is not None
    assert low < np.mean(values) < high
    assert diversity.interval(pairs[:1], values[:1], 100, 0) == (None, None)


def test_a_plans_round_trip_is_encode_and_decode(tmp_path: Path) -> None:
    tiny_sets.write(tmp_path / "set", [1], size=tiny_plan.SIZE)
    engine = ctfast.load(tiny_plan.write(tmp_path / "tiny.plan"), threads=1)
    (item,) = find_set(tmp_path / "set").items
    scan, back = round_trip(item, engine)
    volume = ctfast.Volume.load(item.image)
    again = ctfast.decode(ctfast.encode(volume, engine=engine), affine=volume.affine, engine=engine)
    np.testing.assert_array_equal(back, again.array)
    np.testing.assert_array_equal(scan.hu, volume.array)
