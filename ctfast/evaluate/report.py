"""An evaluation as one HTML page that opens anywhere: verdict, metrics, charts, pictures, worst cases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import RequestError
from ..io.atomic import OutputFiles
from ..io.files import NOTICE, check_writable
from ..observer import Cancel, Observer, Progress, observer_of
from .charts import Series
from .montage import windows_of
from .report_charts import Run, charts_of
from .report_html import (
    Html,
    bullets,
    division,
    document,
    heading,
    interval,
    number,
    paragraph,
    section,
    span,
    table,
)
from .report_pictures import Gallery, cases, montage
from .report_sources import sources_table
from .report_verdict import cautions, verdicts
from .report_worst import worst_cases
from .result import Evaluation, Metric, is_figure

PathLike = str | os.PathLike[str]
PICTURES = 4
GENERATED = Series("generated", 1)


def write_report(
    result: Evaluation,
    path: PathLike,
    *,
    windows: Sequence[str] | None = None,
    pictures: int = PICTURES,
    seed: int = 0,
    base: PathLike | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> None:
    """Write the page of ``report_page`` to ``path``; the file appears whole or not at all.

    Raises:
        RequestError: A window that there is not, or a number of pictures below 0.
        OutputError: The page cannot be written.
        CancelledError: ``progress`` or ``cancel`` asked to stop.
    """
    check_writable(path)
    observer = observer_of(progress, cancel)
    page = report_page(result, windows=windows, pictures=pictures, seed=seed, base=base, observer=observer)
    with OutputFiles() as files:
        files.add_text(Path(path), page)


def report_page(
    result: Evaluation,
    *,
    windows: Sequence[str] | None = None,
    pictures: int = PICTURES,
    seed: int = 0,
    base: PathLike | None = None,
    observer: Observer,
) -> str:
    """The page as text. Volumes are read one at a time from the folders that the result names; where they are gone, the
    page says so and has no pictures.

    Args:
        result: What ``evaluate`` gave, or ``Evaluation.load``.
        windows: Names of ``montage.WINDOWS``, the first of which is also shown with outlines of labels.
        pictures: How many volumes of each set to show besides the worst cases, drawn at random.
        seed: Of that draw.
        base: Folder where relative paths of the result may start, besides the working folder.
        observer: Told of each picture.
    """
    shown = windows_of(windows)
    if pictures < 0:
        raise RequestError(f"pictures: expected a whole number from 0 on, found {pictures}")
    gallery = Gallery.of(result, None if base is None else Path(base))
    charts = charts_of([Run(GENERATED, result)])
    listed = worst_cases(result)
    sections = [
        section("What was compared", _compared(result, gallery)),
        section("Verdict", _verdict(result)),
        section("Metrics", [metrics_table(result), *left_out(result)]),
        section(
            "Charts",
            [division("charts", charts)] if charts else [paragraph("There are no figures per volume to draw.")],
        ),
        section("Volumes", montage(result, gallery, shown, pictures, seed, observer)),
        section("Worst cases", _worst(cases(listed, gallery, shown, observer))),
    ]
    lead = [paragraph(NOTICE, "notice"), paragraph(f"ctfast {result.ctfast}, {result.date}", "faint")]
    return document(f"Evaluation of {Path(result.generated.path).name or result.generated.path}", lead, sections)


def _compared(result: Evaluation, gallery: Gallery) -> list[Html]:
    rows: list[tuple[object, ...]] = [
        ("generated", result.generated.path, result.generated.volumes),
        ("reference", result.reference.path, result.reference.volumes),
    ]
    if result.training is not None:
        rows.append(("training", result.training.path, result.training.volumes))
    file = f", SHA-256 of its file {result.features.sha256}" if result.features.sha256 else ""
    paired = " Volumes of the same name belong together." if result.paired else ""
    return [
        table("Sets of volumes", ("set", "folder", "volumes"), rows),
        paragraph(f"Preset {result.preset}; features of {result.features.network}{file}.{paired}"),
        *sources_table(gallery.items.get("generated", {}).values()),
    ]


def _verdict(result: Evaluation) -> list[Html]:
    found = verdicts(result)
    unlike, unclear = ([each for each in found if each.differs is answer] for answer in (True, False))
    judged = len(unlike) + len(unclear)
    if not judged:
        parts = [paragraph("None of the metrics has a figure of the reference set to be judged by.")]
    else:
        parts = [
            paragraph(
                f"Of {len(found)} metrics, {judged} can be judged by the reference set itself. {len(unlike)} clearly "
                f"differ from it; for {len(unclear)} there is no clear difference."
            )
        ]
    for title, group in (("Clearly different from the reference set", unlike), ("No clear difference", unclear)):
        if group:
            parts += [heading(3, title), bullets(f"{each.metric}: {each.why}" for each in group)]
    rest = [each.metric for each in found if each.differs is None]
    if rest:
        parts.append(paragraph(f"Not judged, since there is nothing to judge them by: {', '.join(rest)}."))
    return [*parts, heading(3, "Limits"), bullets(cautions(result))]


def metrics_table(result: Evaluation) -> Html:
    """Every metric with its interval, what it means and how it was computed."""
    head = ("metric", "value", "95 % interval", "reference's own", "unit", "better", "volumes", "method")
    rows = [
        (
            metric.name + ("" if metric.comparable else " *"),
            number(metric.value),
            interval(metric.low, metric.high),
            _own(metric),
            metric.unit or "–",
            metric.better or "neither",
            f"{metric.count[0]} / {metric.count[1]}",
            span("method", metric.method),
        )
        for metric in result.metrics
    ]
    return table("Intervals by bootstrap over volumes. Volumes: generated / reference.", head, rows)


def _own(metric: Metric) -> str:
    own = metric.parts.get("reference")
    if not is_figure(own):
        return "–"
    low, high = metric.parts.get("reference_low"), metric.parts.get("reference_high")
    return f"{number(own)} ({interval(low, high)})" if is_figure(low) and is_figure(high) else number(own)


def left_out(result: Evaluation) -> list[Html]:
    """The mark's meaning, and why which metrics are not there."""
    parts = []
    if any(not metric.comparable for metric in result.metrics):
        parts.append(paragraph("* not comparable with figures in papers", "faint"))
    reasons = result.skipped_by_reason()
    if reasons:
        parts += [heading(3, "Left out"), bullets(f"{', '.join(names)}: {why}" for why, names in reasons.items())]
    return parts


def _worst(found: list[Html]) -> list[Html]:
    if not found:
        return [paragraph("There are no figures per volume by which some would be worse than others.")]
    about = "The two volumes that are farthest out by each figure. Some always are, which alone is no fault."
    return [paragraph(about), *found]
