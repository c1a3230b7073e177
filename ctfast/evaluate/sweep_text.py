"""A sweep as text and as a picture: distance from the reference against network calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .svg import STYLES, LogAxis, line, mark, text

_WIDTH, _HEIGHT = 720, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 150, 48, 62


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
    across = LogAxis([row["calls"] for row in rows] + [baseline["calls"]], _LEFT, _WIDTH - _RIGHT)
    up = LogAxis([row["image_rms"] for row in [*shown, baseline] if row["image_rms"] > 0], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        text(_LEFT, 26, _title(result), size=15),
        *_frame(across, up, unit),
    ]
    if baseline["image_rms"] > 0:
        y = up.at(baseline["image_rms"])
        parts.append(line([(_LEFT, y), (_WIDTH - _RIGHT, y)], "#666", dashed=True))
        parts.append(text(_WIDTH - _RIGHT + 6, y + 4, f"{baseline['solver']}, {baseline['calls']} calls", size=12))
    solvers = list(dict.fromkeys(row["solver"] for row in result["rows"]))
    for index, solver in enumerate(solvers):
        colour, shape = STYLES[index % len(STYLES)]
        points = [(across.at(row["calls"]), up.at(row["image_rms"])) for row in shown if row["solver"] == solver]
        parts.append(line(points, colour))
        parts += [mark(x, y, colour, shape) for x, y in points]
        y = _HEIGHT - _BOTTOM - 20 * (len(solvers) - index) + 8
        parts += [mark(_WIDTH - _RIGHT + 14, y, colour, shape), text(_WIDTH - _RIGHT + 26, y + 4, solver)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    psnr = "same" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    return (
        f"{row['solver']:<10}{row['time_grid']:<8}{row['steps']:>6}{row['calls']:>7}{row['image_rms']:>12.4g}{psnr:>9}"
        f"{row['latent_rms']:>12.4g}"
    )


def _title(result: Mapping[str, Any]) -> str:
    reference = result["reference"]
    return f"Distance from {reference['solver']} in {reference['steps']} steps, {len(result['seeds'])} seeds"


def _frame(across: LogAxis, up: LogAxis, unit: str) -> Iterable[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in across.ticks():
        x = across.at(value)
        yield line([(x, bottom), (x, _TOP)], "#e4e4e4")
        yield text(x, bottom + 18, f"{value:g}", anchor="middle")
    for value in up.ticks():
        y = up.at(value)
        yield line([(_LEFT, y), (right, y)], "#e4e4e4")
        yield text(_LEFT - 8, y + 4, f"{value:g}", anchor="end")
    yield line([(_LEFT, _TOP), (_LEFT, bottom), (right, bottom)], "#222")
    yield text((_LEFT + right) / 2, _HEIGHT - 16, "network calls", anchor="middle")
    x, y = 20, (_TOP + bottom) / 2
    yield text(x, y, f"RMS inside the body ({unit})", anchor="middle", turn=f"rotate(-90 {x} {y:.1f})")
