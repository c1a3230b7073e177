"""95 % intervals by bootstrap over volumes: slices of one volume are no independent samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float | None, float | None]
NONE: Interval = (None, None)
# Half the width of a normal distribution's 95 % interval, in standard deviations.
_WIDTH = 1.959964


def resampled(count: int, replicates: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each of ``count`` volumes was drawn, ``count`` draws with replacement, ``replicates`` times."""
    random = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(random.integers(count, size=count), minlength=count).astype(np.float64)


def halves(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Weights that split a set at random into two halves; None for fewer than four volumes."""
    if count < 4:
        return None
    first = np.zeros(count)
    first[np.random.default_rng(seed).permutation(count)[: count // 2]] = 1
    return first, 1 - first


def interval_of_mean(values: Sequence[float], replicates: int, seed: int) -> Interval:
    """The percentile interval of a mean of one value per volume; none for fewer than two, or infinite ones."""
    each = np.asarray(values, np.float64)
    if len(each) < 2 or replicates < 2 or not np.isfinite(each).all():
        return NONE
    return percentiles([float(weights @ each / len(each)) for weights in resampled(len(each), replicates, seed)])


def percentiles(found: Sequence[float]) -> Interval:
    """The 2.5 and the 97.5 percentile of replicates' values; none if fewer than two of them are finite."""
    finite = [value for value in found if np.isfinite(value)]
    if len(finite) < 2:
        return NONE
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def normal_interval(value: float, found: Sequence[float], floor: float | None = None) -> Interval:
    """An interval about ``value`` with the spread of replicates' values; ``floor``: the least that it can be.

    For distances between distributions: a replicate has fewer different volumes than the set, so that its distance is
    too large on average and percentiles would lie beside the value.
    """
    finite = [each for each in found if np.isfinite(each)]
    if len(finite) < 2:
        return NONE
    half = _WIDTH * float(np.std(finite, ddof=1))
    return (value - half if floor is None else max(value - half, floor)), value + half
