"""Tables of docs/support_matrix.md, out of rows that backends.py and aoti.py wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import records

Row = dict[str, Any]


def speed(rows: Sequence[Row]) -> list[str]:
    """Seconds of a step and of a decode of each side, and how many times MONAI's in fp32 that is as fast."""
    last = {row["settings"]["latent"]: row for row in rows}
    if not last:
        return []
    extents = sorted(last)
    heads = [f"{what}, latent {extent}^3" for extent in extents for what in ("step", "decode")]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    names = dict.fromkeys(name for extent in extents for name in last[extent]["seconds"])
    for name in names:
        cells = [_cell(last[extent], name, part) for extent in extents for part in ("step", "decode")]
        lines.append(f"| {name.replace(':', ' ')} | {' | '.join(cells)} |")
    return [*lines, "", records.where(last[extents[-1]])]


def _cell(row: Row, name: str, part: str) -> str:
    if name not in row["seconds"]:
        return "not measured"
    return f"{row['seconds'][name][part]['median']:.2f} s ({row['ratio'][name][part]['median']:.1f}x)"


def aoti(rows: Sequence[Row]) -> list[str]:
    """AOTInductor's packages beside the torch backend, eager torch and OpenVINO."""
    last = {(row["settings"]["network"], row["settings"]["precision"], row["settings"]["latent"]): row for row in rows}
    if not last:
        return []
    lines = [
        "| | AOTInductor | eager, channels last | `torch` | `openvino` | to compile | package |",
        "|---|---|---|---|---|---|---|",
    ]
    for (network, precision, latent), row in last.items():
        cells = [f"{row['seconds'][name]['median']:.2f} s" for name in ("aoti", "eager", "torch", "openvino")]
        cells += [f"{row['compile_s']:.0f} s", f"{row['package_bytes'] / 1e6:.0f} MB"]
        lines.append(f"| `{network}`, latent {latent}^3, {precision} | {' | '.join(cells)} |")
    return [*lines, "", records.where(row)]


#: By the names that pages have: whose rows, and the table of them.
TABLES: dict[str, tuple[str, Callable[[Sequence[Row]], list[str]]]] = {
    "backends": ("backends", speed),
    "aoti": ("aoti", aoti),
}
