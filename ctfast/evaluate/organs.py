"""Whether organs have the densities of real ones, and whether an image follows its label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

# Voxels to either side of an organ's surface that are compared.
RIM = 2
# Fewer voxels than this say nothing of an organ.
SMALLEST = 8
# Published bounds of an organ's median are this many standard deviations wide to either side (NV-Generate).
_SIGMAS = 6


@dataclass(frozen=True)
class Organ:
    """Median HU inside a label, and how well HU tell its inner rim from its outer one: 0 not at all, 1 entirely."""

    median: float
    coherence: float | None


def organs_of(hu: NDArray[np.float32], labels: NDArray[np.uint16]) -> dict[int, Organ]:
    """Every label above 0 with SMALLEST voxels or more.

    Coherence is |2 AUC - 1| between the label's voxels within RIM voxels of its surface and those outside it within
    RIM: it falls where an image does not change at the border that its mask has. None where there is nothing outside.
    """
    found = {}
    for index, box in enumerate(ndimage.find_objects(labels)):
        if box is None:
            continue
        wide = tuple(slice(max(part.start - RIM, 0), part.stop + RIM) for part in box)
        inside = labels[wide] == index + 1
        if inside.sum() < SMALLEST:
            continue
        values = hu[wide]
        # Beyond the scan is neither inside nor outside.
        inner = inside & ~ndimage.binary_erosion(inside, iterations=RIM, border_value=1)
        outer = ndimage.binary_dilation(inside, iterations=RIM) & ~inside
        coherence = separation(values[inner], values[outer]) if inner.any() and outer.any() else None
        found[index + 1] = Organ(float(np.median(values[inside])), coherence)
    return found


def separation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """|2 AUC - 1| of two samples: 0 if neither tends to be larger, 1 if they do not overlap."""
    ranks = stats.rankdata(np.concatenate([first, second]))
    wins = ranks[: len(first)].sum() - len(first) * (len(first) + 1) / 2
    return abs(2 * float(wins) / (len(first) * len(second)) - 1)


@dataclass(frozen=True)
class OrganRow:
    """A label in both sets: means of its median HU and how far they are apart, the bounds of real medians, the part of
    generated volumes outside them, and mean coherences.
    """

    generated: float
    reference: float
    gap: float
    low: float
    high: float
    outside: float
    coherence: float | None
    coherence_reference: float | None


@dataclass(frozen=True)
class OrganTable:
    """A row for each label that both sets have."""

    rows: Mapping[int, OrganRow]

    @property
    def gap(self) -> float:
        """Mean over labels of how far the sets' mean medians are apart, in HU; NaN without labels."""
        return float(np.mean([row.gap for row in self.rows.values()])) if self.rows else float("nan")

    def outside(self, volume: Mapping[int, Organ]) -> float | None:
        """Which part of a volume's organs is outside the bounds of real ones; None if it has none of the labels."""
        known = [not row.low <= volume[label].median <= row.high for label, row in self.rows.items() if label in volume]
        return float(np.mean(known)) if known else None


def table_of(generated: Sequence[Mapping[int, Organ]], reference: Sequence[Mapping[int, Organ]]) -> OrganTable:
    """Compare organs of two sets; labels that only one set has are left out."""
    rows = {}
    for label in sorted(set().union(*generated) & set().union(*reference)):
        made, real = ([volume[label] for volume in volumes if label in volume] for volumes in (generated, reference))
        medians = [organ.median for organ in made]
        low, high = bounds([organ.median for organ in real])
        mean, real_mean = float(np.mean(medians)), float(np.mean([organ.median for organ in real]))
        rows[label] = OrganRow(
            generated=mean,
            reference=real_mean,
            gap=abs(mean - real_mean),
            low=low,
            high=high,
            outside=float(np.mean([not low <= median <= high for median in medians])),
            coherence=_mean([organ.coherence for organ in made]),
            coherence_reference=_mean([organ.coherence for organ in real]),
        )
    return OrganTable(rows)


def bounds(medians: Sequence[float]) -> tuple[float, float]:
    """Between which medians an organ passes, the published way: the wider of mean ± 6 standard deviations and the
    0.5th to 99.5th percentile.
    """
    values = np.asarray(medians, np.float64)
    spread = _SIGMAS * float(values.std())
    low, high = np.percentile(values, (0.5, 99.5))
    return min(float(values.mean()) - spread, float(low)), max(float(values.mean()) + spread, float(high))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
