"""A copy of a plan with a tuned time grid as its default."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import RequestError
from ..observer import Observer
from ..plan import Plan, write
from ..time_grids import TUNED_FORMAT, TunedGrid


def check_target(source: Path, target: str | os.PathLike[str]) -> None:
    """RequestError if the copy would take the plan's own place."""
    if os.path.exists(target) and os.path.samefile(source, target):
        raise RequestError(f"'{os.fspath(target)}' is the plan that was tuned: give the copy another name")


def usual_grid_of(plan: Plan) -> str:
    """The plan's default grid of requests that a tuned one is not for."""
    schedule = plan.manifest.schedule
    return schedule.tuned.otherwise if schedule.time_grid == "tuned" and schedule.tuned else schedule.time_grid


def write_tuned(source: Path, target: str | os.PathLike[str], grid: TunedGrid, observer: Observer | None = None) -> str:
    """Write the copy, whole or not at all, and return its identity.

    Its sections are the plan's, byte by byte, and were compared with their checksums first, so that no damage gets new
    ones; of the manifest only the schedule and the format change. PlanError: the plan is damaged; OutputError: the copy
    cannot be written; RequestError: it would take the plan's place.
    """
    check_target(source, target)
    plan = Plan.open(source)
    plan.verify(observer)
    manifest = json.loads(plan.manifest_text)
    manifest["format"] = max(manifest["format"], TUNED_FORMAT)
    manifest["schedule"] |= {
        "steps": len(grid.times),
        "solver": grid.solver,
        "time_grid": "tuned",
        "tuned": {
            "solver": grid.solver,
            "times": list(grid.times),
            "otherwise": grid.otherwise,
            "about": dict(grid.about),
        },
    }
    write(target, manifest, {section.name: plan.section(section.name) for section in plan.sections})
    return Plan.open(target).identity
