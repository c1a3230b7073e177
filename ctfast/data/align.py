"""Finding where a template lies in a scan, by normalised cross-correlation: one landmark for every patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve

from ctfast.data.grid import AIR, Volume, crop

# Bone and soft tissue carry the landmark; the tail above (teeth, implants) would outweigh them.
HIGH = 500.0


@dataclass(frozen=True)
class Match:
    """Where the template's first voxel lies in the scan (may be negative), and how well it fits there (-1 to 1)."""

    start: tuple[int, int, int]
    score: float
    coverage: float


def _normal(hu: Volume) -> Volume:
    return (np.clip(hu, AIR, HIGH) - AIR) / np.float32(HIGH - AIR)


def _halve(array: Volume) -> Volume:
    even = array[tuple(slice(0, n - n % 2) for n in array.shape)]
    a, b, c = (n // 2 for n in even.shape)
    out: Volume = even.reshape(a, 2, b, 2, c, 2).mean((1, 3, 5), dtype=np.float32)
    return out


def _correlation(scan: Volume, template: Volume, margin: Sequence[int]) -> npt.NDArray[np.float64]:
    """Normalised cross-correlation over all placements of the template whose overhang is at most ``margin``.

    Only voxels inside the scan count (masked correlation, Padfield 2012), so a scan that ends early can match.
    """
    inside = np.pad(np.ones_like(scan), [(m, m) for m in margin])
    padded = np.pad(scan, [(m, m) for m in margin])
    flip = template[::-1, ::-1, ::-1].astype(np.float64)
    one = np.ones_like(flip)

    def valid(a: npt.NDArray[np.float32], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        out: npt.NDArray[np.float64] = fftconvolve(a.astype(np.float64), b, mode="valid")
        return out

    n = np.maximum(valid(inside, one), 1.0)
    s, t = valid(padded, one), valid(inside, flip)
    cross = valid(padded, flip) - s * t / n
    spread = (valid(padded**2, one) - s**2 / n) * (valid(inside, flip**2) - t**2 / n)
    score = cross / np.sqrt(np.maximum(spread, 1e-12 * n))
    # Less than half of the template inside the scan is no evidence.
    return np.where(n >= 0.5 * one.size, score, -1.0)


def locate(scan: Volume, template: Volume) -> Match:
    """Best placement of ``template`` (HU) in ``scan`` (HU, same spacing): coarse by FFT, then voxel by voxel."""
    coarse = _halve(_normal(template))
    small = _halve(_normal(scan))
    margin = [max(0, -(-(t - s) // 2)) + t // 3 for s, t in zip(small.shape, coarse.shape, strict=True)]
    scores = _correlation(small, coarse, margin)
    peak = np.unravel_index(int(np.argmax(scores)), scores.shape)
    start = [2 * (int(p) - m) for p, m in zip(peak, margin, strict=True)]

    wanted = _normal(template)
    present = np.ones(scan.shape, np.float32)

    def fit(at: Sequence[int]) -> tuple[float, float]:
        inside = crop(present, at, template.shape, 0.0).astype(bool)
        if not inside.any():
            return -1.0, 0.0
        a = _normal(np.asarray(crop(scan, at, template.shape, AIR), np.float32))[inside]
        return float(np.corrcoef(a, wanted[inside])[0, 1]), float(inside.mean())

    best = max(
        (tuple(s + d for s, d in zip(start, shift, strict=True)) for shift in product((-2, -1, 0, 1, 2), repeat=3)),
        key=lambda at: fit(at)[0],
    )
    score, coverage = fit(best)
    return Match((best[0], best[1], best[2]), score, coverage)
