"""A sweep as text and as a picture: distance from the reference against network calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 150, 48, 62
# Colours that are told apart without red and green, and in print by their marks.
_STYLES = (
    *(("#0072b2", "circle"), ("#d55e00", "square"), ("#009e73", "diamond")),
    *(("#cc79a7", "triangle"), ("#56b4e9", "cross")),
)


def table(result: Mapping[str, Any]) -> str:
    """Lines of text: every setting, and the fewest calls of each solver; ``result`` is ``Sweep.as_dict()``."""
    unit = result["unit"]
    reference, baseline = result["reference"], result["baseline"]
    head = f"{'solver':<10}{'grid':<8}{'steps':>6}{'calls':>7}{f'RMS ({unit})':>12}{'PSNR':>9}{'latent RMS':>12}"
    agreement = reference["agreement"]
    lines = [
        f"{len(result['seeds'])} seeds; reference: {reference['solver']}, {reference['steps']} steps, "
        f"{reference['calls']} calls; {agreement['solver']} in as many steps is {agreement['image_rms']:.3g} {unit} "
        "from it",
        head,
        *(_line(row) for row in result["rows"]),
        f"what {baseline['solver']} does in {baseline['calls']} calls on the {baseline['time_grid']} grid "
        f"({baseline['image_rms']:.4g} {unit}) takes",
    ]
    for found in result["smallest"]:
        name = f"  {found['solver']} ({found['time_grid']}):"
        if found["steps"] is None:
            lines.append(f"{name} more than the {found['steps_tried']} steps tried")
        else:
            lines.append(
                f"{name} {found['calls']} calls ({found['steps']} steps, {found['image_rms']:.4g} {unit}; as close in "
                f"{found['seeds_within']} of {len(result['seeds'])} seeds)"
            )
    return "\n".join(lines)


def svg(result: Mapping[str, Any]) -> str:
    """The same as a picture, an SVG document: both axes logarithmic, one line per solver, the baseline dashed."""
    rows = sorted([*result["rows"], *result["refined"]], key=lambda row: row["calls"])
    shown = [row for row in rows if row["image_rms"] > 0]
    baseline, unit = result["baseline"], result["unit"]
    across = _Axis([row["calls"] for row in rows] + [baseline["calls"]], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([row["image_rms"] for row in [*shown, baseline] if row["image_rms"] > 0], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 26, _title(result), size=15),
        *_frame(across, up, unit),
    ]
    if baseline["image_rms"] > 0:
        y = up.at(baseline["image_rms"])
        parts.append(_path([(_LEFT, y), (_WIDTH - _RIGHT, y)], "#666", dashed=True))
        parts.append(_text(_WIDTH - _RIGHT + 6, y + 4, f"{baseline['solver']}, {baseline['calls']} calls", size=12))
    solvers = list(dict.fromkeys(row["solver"] for row in result["rows"]))
    for index, solver in enumerate(solvers):
        colour, mark = _STYLES[index % len(_STYLES)]
        points = [(across.at(row["calls"]), up.at(row["image_rms"])) for row in shown if row["solver"] == solver]
        parts.append(_path(points, colour))
        parts += [_mark(x, y, colour, mark) for x, y in points]
        y = _HEIGHT - _BOTTOM - 20 * (len(solvers) - index) + 8
        parts += [_mark(_WIDTH - _RIGHT + 14, y, colour, mark), _text(_WIDTH - _RIGHT + 26, y + 4, solver)]
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """A logarithmic axis from one place in the picture to another."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        self._low = math.log10(low) - 0.06
        self._span = math.log10(high) + 0.06 - self._low
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        return self._start + (math.log10(value) - self._low) / self._span * (self._end - self._start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten within the axis."""
        first, last = math.floor(self._low), math.ceil(self._low + self._span)
        values = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
        return [value for value in values if self._low <= math.log10(value) <= self._low + self._span]


def _line(row: Mapping[str, Any]) -> str:
    psnr = "same" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    return (
        f"{row['solver']:<10}{row['time_grid']:<8}{row['steps']:>6}{row['calls']:>7}{row['image_rms']:>12.4g}{psnr:>9}"
        f"{row['latent_rms']:>12.4g}"
    )


def _title(result: Mapping[str, Any]) -> str:
    reference = result["reference"]
    return f"Distance from {reference['solver']} in {reference['steps']} steps, {len(result['seeds'])} seeds"


def _frame(across: _Axis, up: _Axis, unit: str) -> Iterable[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in across.ticks():
        x = across.at(value)
        yield _path([(x, bottom), (x, _TOP)], "#e4e4e4")
        yield _text(x, bottom + 18, f"{value:g}", anchor="middle")
    for value in up.ticks():
        y = up.at(value)
        yield _path([(_LEFT, y), (right, y)], "#e4e4e4")
        yield _text(_LEFT - 8, y + 4, f"{value:g}", anchor="end")
    yield _path([(_LEFT, _TOP), (_LEFT, bottom), (right, bottom)], "#222")
    yield _text((_LEFT + right) / 2, _HEIGHT - 16, "network calls", anchor="middle")
    x, y = 20, (_TOP + bottom) / 2
    yield _text(x, y, f"RMS inside the body ({unit})", anchor="middle", turn=f"rotate(-90 {x} {y:.1f})")


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", turn: str = "") -> str:
    turned = f' transform="{turn}"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def _path(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    if not points:
        return ""
    through = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="M{through}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _mark(x: float, y: float, colour: str, mark: str) -> str:
    shapes = {
        "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
        "square": "M-4 -4H4V4H-4Z",
        "diamond": "M0 -5L5 0L0 5L-5 0Z",
        "triangle": "M0 -5L5 4H-5Z",
        "cross": "M-4 -4L4 4M-4 4L4 -4",
    }
    return (
        f'<path transform="translate({x:.1f} {y:.1f})" d="{shapes[mark]}" fill="{colour}" stroke="{colour}" '
        'stroke-width="1.5"/>'
    )
