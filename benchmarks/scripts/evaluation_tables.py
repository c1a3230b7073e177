"""The tables of a plan's evaluation, out of rows that evaluation.py wrote."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import records

Row = dict[str, Any]

_SETS = {"free": "free", "from_label_maps": "from held-out label maps"}


def evaluation(rows: Sequence[Row]) -> list[str]:
    """Every metric of the last rows, one column a set."""
    latest = _latest(rows)
    if not latest:
        return []
    columns = {name: {metric["name"]: metric for metric in row["metrics"]} for name, row in latest.items()}
    counts = [f"{_SETS[name]} ({row['generated']['volumes']})" for name, row in latest.items()]
    lines = [f"| | {' | '.join(counts)} | real |", "|---" * (len(latest) + 2) + "|"]
    names = dict.fromkeys(name for column in columns.values() for name in column)
    for name in names:
        found = [column.get(name) for column in columns.values()]
        unit = next(metric["unit"] for metric in found if metric is not None)
        real = [metric["parts"].get("reference") for metric in found if metric is not None]
        title = f"`{name}`{f' ({unit})' if unit else ''}"
        lines.append(f"| {title} | {' | '.join(_value(metric) for metric in found)} | {_number(real[0])} |")
    row = next(iter(latest.values()))
    features = row["features"]["network"]
    return [
        *lines,
        "",
        f"Plan `{row['settings']['plan']['name']}` ({row['settings']['plan']['sha256'][:12]}); against "
        f"{row['reference']['volumes']} held-out scans; preset {row['preset']}, features: {features}.",
        "",
        records.where(row),
    ]


def memorisation(rows: Sequence[Row]) -> list[str]:
    """How far volumes are from the nearest training scan, generated ones and unseen real ones."""
    latest = _latest(rows)
    if not latest:
        return []
    lines = ["| RMS to the nearest training scan (HU) | least | quarter | median | three quarters | most |"]
    lines.append("|---" * 6 + "|")
    for name, row in latest.items():
        made = row["nearest"]["generated"]
        lines.append(_spread(f"{len(made)} generated, {_SETS[name]}", made))
    row = next(iter(latest.values()))
    real = row["nearest"]["reference"]
    return [*lines, _spread(f"{len(real)} unseen scans", real), "", records.where(row)]


def _latest(rows: Sequence[Row]) -> dict[str, Row]:
    found = {row["settings"]["set"]: row for row in rows}
    return {name: found[name] for name in _SETS if name in found}


def _spread(title: str, values: Sequence[float]) -> str:
    low, _, high = quantiles(values, n=4, method="inclusive")
    cells = (min(values), low, median(values), high, max(values))
    return f"| {title} | {' | '.join(f'{value:.0f}' for value in cells)} |"


def _value(metric: Row | None) -> str:
    if metric is None:
        return ""
    interval = "" if metric["low"] is None else f" ({_number(metric['low'])} to {_number(metric['high'])})"
    return f"{_number(metric['value'])}{interval}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else ""


TABLES = {"evaluation": ("evaluation", evaluation), "memorisation": ("evaluation", memorisation)}
