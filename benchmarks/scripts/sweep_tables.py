"""The tables of steps and solvers, out of rows that sweep.py wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import records

Row = dict[str, Any]


def sweep(rows: Sequence[Row]) -> list[str]:
    """The last sweep: distance by solver and steps, and the network calls that do what the baseline does."""
    if not rows:
        return []
    row = rows[-1]
    unit, baseline, reference = row["unit"], row["baseline"], row["reference"]
    steps = row["settings"]["steps"]
    lines = [
        f"| RMS inside the body ({unit}) | {' | '.join(f'{count} steps' for count in steps)} | calls for "
        f"{baseline['image_rms']:.1f} {unit} |",
        "|---" * (len(steps) + 2) + "|",
    ]
    for found in row["smallest"]:
        of_solver = {each["steps"]: each for each in row["rows"] if each["solver"] == found["solver"]}
        cells = [f"{of_solver[count]['image_rms']:.1f}" for count in steps]
        fewest = f"more than {max(each['calls'] for each in of_solver.values())}"
        if found["calls"] is not None:
            fewest = f"{found['calls']}"
        lines.append(f"| `{found['solver']}`, {found['time_grid']} | {' | '.join(cells)} | {fewest} |")
    agreement = reference["agreement"]
    note = f" ({row['settings']['note']})" if row["settings"]["note"] else ""
    return [
        *lines,
        "",
        f"Plan `{row['settings']['plan']['name']}`, {len(row['settings']['seeds'])} seeds{note}; reference: "
        f"{reference['solver']} in {reference['steps']} steps, from which {agreement['solver']} in as many is "
        f"{agreement['image_rms']:.1f} {unit}. {baseline['image_rms']:.1f} {unit} is what {baseline['solver']} does in "
        f"{baseline['calls']} calls on the {baseline['time_grid']} grid.",
        "",
        records.where(row),
    ]


def tuned(rows: Sequence[Row]) -> list[str]:
    """What tuned time grids do on seeds that they were not fitted to: every fit, by network calls."""
    if not rows:
        return []
    lines = [
        "| | calls | fitted to seeds | measured on | tuned | exact | monai | Euler, 30 calls | seeds closer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["calls"], row["solver"], row["fit"]["seeds"])):
        same = {each["time_grid"]: each for each in row["others"] if each["steps"] == row["steps"]}
        baseline = row["others"][-1]
        pairs = zip(row["check"]["per_seed"], baseline["per_seed"], strict=True)
        closer = sum(ours["image_rms"] <= theirs["image_rms"] for ours, theirs in pairs)
        seeds = [each["seed"] for each in row["check"]["per_seed"]]
        cells = [
            _distance(row["check"], row["unit"]),
            _distance(same.get("exact"), row["unit"]),
            _distance(same.get("monai"), row["unit"]),
            _distance(baseline, row["unit"]),
            f"{closer} of {len(seeds)}",
        ]
        where = f"{_span(row['fit']['seeds'])} | {_span(seeds)}"
        lines.append(f"| `{row['solver']}` | {row['calls']} | {where} | {' | '.join(cells)} |")
    last = rows[-1]
    note = f" ({last['settings']['note']})" if last["settings"]["note"] else ""
    return [
        *lines,
        "",
        f"Plan `{last['settings']['plan']['name']}`{note}; RMS inside the body, in as many steps on the tuned grid and "
        "on the others. *Seeds closer*: to the reference than Euler in 30 calls.",
        "",
        records.where(last),
    ]


def _distance(row: Row | None, unit: str) -> str:
    return "" if row is None else f"{row['image_rms']:.1f} {unit}"


def _span(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


TABLES = {"sweep": ("sweep", sweep), "tuned": ("tune", tuned)}
