"""Thirty plain figures of a CT, and how far two sets are apart in them: a distance that needs no network.

It tells gross faults (wrong HU, blobs, blur, lack of variety) from realism and does not replace features, a reader's
eye or a downstream task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

HU = NDArray[np.float32]
Table = NDArray[np.float64]

_LOW, _HIGH = -1000.0, 1500.0
# Denser than this is the body.
BODY_HU = -900.0
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_TISSUES = {"lung": (-900, -400), "fat": (-150, -30), "soft": (0, 90), "bone": (200, 2000)}
# A slice shows the body if more than this of it does.
_SHOWN = 0.005
# Cycles per voxel.
_BANDS = ((0.05, 0.12), (0.12, 0.25), (0.25, 0.5))
# Every so many voxels enter the correlation of left and right.
_STRIDE = 7
# Standardised descriptors are kept within this many standard deviations.
_LIMIT = 20.0


def describe(hu: HU, spacing: Sequence[float]) -> dict[str, float]:
    """The descriptors of a volume (x, y, z) in HU, RAS+, ``spacing`` in mm: intensities inside the body, tissues,
    extent and shape, change from slice to slice along each axis, symmetry, and power in three bands of frequency.
    """
    hu = np.clip(hu, _LOW, _HIGH)
    body = hu > BODY_HU
    inside = hu[body] if body.any() else np.array([_LOW], np.float32)
    found = {"body_litres": max(int(body.sum()), 1) * float(np.prod(spacing)) / 1e6}
    for percent in _PERCENTILES:
        found[f"hu_p{percent}"] = float(np.percentile(inside, percent))
    for tissue, (low, high) in _TISSUES.items():
        found[f"frac_{tissue}"] = float(((inside >= low) & (inside < high)).mean())
    for axis, name in enumerate("xyz"):
        found.update(_along(hu, body, axis, name, float(spacing[axis])))
    found["mirror_corr"] = _symmetry(hu, body)
    found.update(_power(hu))
    return found


def _along(hu: HU, body: NDArray[np.bool_], axis: int, name: str, step: float) -> dict[str, float]:
    """Extent, variation of the cross-section, and mean first and second difference of slices along an axis."""
    profile = body.mean(axis=tuple(other for other in range(3) if other != axis))
    shown = np.nonzero(profile > _SHOWN)[0]
    slices, within = np.moveaxis(hu, axis, 0), np.moveaxis(body, axis, 0)
    jump = np.abs(np.diff(slices, axis=0))[within[1:]]
    curve = np.abs(slices[2:] - 2 * slices[1:-1] + slices[:-2])[within[1:-1]]
    return {
        f"extent_{name}_mm": float((shown[-1] - shown[0] + 1) * step) if len(shown) else 0.0,
        f"profile_sd_{name}": float(profile[shown].std()) if len(shown) else 0.0,
        f"slice_jump_{name}": float(jump.mean()) if len(jump) else 0.0,
        f"slice_curve_{name}": float(curve.mean()) if len(curve) else 0.0,
    }


def _symmetry(hu: HU, body: NDArray[np.bool_]) -> float:
    """Correlation of the body's left-right extent with its mirror image."""
    shown = np.nonzero(body.any((1, 2)))[0]
    if len(shown) <= 2:
        return 0.0
    cut = hu[shown[0] : shown[-1] + 1]
    values, mirrored = cut.ravel()[::_STRIDE], cut[::-1].ravel()[::_STRIDE]
    if values.std() == 0 or mirrored.std() == 0:
        return 0.0
    return float(np.corrcoef(values, mirrored)[0, 1])


def _power(hu: HU) -> dict[str, float]:
    """Logarithm of the share of the spectrum's power in each band."""
    power = np.abs(np.fft.rfftn(hu - hu.mean())) ** 2
    axes = [np.fft.fftfreq(count) ** 2 for count in hu.shape[:2]] + [np.fft.rfftfreq(hu.shape[2]) ** 2]
    frequency = np.sqrt(reduce(np.add, np.meshgrid(*axes, indexing="ij", sparse=True)))
    total = power.sum() + 1e-9
    shares = {(low, high): power[(frequency >= low) & (frequency < high)].sum() / total for low, high in _BANDS}
    return {f"log_power_{low}_{high}": float(np.log10(share + 1e-9)) for (low, high), share in shares.items()}


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances between volumes in standardised descriptors: within each set and between them."""

    generated: Table
    reference: Table
    between: Table

    def energy(self, weights: tuple[Table, Table] | None = None) -> float:
        """Székely's energy distance, about 0 for sets of one distribution; ``weights``: how often volumes count.

        A set of one volume has no distance within itself.
        """
        first, second = weights or (np.ones(len(self.generated)), np.ones(len(self.reference)))
        between = float(first @ self.between @ second / (first.sum() * second.sum()))
        return 2 * between - _within(self.generated, first) - _within(self.reference, second)

    def within_reference(self, parts: tuple[Table, Table]) -> float:
        """The energy distance of two parts of the reference set, given by their weights."""
        return Distances(self.reference, self.reference, self.reference).energy(parts)


def _within(distances: Table, weights: Table) -> float:
    """The mean distance of two different volumes."""
    pairs = np.outer(weights, weights)
    np.fill_diagonal(pairs, 0)
    total = pairs.sum()
    return float((pairs * distances).sum() / total) if total > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two tables of descriptors, standardised by the reference set.

    ``spread`` is the median over descriptors of the generated set's standard deviation over the reference's;
    ``gaps`` tells per descriptor the mean of either set and how many standard deviations they are apart. ``generated``
    and ``reference`` are how far each volume is from the reference's mean: RMS over descriptors, in deviations.
    """

    distances: Distances
    spread: float
    gaps: dict[str, dict[str, float]]
    generated: Table
    reference: Table


def compare(generated: Sequence[dict[str, float]], reference: Sequence[dict[str, float]]) -> Comparison:
    """Compare what ``describe`` gave for two sets; neither may be empty."""
    names = list(reference[0])
    real, made = (np.array([[row[name] for name in names] for row in rows]) for rows in (reference, generated))
    mean, spread = real.mean(0), real.std(0) + 1e-6
    # Divided by the root of their number, so that distances do not grow with it.
    first, second = (np.clip((table - mean) / spread, -_LIMIT, _LIMIT) / np.sqrt(len(names)) for table in (made, real))
    gap = np.abs(first.mean(0)) * np.sqrt(len(names))
    gaps = {
        names[index]: {"generated": float(made[:, index].mean()), "real": float(mean[index]), "z": float(gap[index])}
        for index in np.argsort(-gap)
    }
    distances = Distances(_distances(first, first), _distances(second, second), _distances(first, second))
    away = (np.linalg.norm(each, axis=1) for each in (first, second))
    return Comparison(distances, float(np.median((made.std(0) + 1e-6) / spread)), gaps, *away)


def _distances(first: Table, second: Table) -> Table:
    """Euclidean distances (n, m), one row at a time: n x m x descriptors would be large for large sets."""
    return np.stack([np.sqrt(np.square(row - second).sum(-1)) for row in first])
