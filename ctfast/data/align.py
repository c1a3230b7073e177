"""Finding where a template lies in a scan, by normalised cross-correlation: one landmark for every patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve

from ctfast.data.grid import AIR, Volume

# Bone and soft tissue carry the landmark; the tail above (teeth, implants) would outweigh them.
HIGH = 500.0
# The whole scan is searched at a quarter of the resolution; so many of the best places there are looked at closer.
CANDIDATES = 3
# Less of the template than this inside the scan is no evidence.
EVIDENCE = 0.5

Placement = tuple[int, int, int]


@dataclass(frozen=True)
class Match:
    """Where the template's first voxel lies in the scan (may be negative), and how well it fits there (-1 to 1)."""

    start: Placement
    score: float
    coverage: float


def locate(scan: Volume, template: Volume) -> Match:
    """Best placement of ``template`` (HU) in ``scan`` (HU, same spacing).

    By FFT over all placements at a quarter of the resolution, then uphill from the best ones at half and at full
    resolution.
    """
    fine = _Pair(_normal(scan), _normal(template))
    middle = fine.halved()
    coarse = middle.halved()
    found = [middle.climb(_doubled(at)) for at in coarse.candidates()]
    best = fine.climb(_doubled(max(found, key=middle.fit)))
    return Match(best, fine.fit(best), fine.coverage(best))


class _Pair:
    """Scan and template at one resolution, and how well they fit at a placement."""

    def __init__(self, scan: Volume, template: Volume) -> None:
        self.scan, self.template = scan, template

    def halved(self) -> _Pair:
        """Both at half the resolution."""
        return _Pair(_halve(self.scan), _halve(self.template))

    def fit(self, at: Placement) -> float:
        """Normalised correlation over the part of the template that lies inside the scan; -1 if that is too little."""
        if self.coverage(at) < EVIDENCE:
            return -1.0
        inside = self._overlap(at)
        a = self.scan[tuple(slice(low, high) for low, high in inside)].ravel()
        b = self.template[tuple(slice(low - f, high - f) for (low, high), f in zip(inside, at, strict=True))].ravel()
        a, b = (np.subtract(v, v.mean(dtype=np.float64), dtype=np.float64) for v in (a, b))
        spread = float(a @ a) * float(b @ b)
        return float(a @ b) / spread**0.5 if spread > 0 else -1.0

    def coverage(self, at: Placement) -> float:
        """The fraction of the template that lies inside the scan."""
        inside = float(np.prod([max(high - low, 0) for low, high in self._overlap(at)]))
        return inside / self.template.size

    def climb(self, at: Placement) -> Placement:
        """Uphill from ``at`` to a placement that fits better than its 26 neighbours."""
        known = {at: self.fit(at)}
        while True:
            around = [_moved(at, by) for by in product((-1, 0, 1), repeat=3)]
            known |= {place: self.fit(place) for place in around if place not in known}
            best = max(around, key=known.__getitem__)
            if known[best] <= known[at]:
                return at
            at = best

    def candidates(self) -> list[Placement]:
        """The best placements of all, best first, no two of them neighbours."""
        margin = [max(0, -(-(t - s) // 2)) + t // 3 for s, t in zip(self.scan.shape, self.template.shape, strict=True)]
        scores = _correlation(self.scan, self.template, margin)
        places: list[Placement] = []
        for _ in range(CANDIDATES):
            x, y, z = (int(i) for i in np.unravel_index(int(np.argmax(scores)), scores.shape))
            places.append((x - margin[0], y - margin[1], z - margin[2]))
            scores[tuple(slice(max(i - 2, 0), i + 3) for i in (x, y, z))] = -1.0
        return places

    def _overlap(self, at: Placement) -> list[tuple[int, int]]:
        """First and last-but-one voxel of the scan under the template, per axis."""
        sizes = zip(at, self.template.shape, self.scan.shape, strict=True)
        return [(max(first, 0), min(first + wanted, extent)) for first, wanted, extent in sizes]


def _normal(hu: Volume) -> Volume:
    out: Volume = (np.clip(hu, AIR, HIGH) - AIR) / np.float32(HIGH - AIR)
    return out


def _halve(array: Volume) -> Volume:
    even = array[tuple(slice(0, n - n % 2) for n in array.shape)]
    a, b, c = (n // 2 for n in even.shape)
    out: Volume = even.reshape(a, 2, b, 2, c, 2).mean((1, 3, 5), dtype=np.float32)
    return out


def _doubled(at: Placement) -> Placement:
    return (2 * at[0], 2 * at[1], 2 * at[2])


def _moved(at: Placement, by: Sequence[int]) -> Placement:
    return (at[0] + by[0], at[1] + by[1], at[2] + by[2])


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
    return np.where(n >= EVIDENCE * one.size, score, -1.0)
