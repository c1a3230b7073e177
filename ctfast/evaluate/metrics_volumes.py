"""The metrics of organs and of memorisation, from what was taken of each volume."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import RequestError
from .bootstrap import interval_of_mean, percentiles, resampled
from .measure import Measured
from .memorisation import chance_nearer, nearest, share_too_near, too_near
from .metrics_distribution import Draws
from .organs import table_of
from .result import Metric


def organ_metrics(generated: Measured, reference: Measured, draws: Draws) -> list[Metric]:
    """HU of organs beside real ones, how many lie outside real bounds, and whether images follow their masks.

    RequestError if the sets have no label in common.
    """
    table = table_of(generated.organs, reference.organs)
    if not table.rows:
        raise RequestError("the sets have no label in common")
    count = (len(generated.organs), len(reference.organs))
    # Sets drawn again may have no label in common, which gives NaN.
    gaps = [
        table_of(_times(generated.organs, first), _times(reference.organs, second)).gap
        for first, second in draws.pairs(*count)
    ]
    low, high = percentiles(gaps)
    organs = {str(label): asdict(row) for label, row in table.rows.items()}
    gap = _organ("organ_hu", table.gap, low, high, "HU", "lower", count, organs)
    shares = [share for share in (table.outside(volume) for volume in generated.organs) if share is not None]
    low, high = interval_of_mean(shares, draws.replicates, draws.seed)
    beyond = _organ("organ_outliers", float(np.mean(shares)), low, high, "", "lower", count, {})
    return [gap, beyond, *_coherence(generated, reference, count, draws)]


def organ_rows(generated: Measured, reference: Measured) -> list[dict[str, Any]]:
    """For each volume with labels the part of its organs outside the bounds, and its coherence."""
    table = table_of(generated.organs, reference.organs)
    rows = []
    for which, measured in (("generated", generated), ("reference", reference)):
        names = [item.name for item in measured.volumes.items if item.labels is not None]
        for name, organs in zip(names, measured.organs, strict=True):
            known = [organ.coherence for organ in organs.values() if organ.coherence is not None]
            rows.append(
                {
                    "name": name,
                    "set": which,
                    "organ_outliers": table.outside(organs),
                    "mask_coherence": float(np.mean(known)) if known else None,
                }
            )
    return rows


def _coherence(generated: Measured, reference: Measured, count: tuple[int, int], draws: Draws) -> list[Metric]:
    means = []
    for measured in (generated, reference):
        each = [[organ.coherence for organ in row.values() if organ.coherence is not None] for row in measured.organs]
        means.append([float(np.mean(values)) for values in each if values])
    if not all(means):
        return []
    low, high = interval_of_mean(means[0], draws.replicates, draws.seed)
    real_low, real_high = interval_of_mean(means[1], draws.replicates, draws.seed)
    parts = {"reference": float(np.mean(means[1])), "reference_low": real_low, "reference_high": real_high}
    return [_organ("mask_coherence", float(np.mean(means[0])), low, high, "", "higher", count, parts)]


_METHODS = {
    "organ_hu": "Mean over labels of how far the mean of an organ's median HU is from the reference set's.",
    "organ_outliers": "Part of organs whose median HU is outside mean ± 6 standard deviations, or the 0.5th to 99.5th "
    "percentile, of the reference set's.",
    "mask_coherence": "|2 AUC - 1| of HU within two voxels inside and outside of a label's surface, mean over labels "
    "and then volumes.",
}


def _organ(
    name: str,
    value: float,
    low: float | None,
    high: float | None,
    unit: str,
    better: str,
    count: tuple[int, int],
    parts: dict[str, Any],
) -> Metric:
    return Metric(name, "organs", value, unit, better, count, False, _METHODS[name], low, high, parts)


def _times(rows: Any, weights: np.ndarray) -> list[Any]:
    return [row for row, times in zip(rows, weights, strict=True) for _ in range(int(times))]


def memorisation_metrics(
    generated: Measured, reference: Measured, training: Measured, draws: Draws
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """How near generated volumes are to the training set, beside unseen real ones; and the figures per volume."""
    made, real = (nearest(each.coarse, training.coarse) for each in (generated, reference))
    count = (generated.count, reference.count)
    medians = [
        float(np.median(np.repeat(made.distance, weights.astype(int))))
        for weights in resampled(generated.count, draws.replicates, draws.seed)
    ]
    low, high = percentiles(medians) if generated.count > 1 else (None, None)
    closest = int(made.distance.argmin())
    names = training.volumes.names
    distance = Metric(
        name="nearest_training",
        group="memorisation",
        value=float(np.median(made.distance)),
        low=low,
        high=high,
        unit="HU",
        better=None,
        count=count,
        comparable=False,
        method="Median over generated volumes of the RMS difference to the nearest training volume, on 24^3 means.",
        parts={
            "training_volumes": training.count,
            "reference": float(np.median(real.distance)),
            "smallest": float(made.distance.min()),
            "reference_smallest": float(real.distance.min()),
            "closest": [generated.volumes.names[closest], names[int(made.nearest[closest])]],
            "chance_nearer": chance_nearer(made.distance, real.distance),
        },
    )
    near = too_near(made.distance, real.distance).astype(float)
    low, high = interval_of_mean(list(near), draws.replicates, draws.seed)
    share = Metric(
        name="memorised",
        group="memorisation",
        value=share_too_near(made.distance, real.distance),
        low=low,
        high=high,
        unit="",
        better="lower",
        count=count,
        comparable=False,
        method="Part of generated volumes nearer to a training volume than the nearest twentieth of reference volumes; "
        "0.05 is what unseen real ones have.",
    )
    rows = [
        {"name": name, "set": which, "nearest": names[int(index)], "nearest_training": float(away)}
        for which, measured, found in (("generated", generated, made), ("reference", reference, real))
        for name, index, away in zip(measured.volumes.names, found.nearest, found.distance, strict=True)
    ]
    return [distance, share], rows
