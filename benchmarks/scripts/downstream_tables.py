"""The tables of downstream segmentation, out of rows that downstream.py wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import records

Row = dict[str, Any]


def downstream(rows: Sequence[Row]) -> list[str]:
    """The last comparison: arms, what each is against real volumes alone, and Dice by label."""
    if not rows:
        return []
    row = rows[-1]
    settings, against = row["settings"], {found["arm"]: found for found in row["comparisons"]}
    lines = [
        "| trained on | synthetic | Dice | 95 % | runs | against real | p (Holm) | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in row["arms"]:
        runs = ", ".join(f"{fold['dice']:.3f}" for fold in arm["folds"])
        cells = [arm["name"], f"{arm['share']:.0%}", f"{arm['dice']['value']:.3f}", _interval(arm["dice"]), runs]
        lines.append(f"| {' | '.join([*cells, *_comparison(against.get(arm['name']))])} |")
    names = [row["label_names"][str(label)] for label in row["labels"]]
    lines += ["", f"| Dice | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm in row["arms"]:
        cells = [_number(score["dice"]["value"]) for score in arm["labels"]]
        lines.append(f"| {arm['name']} | {' | '.join(cells)} |")
    counts = [str(score["patients"]) for score in row["arms"][0]["labels"]]
    lines.append(f"| held-out patients | {' | '.join(counts)} |")
    patch = " x ".join(str(extent) for extent in settings["patch"])
    minutes = sum(fold["seconds"] for arm in row["arms"] for fold in arm["folds"]) / 60
    plan = settings["generation"]
    source = "" if plan is None else f", made by plan `{plan['plan']['name']}` ({plan['plan']['sha256'][:12]})"
    note = f" ({settings['note']})" if settings["note"] else ""
    return [
        *lines,
        "",
        f"{row['real']['volumes']} real volumes of {row['real']['patients']} patients, {row['synthetic']['volumes']} "
        f"synthetic ones{source}, judged on {row['held_out']['patients']} held-out patients{note}. Every network: "
        f"{settings['steps']} steps of {settings['batch']} patch of {patch} voxels; {settings['folds']} runs each, "
        f"{minutes:.0f} minutes of training in all.",
        "",
        records.where(row),
    ]


def _comparison(found: Row | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    figure = found["difference"]
    return [f"{figure['value']:+.3f} ({_interval(figure, '+')})", f"{found['corrected']:.2g}", found["verdict"]]


def _interval(figure: Row, sign: str = "") -> str:
    return "" if figure["low"] is None else f"{figure['low']:{sign}.3f} to {figure['high']:{sign}.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


TABLES = {"downstream": ("downstream", downstream)}
