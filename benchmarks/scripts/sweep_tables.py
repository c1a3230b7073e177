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
    """What tuned time grids do on seeds that they were not fitted to: the last of each solver and number of steps."""
    last = {(row["solver"], row["calls"]): row for row in rows}
    if not last:
        return []
    lines = ["| | calls | tuned | exact grid | monai grid |", "|---|---|---|---|---|"]
    for (solver, calls), row in sorted(last.items(), key=lambda item: (item[0][1], item[0][0])):
        others = {each["time_grid"]: each for each in row["others"] if each["steps"] == row["steps"]}
        cells = [
            f"{each['image_rms']:.1f} {row['unit']}" if each else ""
            for each in (row["check"], others.get("exact"), others.get("monai"))
        ]
        lines.append(f"| `{solver}` | {calls} | {' | '.join(cells)} |")
    row = rows[-1]
    note = f" ({row['settings']['note']})" if row["settings"]["note"] else ""
    seeds = f"{len(row['fit']['seeds'])} seeds to fit to, {len(row['check']['per_seed'])} others to measure with{note}"
    return [*lines, "", f"Plan `{row['settings']['plan']['name']}`; {seeds}.", "", records.where(row)]


TABLES = {"sweep": ("sweep", sweep), "tuned": ("tune", tuned)}
