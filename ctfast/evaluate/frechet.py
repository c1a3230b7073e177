"""Distances between two sets of features: Fréchet's of Gaussians fitted to them, and the kernel distance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

Matrix = NDArray[np.float64]
# Kernels between this many rows of each set fit into 128 MiB.
KERNEL_ROWS = 4000


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (d,) and scatter (d, d), the sum of squared deviations, of ``count`` features (which may be weighted)."""

    count: float
    mean: Matrix
    scatter: Matrix

    @classmethod
    def of(cls, features: Matrix) -> Moments:
        """Of features (n, d)."""
        mean = features.mean(0)
        centred = features - mean
        return cls(float(len(features)), mean, centred.T @ centred)

    @property
    def covariance(self) -> Matrix:
        """The unbiased covariance. RequestError for fewer than two features."""
        if self.count < 2:
            raise RequestError(f"expected features of at least 2 slices or volumes, found {self.count:g}")
        return self.scatter / (self.count - 1)


def pooled(parts: Iterable[Moments], weights: Iterable[float] | None = None) -> Moments:
    """The moments of all parts together, each counted ``weights`` times; one part at a time in memory.

    RequestError if nothing is left.
    """
    total: Moments | None = None
    for part, weight in zip(parts, _ones() if weights is None else weights, strict=False):
        if weight == 0:
            continue
        count, scatter = weight * part.count, weight * part.scatter
        if total is None:
            total = Moments(count, part.mean, scatter)
            continue
        both = total.count + count
        step = part.mean - total.mean
        # Chan, Golub, LeVeque 1983: what two means apart add to the scatter of the whole.
        scatter = total.scatter + scatter + np.outer(step, step) * (total.count * count / both)
        total = Moments(both, total.mean + step * (count / both), scatter)
    if total is None:
        raise RequestError("expected features of at least one volume, found none")
    return total


def _ones() -> Iterator[float]:
    while True:
        yield 1.0


def frechet_distance(first: Moments, second: Moments) -> float:
    """Fréchet distance of two Gaussians (Dowson and Landau 1982), squared as papers give it.

    The trace of the root of a product of covariances is taken through the eigenvalues of a symmetric matrix, which
    stays real where covariances are singular, that is with fewer features than their dimensions.
    """
    covariance = first.covariance
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ second.covariance @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    step = first.mean - second.mean
    distance = step @ step + np.trace(covariance) + np.trace(second.covariance) - 2 * shared
    return max(float(distance), 0.0)


@dataclass(frozen=True, eq=False)
class KernelSums:
    """Sums of a kernel over pairs of slices, per pair of volumes, and how many pairs of slices those are."""

    sums: Matrix
    pairs: Matrix


def thinned(features: Iterable[Matrix], volumes: int, rows: int = KERNEL_ROWS) -> list[Matrix]:
    """Evenly spaced slices of each volume, so that all together are about ``rows``."""
    share = max(1, rows // max(volumes, 1))
    return [part[np.unique(np.linspace(0, len(part) - 1, min(share, len(part))).astype(int))] for part in features]


def kernel_sums(first: Sequence[Matrix], second: Sequence[Matrix] | None = None) -> KernelSums:
    """Sums of KID's kernel (x·y / d + 1)^3 between volumes.

    Without ``second`` they are those within ``first``, where no slice is paired with itself.
    """
    rows, columns = np.concatenate(first), np.concatenate(first if second is None else second)
    kernel = (rows @ columns.T / rows.shape[1] + 1) ** 3
    counts = np.array([len(part) for part in first], np.float64)
    others = counts if second is None else np.array([len(part) for part in second], np.float64)
    pairs = np.outer(counts, others)
    if second is None:
        np.fill_diagonal(kernel, 0)
        pairs -= np.diag(counts)
    starts = [np.concatenate([[0], np.cumsum(each)[:-1]]).astype(int) for each in (counts, others)]
    sums = np.add.reduceat(np.add.reduceat(kernel, starts[0], axis=0), starts[1], axis=1)
    return KernelSums(sums, pairs)


def kernel_distance(
    within: tuple[KernelSums, KernelSums],
    between: KernelSums,
    weights: tuple[Matrix, Matrix] | None = None,
) -> float:
    """KID (Bińkowski et al. 2018), the unbiased squared maximum mean discrepancy; it may be slightly negative.

    ``weights``: how often each volume of the two sets counts. Copies of one volume make no pairs with one another,
    which would be pairs of the same slices.
    """
    first, second = weights or (np.ones(len(between.sums)), np.ones(between.sums.shape[1]))
    inner = [_mean(sums, _pair_weights(each)) for sums, each in zip(within, (first, second), strict=True)]
    return inner[0] + inner[1] - 2 * _mean(between, np.outer(first, second))


def _pair_weights(weights: Matrix) -> Matrix:
    pairs = np.outer(weights, weights)
    np.fill_diagonal(pairs, weights)
    return pairs


def _mean(kernel: KernelSums, weights: Matrix) -> float:
    pairs = float((weights * kernel.pairs).sum())
    return float((weights * kernel.sums).sum() / pairs) if pairs > 0 else float("nan")
