"""Which charts a report shows: what of one or more evaluations is worth seeing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .charts import Dot, Row, Series, dots, histogram, strip
from .report_html import Html, chart
from .result import Evaluation, Metric, is_figure

# Figures per volume that are shown as strips: unit, and what they say.
_STRIPS = {
    "descriptor_z": ("standard deviations", "How far each volume's descriptors are from the reference set's mean."),
    "organ_outliers": ("part of organs", "Part of each volume's organs with HU outside the real bounds."),
    "mask_coherence": ("", "How well HU change at the borders of labels; higher is better."),
    "psnr": ("dB", "Each volume and its namesake of the reference set; higher is better."),
    "ssim": ("", "Each volume and its namesake of the reference set; higher is better."),
    "dice": ("", "Label maps and their namesakes of the reference set; higher is better."),
    "psnr_vae": ("dB", "Reference volumes after encoding and decoding; higher is better."),
    "ssim_vae": ("", "Reference volumes after encoding and decoding; higher is better."),
}
_MASKS = ("dice", "iou", "nsd", "hd95", "asd")
_DISTANCES = ("fid_2.5d", "kid_2.5d", "fid_3d", "kid_3d")


@dataclass(frozen=True)
class Run:
    """An evaluation in a chart, and how its generated set is marked."""

    series: Series
    result: Evaluation


REFERENCE = Series("reference", 0)


def values_of(result: Evaluation, which: str, key: str) -> list[float]:
    """A figure per volume of the generated or the reference set, without those that have none."""
    found = (row.get(key) for row in result.per_volume if row.get("set") == which)
    return [value for value in found if is_figure(value)]


def charts_of(runs: Sequence[Run]) -> list[Html]:
    """Every chart that the results have figures for; the reference set is that of the last run."""
    return [
        *_strips(runs),
        *_descriptors(runs),
        *_organs(runs),
        *_nearest(runs),
        *_planes(runs),
        *_masks(runs),
    ]


def _groups(runs: Sequence[Run], key: str) -> list[tuple[Series, list[float]]]:
    if key.endswith("_vae"):  # figures of reference volumes, made by each run's plan
        series = [run.series for run in runs] if len(runs) > 1 else [REFERENCE]
        groups = [(each, values_of(run.result, "reference", key)) for each, run in zip(series, runs, strict=True)]
    else:
        groups = [(run.series, values_of(run.result, "generated", key)) for run in runs]
        groups.append((REFERENCE, values_of(runs[-1].result, "reference", key)))
    return [(series, values) for series, values in groups if values]


def _strips(runs: Sequence[Run]) -> Iterable[Html]:
    for key, (unit, about) in _STRIPS.items():
        groups = _groups(runs, key)
        if groups:
            yield chart(strip(key, unit, groups), f"{about} A point is a volume, a line the median.")


def _nearest(runs: Sequence[Run]) -> Iterable[Html]:
    groups = _groups(runs, "nearest_training")
    if groups:
        about = "Distance to the nearest training volume. Copies of training volumes would stand at the left."
        yield chart(histogram("nearest_training", "RMS HU", groups), about)


def _descriptors(runs: Sequence[Run]) -> Iterable[Html]:
    tables = [_mappings(_metric(run, "descriptor_energy"), ("generated", "real", "z")) for run in runs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    rows = [
        Row(
            name,
            [Dot(run.series, _signed(table[name])) for run, table in zip(runs, tables, strict=True) if name in table],
        )
        for name in names
    ]
    if rows:
        about = "The descriptors that deviate most: mean of the set less that of the reference set."
        yield chart(dots("deviation", "standard deviations of the reference set", rows, at=0.0), about)


def _signed(gap: Mapping[str, float]) -> float:
    return gap["z"] if gap["generated"] >= gap["real"] else -gap["z"]


def _organs(runs: Sequence[Run]) -> Iterable[Html]:
    keys = ("generated", "reference", "low", "high")
    tables = [_mappings(_metric(run, "organ_hu"), keys) for run in runs]
    rows = []
    for label in sorted({label for table in tables for label in table}, key=_by_number):
        found = [(run.series, table[label]) for run, table in zip(runs, tables, strict=True) if label in table]
        last = found[-1][1]
        values = [Dot(series, row["generated"]) for series, row in found]
        rows.append(Row(f"label {label}", [*values, Dot(REFERENCE, last["reference"])], (last["low"], last["high"])))
    if rows:
        about = (
            "Mean over volumes of an organ's median HU. Bands are the bounds of real ones: the wider of mean ± 6 "
            "standard deviations and the 0.5th to 99.5th percentile of the reference set."
        )
        yield chart(dots("median HU of organs", "HU", rows), about)


def _planes(runs: Sequence[Run]) -> Iterable[Html]:
    for name in _DISTANCES:
        found = [(run, metric) for run in runs if (metric := _metric(run, name)) is not None]
        parts = list(dict.fromkeys(key for _, metric in found for key in metric.parts if "/" in key))
        rows = [
            Row(
                part,
                [Dot(run.series, metric.parts[part]) for run, metric in found if is_figure(metric.parts.get(part))],
            )
            for part in parts
        ]
        rows = [row for row in rows if row.dots]
        if rows:
            halves = found[-1][1].parts.get("reference")
            about = "Distance per window and plane; lower is better."
            if is_figure(halves):
                about += " Dashed: the mean between two halves of the reference set."
            yield chart(dots(name, "", rows, at=halves if is_figure(halves) else None), about)


def _masks(runs: Sequence[Run]) -> Iterable[Html]:
    for name in _MASKS:
        found = [(run, metric) for run in runs if (metric := _metric(run, name)) is not None]
        labels = sorted({key for _, metric in found for key in metric.parts if key.isdecimal()}, key=_by_number)
        rows = [
            Row(
                f"label {label}",
                [Dot(run.series, metric.parts[label]) for run, metric in found if is_figure(metric.parts.get(label))],
            )
            for label in labels
        ]
        if rows:
            metric = found[-1][1]
            better = f"; {metric.better} is better" if metric.better else ""
            yield chart(dots(f"{name} per label", metric.unit, rows), f"Mean over volumes that have the label{better}.")


def _metric(run: Run, name: str) -> Metric | None:
    return next((metric for metric in run.result.metrics if metric.name == name), None)


def _mappings(metric: Metric | None, keys: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """The parts of a metric that are tables with all these figures."""
    if metric is None:
        return {}
    return {
        name: part
        for name, part in metric.parts.items()
        if isinstance(part, Mapping) and all(is_figure(part.get(key)) for key in keys)
    }


def _by_number(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdecimal() else (0, label)
