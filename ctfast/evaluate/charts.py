"""Charts for a page: strips of points, dots with bounds, histograms. Lines and text take the page's colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np

from .svg import STYLES, LinearAxis, box, line, mark, text

_WIDTH, _LEFT, _RIGHT = 720, 190, 20
_TOP, _BOTTOM, _ROW = 34, 44, 30
_INK, _GRID = "currentColor", "#8888"
_BINS = 14


@dataclass(frozen=True)
class Series:
    """A set of volumes in a chart: what it is called, and the number of its colour and mark."""

    label: str
    style: int

    @property
    def colour(self) -> str:
        """Its colour."""
        return STYLES[self.style][0]

    @property
    def shape(self) -> str:
        """Its mark."""
        return STYLES[self.style][1]


@dataclass(frozen=True)
class Dot:
    """A value of a series, with its interval if it has one."""

    series: Series
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A named row of dots; ``bounds`` are shown as a band behind them."""

    label: str
    dots: Sequence[Dot]
    bounds: tuple[float, float] | None = None


def strip(title: str, unit: str, groups: Sequence[tuple[Series, Sequence[float]]]) -> str:
    """A point for every volume, one row per set, and each set's median as a line."""
    across = _across([value for _, values in groups for value in values])
    parts = []
    for index, (series, values) in enumerate(groups):
        y = _TOP + _ROW * 1.4 * (index + 0.5)
        parts.append(text(_LEFT - 10, y + 4, f"{series.label} ({len(values)})", anchor="end"))
        for number, value in enumerate(values):
            # Spread by the golden ratio, so that equal values do not hide each other, the same in every run.
            parts.append(mark(across.at(value), y + ((number * 0.618) % 1 - 0.5) * 20, series.colour, series.shape))
        middle = across.at(float(np.median(values)))
        parts.append(line([(middle, y - 17), (middle, y + 17)], _INK, width=2.5))
    return _drawn(title, unit, across, parts, _TOP + _ROW * 1.4 * len(groups))


def dots(title: str, unit: str, rows: Sequence[Row], at: float | None = None) -> str:
    """Rows of dots with their intervals over bands of bounds; ``at`` is a value to draw a dashed line at."""
    values = [dot.value for row in rows for dot in row.dots]
    values += [end for row in rows for dot in row.dots for end in (dot.low, dot.high) if end is not None]
    values += [end for row in rows for end in row.bounds or ()] + ([] if at is None else [at])
    across = _across(values)
    bottom = _TOP + _ROW * len(rows)
    parts = [] if at is None else [line([(across.at(at), _TOP), (across.at(at), bottom)], _INK, dashed=True)]
    for index, row in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        parts.append(text(_LEFT - 10, y + 4, row.label, anchor="end"))
        if row.bounds is not None:
            low, high = (across.at(end) for end in row.bounds)
            parts.append(box(low, y - 9, high - low, 18, _INK, 0.13))
        parts += _dots(row.dots, across, y)
    series = list(dict.fromkeys(dot.series for row in rows for dot in row.dots))
    return _drawn(title, unit, across, [*parts, *_legend(series)], bottom)


def histogram(title: str, unit: str, groups: Sequence[tuple[Series, Sequence[float]]]) -> str:
    """How large a part of each set lies in each of equal bins; bars of the sets stand side by side."""
    everything = [value for _, values in groups for value in values]
    across = _across(everything)
    edges = np.linspace(across.low, across.high, _BINS + 1)
    shares = [np.histogram(values, edges)[0] / len(values) for _, values in groups]
    bottom = _TOP + 170
    up = LinearAxis([0, float(np.max(shares))], bottom, _TOP)
    ground = up.at(0)
    parts = []
    for value in (tick for tick in up.ticks() if tick >= 0):
        parts.append(line([(_LEFT, up.at(value)), (_WIDTH - _RIGHT, up.at(value))], _GRID, width=0.5))
        parts.append(text(_LEFT - 8, up.at(value) + 4, f"{value:.0%}", anchor="end"))
    step = (_WIDTH - _RIGHT - _LEFT) / _BINS
    wide = (step - 4) / len(groups)
    for number, ((series, _), share) in enumerate(zip(groups, shares, strict=True)):
        for index, part in enumerate(share):
            left, top = _LEFT + step * index + 2 + wide * number, up.at(float(part))
            parts.append(box(left, top, wide, ground - top, series.colour))
    parts.append(
        text(_LEFT - 60, _TOP + 85, "part of the set", anchor="middle", turn=f"rotate(-90 {_LEFT - 60} {_TOP + 85})")
    )
    return _drawn(title, unit, across, [*parts, *_legend([series for series, _ in groups])], bottom)


def spark(about: str, values: Sequence[Dot]) -> str:
    """A few values with their intervals above each other on an axis of their own, without numbers."""
    across = LinearAxis([end for dot in values for end in (dot.low, dot.value, dot.high) if end is not None], 6, 194)
    parts = [part for index, dot in enumerate(values) for part in _dots([dot], across, 11 + 18 * index)]
    return _root(200, 18 * len(values) + 4, about, parts)


def _dots(values: Iterable[Dot], across: LinearAxis, y: float) -> Iterable[str]:
    for dot in values:
        if dot.low is not None and dot.high is not None:
            yield line([(across.at(dot.low), y), (across.at(dot.high), y)], dot.series.colour, width=2.5)
        yield mark(across.at(dot.value), y, dot.series.colour, dot.series.shape)


def _across(values: Sequence[float]) -> LinearAxis:
    return LinearAxis(values, _LEFT, _WIDTH - _RIGHT)


def _legend(series: Sequence[Series]) -> Iterable[str]:
    x = float(_WIDTH - _RIGHT)
    for each in reversed(series):
        x -= 8.0 * len(each.label) + 26
        yield mark(x, 16, each.colour, each.shape)
        yield text(x + 10, 20, each.label, size=12)


def _drawn(title: str, unit: str, across: LinearAxis, parts: Sequence[str], bottom: float) -> str:
    frame = []
    for value in across.ticks():
        x = across.at(value)
        frame.append(line([(x, bottom), (x, _TOP)], _GRID, width=0.5))
        frame.append(text(x, bottom + 17, f"{value:g}", size=12, anchor="middle"))
    frame.append(line([(_LEFT, bottom), (_WIDTH - _RIGHT, bottom)], _INK))
    name = f"{title} ({unit})" if unit else title
    frame.append(text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 36, name, anchor="middle"))
    return _root(_WIDTH, bottom + _BOTTOM, name, [*frame, *parts])


def _root(width: float, height: float, about: str, parts: Iterable[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg role="img" aria-label={quoteattr(about)} viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="13" fill="currentColor">\n{inside}\n</svg>'
    )
