"""Parts of an SVG picture: axes, lines, marks and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

# Colours that are told apart without red and green, and in print by their marks.
STYLES = (
    *(("#0072b2", "circle"), ("#d55e00", "square"), ("#009e73", "diamond")),
    *(("#cc79a7", "triangle"), ("#56b4e9", "cross")),
)
_SHAPES = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "square": "M-4 -4H4V4H-4Z",
    "diamond": "M0 -5L5 0L0 5L-5 0Z",
    "triangle": "M0 -5L5 4H-5Z",
    "cross": "M-4 -4L4 4M-4 4L4 -4",
}


class LogAxis:
    """A logarithmic axis from one place in the picture to another."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        self._low = math.log10(low) - 0.06
        self._span = math.log10(high) + 0.06 - self._low
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """Where a value above 0 lies."""
        return self._start + (math.log10(value) - self._low) / self._span * (self._end - self._start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten within the axis."""
        first, last = math.floor(self._low), math.ceil(self._low + self._span)
        values = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
        return [value for value in values if self._low <= math.log10(value) <= self._low + self._span]


class LinearAxis:
    """A linear axis from one place in the picture to another, with a margin beyond the values."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        self.low, self.high = low - margin, high + margin
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self._start + (value - self.low) / (self.high - self.low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """About five multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((digit * power for digit in (1, 2, 5) if digit * power >= rough), 10 * power)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        # Rounded, so that 0.30000000000000004 is not written.
        return [float(f"{step * index:.12g}") for index in range(first, last + 1)]


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    anchor: str = "start",
    turn: str = "",
    colour: str | None = None,
) -> str:
    """Text that starts, ends or has its middle (``anchor``) at x; ``turn`` is an SVG transform."""
    turned = f' transform="{turn}"' if turn else ""
    filled = f' fill="{colour}"' if colour else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}{filled}{turned}>{escape(words)}</text>"


def line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False, width: float = 1.5) -> str:
    """A line through points; nothing without any."""
    if not points:
        return ""
    through = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="M{through}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def box(x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0) -> str:
    """A filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" '
        f'fill-opacity="{opacity:g}"/>'
    )


def mark(x: float, y: float, colour: str, shape: str) -> str:
    """A mark of about eight pixels: circle, square, diamond, triangle or cross."""
    return (
        f'<path transform="translate({x:.1f} {y:.1f})" d="{_SHAPES[shape]}" fill="{colour}" stroke="{colour}" '
        'stroke-width="1.5"/>'
    )
