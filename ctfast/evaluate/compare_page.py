"""A comparison of two evaluations as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import RequestError
from ..io.files import NOTICE
from ..observer import Observer
from .charts import Dot, Series, spark
from .compare import BETTER, WORSE, ComparedMetric, Comparison, Figure
from .compare_text import summary
from .montage import Window, windows_of
from .report import PICTURES, PathLike
from .report_charts import Run, charts_of
from .report_html import Html, bullets, division, document, heading, interval, number, paragraph, section, span, table
from .report_pictures import Gallery, cases, namesakes
from .report_sources import sources_table
from .report_worst import worst_cases
from .result import Evaluation

OLD, NEW = Series("old", 2), Series("new", 1)


def compare_page(
    found: Comparison,
    *,
    windows: Sequence[str] | None = None,
    pictures: int = PICTURES,
    seed: int = 0,
    bases: Sequence[PathLike | None] = (None, None),
    observer: Observer,
) -> str:
    """The page as text: both runs' figures and charts, volumes of the same name beside each other, the worst of each.

    Volumes are read one at a time from the folders that the results name; where they are gone, the page says so. The
    arguments are those of ``report.report_page``, with a base for each of the two, and so are the errors.
    """
    shown = windows_of(windows)
    if pictures < 0:
        raise RequestError(f"pictures: expected a whole number from 0 on, found {pictures}")
    galleries = [
        Gallery.of(result, None if base is None else Path(base))
        for result, base in zip((found.old, found.new), bases, strict=True)
    ]
    charts = charts_of([Run(OLD, found.old), Run(NEW, found.new)])
    sections = [
        section("What was compared", _compared(found, galleries)),
        section("Verdict", _verdict(found)),
        section("Metrics", _metrics(found)),
        section("Charts", [division("charts", charts)] if charts else [paragraph("There are no figures to draw.")]),
        section("Volumes", namesakes(galleries, shown, pictures, seed, observer)),
        section("Worst cases", _worst(found, galleries, shown, observer)),
    ]
    lead = [paragraph(NOTICE, "notice"), paragraph(summary(found))]
    return document("Comparison of two evaluations", lead, sections)


def _compared(found: Comparison, galleries: Sequence[Gallery]) -> list[Html]:
    head = ("run", "generated", "volumes", "reference", "volumes", "preset", "features", "ctfast", "date")
    runs = (("old", found.old), ("new", found.new))
    parts = [table("The two evaluations", head, [(name, *_about(result)) for name, result in runs])]
    for (name, _), gallery in zip(runs, galleries, strict=True):
        sources = sources_table(gallery.items.get("generated", {}).values())
        parts += [heading(3, f"The {name} run's volumes"), *sources] if sources else []
    return parts


def _about(result: Evaluation) -> tuple[object, ...]:
    return (
        *(result.generated.path, result.generated.volumes, result.reference.path, result.reference.volumes),
        *(result.preset, result.features.network, result.ctfast, result.date),
    )


def _verdict(found: Comparison) -> list[Html]:
    parts = [paragraph(summary(found) + ".")]
    for verdict in (WORSE, BETTER):
        listed = [metric for metric in found.metrics if metric.verdict == verdict]
        if listed:
            parts += [heading(3, f"Clearly {verdict}"), bullets(_told(metric) for metric in listed)]
    parts.append(
        paragraph(
            "Where both results hold figures per volume, the difference is drawn again by bootstrap and is clear if "
            "its 95 % interval does not hold 0. Elsewhere it is clear if the two intervals do not overlap, which is "
            "stricter. Every metric is tested by itself: among twenty, one is likely to be called different by chance."
        )
    )
    return parts


def _told(metric: ComparedMetric) -> str:
    bounds = "" if metric.low is None else f" ({interval(metric.low, metric.high)})"
    return (
        f"{metric.name}: {number(metric.old.value)} became {number(metric.new.value)} {metric.unit}".rstrip()
        + f", a difference of {number(metric.difference)}{bounds}; {metric.why}"
    )


def _metrics(found: Comparison) -> list[Html]:
    head = ("metric", "old", "new", "old above, new below", "difference", "better", "verdict", "why")
    rows = [
        (
            f"{metric.name} ({metric.unit})" if metric.unit else metric.name,
            _figure(metric.old),
            _figure(metric.new),
            _drawn(metric),
            number(metric.difference) + ("" if metric.low is None else f" ({interval(metric.low, metric.high)})"),
            metric.better or "neither",
            span(metric.verdict if metric.verdict in (BETTER, WORSE) else "", metric.verdict),
            span("method", metric.why),
        )
        for metric in found.metrics
    ]
    parts = [table("Values with 95 % intervals; the difference is new less old.", head, rows)]
    return [*parts, bullets(f"{name}: {why}" for name, why in found.missing.items())]


def _figure(figure: Figure) -> str:
    return number(figure.value) + ("" if figure.low is None else f" ({interval(figure.low, figure.high)})")


def _drawn(metric: ComparedMetric) -> Html:
    dots = [
        Dot(series, figure.value, figure.low, figure.high)
        for series, figure in ((OLD, metric.old), (NEW, metric.new))
        if figure.value is not None
    ]
    about = f"{metric.name}, old {_figure(metric.old)}, new {_figure(metric.new)}"
    return Html(spark(about, dots)) if dots else Html("")


def _worst(
    found: Comparison, galleries: Sequence[Gallery], windows: Sequence[Window], observer: Observer
) -> list[Html]:
    parts: list[Html] = []
    for name, result, gallery in zip(("old", "new"), (found.old, found.new), galleries, strict=True):
        listed = cases(worst_cases(result), gallery, windows, observer)
        parts += [heading(3, f"The {name} run"), *(listed or [paragraph("There are no figures per volume.")])]
    return parts
