"""Fréchet and kernel distances: beside matrix roots, closed forms and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import linalg

from ctfast.errors import RequestError
from ctfast.evaluate.bootstrap import interval_of_mean, normal_interval, percentiles, resampled
from ctfast.evaluate.frechet import (
    Moments,
    frechet_distance,
    kernel_distance,
    kernel_sums,
    pooled,
    thinned,
)


def features(seed: int, rows: int, width: int = 6, shift: float = 0.0) -> Any:
    random = np.random.default_rng(seed)
    return random.normal(shift, 1, (rows, width)) @ random.normal(0, 1, (width, width)) + shift


def test_the_distance_is_that_of_a_matrix_square_root() -> None:
    """As MONAI and others compute it; not by MONAI's own, which scipy 1.18 ends."""
    first, second = features(1, 60), features(2, 45, shift=0.5)
    covariances = np.cov(first.T), np.cov(second.T)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    step = first.mean(0) - second.mean(0)
    wanted = step @ step + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(Moments.of(first), Moments.of(second)) == pytest.approx(wanted, rel=1e-9)


def test_the_distance_of_known_gaussians() -> None:
    """For commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    first = Moments(11, np.array([0.0, 1.0]), np.diag([4.0, 9.0]) * 10)
    second = Moments(21, np.array([3.0, 1.0]), np.diag([1.0, 25.0]) * 20)
    assert frechet_distance(first, second) == pytest.approx(9 + 1 + 4)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_samples_than_features() -> None:
    few = features(3, 4, width=12)
    scale = float(np.trace(Moments.of(few).covariance))
    assert frechet_distance(Moments.of(few), Moments.of(few)) < 1e-6 * scale
    apart = frechet_distance(Moments.of(few), Moments.of(few + 100))
    assert apart == pytest.approx(12 * 100**2, rel=1e-6)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(RequestError, match="at least 2 slices or volumes, found 1"):
        frechet_distance(Moments.of(features(1, 1)), Moments.of(features(2, 5)))


def test_moments_of_parts_are_those_of_the_whole() -> None:
    parts = [features(seed, rows) for seed, rows in ((1, 7), (2, 1), (3, 12))]
    found = pooled(Moments.of(part) for part in parts)
    whole = np.concatenate(parts)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(whole.T), rtol=1e-10)


def test_weights_count_parts_again() -> None:
    parts = [features(seed, 5) for seed in (1, 2, 3)]
    found = pooled((Moments.of(part) for part in parts), [2, 0, 1])
    np.testing.assert_allclose(found.covariance, np.cov(np.concatenate([parts[0], parts[0], parts[2]]).T), rtol=1e-10)
    with pytest.raises(RequestError, match="at least one volume"):
        pooled([Moments.of(parts[0])], [0])


def slow_kernel_distance(first: Any, second: Any) -> float:
    def kernel(x: Any, y: Any) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def mean(rows: Any, columns: Any, same: bool) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(columns) if not (same and i == j)]
        return sum(pairs) / len(pairs)

    return mean(first, first, True) + mean(second, second, True) - 2 * mean(first, second, False)


def kid(first: Any, second: Any, weights: Any = None) -> float:
    return kernel_distance((kernel_sums(first), kernel_sums(second)), kernel_sums(first, second), weights)


def test_the_kernel_distance_is_that_of_plain_loops() -> None:
    first, second = [features(1, 4), features(2, 3)], [features(3, 5, shift=0.3), features(4, 2)]
    wanted = slow_kernel_distance(np.concatenate(first), np.concatenate(second))
    assert kid(first, second) == pytest.approx(wanted, rel=1e-10)


def test_the_kernel_distance_without_some_volumes_is_that_of_the_others() -> None:
    first, second = [features(1, 4), features(2, 3), features(5, 6)], [features(3, 5), features(4, 2)]
    weights = (np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0]))
    assert kid(first, second, weights) == pytest.approx(kid([first[0], first[2]], [second[1]]), rel=1e-10)


def test_the_kernel_distance_is_unbiased() -> None:
    """Over many pairs of sets of one distribution it is 0 on average, and often negative."""
    found = [kid([features_of_one(2 * n)], [features_of_one(2 * n + 1)]) for n in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def features_of_one(seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, (12, 3))


def test_slices_are_thinned_evenly() -> None:
    parts = thinned([np.arange(10.0)[:, None], np.arange(3.0)[:, None]], volumes=2, rows=10)
    assert [list(part[:, 0]) for part in parts] == [[0, 2, 4, 6, 9], [0, 1, 2]]


def test_draws_are_those_of_the_seed_and_as_many_as_there_are_volumes() -> None:
    first, again, other = (list(resampled(9, 5, seed)) for seed in (1, 1, 2))
    assert all(weights.sum() == 9 for weights in first)
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert any((one != two).any() for one, two in zip(first, other, strict=True))


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = list(np.random.default_rng(3).normal(5, 2, 400))
    low, high = interval_of_mean(values, 500, 0)
    assert low is not None
    assert high is not None
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / 20, rel=0.15)
    assert low < np.mean(values) < high


def test_one_value_or_an_infinite_one_has_no_interval() -> None:
    assert interval_of_mean([3.0], 100, 0) == (None, None)
    assert interval_of_mean([3.0, float("inf")], 100, 0) == (None, None)
    assert percentiles([1.0, float("nan")]) == (None, None)
    assert normal_interval(1.0, []) == (None, None)


def test_a_distance_is_not_said_to_be_less_than_it_can_be() -> None:
    low, high = normal_interval(1.0, [0.0, 4.0], floor=0.0)
    assert (low, high) == (0.0, pytest.approx(1 + 1.959964 * np.sqrt(8)))
