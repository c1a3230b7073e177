"""How alike the volumes of a set are: multi-scale structural similarity over pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .bootstrap import NONE, Interval, percentiles, resampled

# Of the original's five scales, the finest first (Wang, Simoncelli and Bovik 2003).
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
KERNEL = 11
Pair = tuple[int, int]


def scales_for(size: Sequence[int]) -> int:
    """How many of the five scales a volume is large enough for; 0 if not even for one.

    The window must fit into the smallest scale, each half as large as the one before; MONAI also asks for the square of
    the number of halvings, which is more with four scales.
    """
    smallest = min(size)
    for scales in range(len(WEIGHTS), 0, -1):
        if min(smallest >> (scales - 1), smallest // max(1, scales - 1) ** 2) >= KERNEL:
            return scales
    return 0


def ms_ssim(first: Any, second: Any, scales: int = len(WEIGHTS)) -> float:
    """MS-SSIM of two tensors (1, 1, x, y, z) in [0, 1]: MONAI's, window of 11 voxels, sigma 1.5.

    With fewer than five scales the weights of the finest ones are stretched to the sum of all. RequestError: volumes
    of different shapes, or too small.
    """
    from monai.metrics import MultiScaleSSIMMetric

    if first.shape != second.shape:
        raise RequestError(
            f"MS-SSIM: expected volumes of one size, found {tuple(first.shape[2:])} and {tuple(second.shape[2:])}"
        )
    if not 1 <= scales <= scales_for(first.shape[2:]):
        raise RequestError(f"MS-SSIM: volumes of {tuple(first.shape[2:])} are too small for {scales} scales")
    kept = WEIGHTS[:scales]
    weights = [weight * sum(WEIGHTS) / sum(kept) for weight in kept]
    metric: Any = MultiScaleSSIMMetric(spatial_dims=3, data_range=1.0, kernel_size=KERNEL, weights=weights)
    return float(metric(first, second).mean())


def chosen_pairs(count: int, limit: int, seed: int) -> list[Pair]:
    """All pairs of ``count`` volumes, or ``limit`` of them drawn by ``seed``, in order."""
    pairs = list(combinations(range(count), 2)) if count * (count - 1) // 2 <= limit else None
    if pairs is not None:
        return pairs
    random = np.random.default_rng(seed)
    drawn: set[Pair] = set()
    while len(drawn) < limit:
        first, second = sorted(int(index) for index in random.integers(count, size=2))
        if first != second:
            drawn.add((first, second))
    return sorted(drawn)


def over_pairs(
    pairs: Sequence[Pair], load: Callable[[int], Any], scales: int, done: Callable[[], object]
) -> list[float]:
    """MS-SSIM of each pair; ``load`` gives a volume by number, two of which are in memory at a time."""
    values = []
    for first, group in groupby(pairs, key=lambda pair: pair[0]):
        left = load(first)
        for _, second in group:
            values.append(ms_ssim(left, load(second), scales))
            done()
    return values


def interval(pairs: Sequence[Pair], values: Sequence[float], replicates: int, seed: int) -> Interval:
    """The interval of the mean over pairs, volumes being what is drawn."""
    if len(pairs) < 2 or replicates < 2:
        return NONE
    each: NDArray[np.float64] = np.asarray(values)
    first, second = np.asarray(pairs).T
    found = []
    for weights in resampled(int(max(first.max(), second.max())) + 1, replicates, seed):
        of_pairs = weights[first] * weights[second]
        found.append(float(of_pairs @ each / of_pairs.sum()) if of_pairs.any() else float("nan"))
    return percentiles(found)
