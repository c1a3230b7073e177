"""What the figures of runs say: means over held-out patients with intervals, and paired tests between arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bootstrap import interval_of_mean

REPLICATES = 2000
#: p-values below this, after correction, count as a difference.
LEVEL = 0.05
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no clear difference"


@dataclass(frozen=True)
class Figure:
    """A mean and its 95 % interval, None where there is none; ``value`` is None if there was nothing to average."""

    value: float | None
    low: float | None = None
    high: float | None = None


def mean_with_interval(values: Sequence[float], seed: int = 0) -> Figure:
    """The mean of one value per patient, with the percentile interval of a bootstrap over patients."""
    if not len(values):
        return Figure(None)
    return Figure(float(np.mean(values)), *interval_of_mean(values, REPLICATES, seed))


def signed_rank(differences: Sequence[float]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test; zeros are left out, and without any other it is 1."""
    from scipy.stats import wilcoxon

    values: NDArray[np.float64] = np.asarray(differences, np.float64)
    return float(wilcoxon(values[values != 0]).pvalue) if values.any() else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are, by Holm's step-down procedure (1979), in the same order."""
    order = np.argsort(values, kind="stable")
    corrected = [0.0] * len(values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = largest
    return corrected


def verdict(difference: float, p: float) -> str:
    """In words: whether a mean difference with a corrected p-value is one."""
    if p >= LEVEL or difference == 0:
        return NO_DIFFERENCE
    return BETTER if difference > 0 else WORSE
