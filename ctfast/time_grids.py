"""Which time grid a request samples on: one by name, the plan's tuned one, or times of the caller's own.

Times are where a solver's steps begin, falling from the number of training steps, before the transform for size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RequestError

if TYPE_CHECKING:
    from .json_fields import Fields
    from .manifest import Schedule

UNTUNED = ("monai", "exact")
TIME_GRIDS = (*UNTUNED, "tuned")
#: What metadata call times that came with the request.
GIVEN = "given"
#: The first format of the manifest in which a schedule's time grid may be "tuned".
TUNED_FORMAT = 2


@dataclass(frozen=True)
class TunedGrid:
    """Times fitted to a plan's own model, for as many steps of one solver.

    ``otherwise`` is the plan's grid for requests of other steps; ``about`` tells how the times were found.
    """

    solver: str
    times: tuple[float, ...]
    otherwise: str
    about: Mapping[str, Any] = field(default_factory=dict)


def read_tuned(fields: Fields, solvers: tuple[str, ...], train_steps: int) -> TunedGrid:
    """The manifest's ``schedule.tuned``; problems are noted in ``fields``."""
    times = fields.values("times")
    problem = times_problem(times, train_steps)
    if problem is not None:
        fields.note("times", problem)
    result = TunedGrid(
        solver=fields.text("solver", solvers),
        times=() if problem is not None else tuple(float(time) for time in times),
        otherwise=fields.text("otherwise", UNTUNED),
        about=fields.mapping("about") if fields.has("about") else {},
    )
    fields.finish()
    return result


def time_grid_problems(schedule: Schedule, manifest_format: int) -> Iterator[str]:
    """What of a manifest's schedule contradicts its tuned grid."""
    tuned = schedule.tuned
    if tuned is not None and schedule.kind != "rflow":
        yield f"schedule.tuned: is for kind rflow, and schedule.kind is {schedule.kind}"
    if schedule.time_grid != "tuned":
        return
    if manifest_format < TUNED_FORMAT:
        yield f"format: expected {TUNED_FORMAT} or more, since schedule.time_grid is tuned, found {manifest_format}"
    if tuned is None:
        yield "schedule.tuned: is missing, but schedule.time_grid is tuned"
    elif (len(tuned.times), tuned.solver) != (schedule.steps, schedule.solver):
        yield (
            f"schedule: time_grid is tuned for {len(tuned.times)} steps of {tuned.solver}, and the default is "
            f"{schedule.steps} steps of {schedule.solver}"
        )


def chosen(asked: object, schedule: Schedule, steps: int, solver: str) -> tuple[str, tuple[float, ...] | None]:
    """Name of the grid for a checked number of steps and solver, and its times if ctfast does not compute them.

    ``asked`` is the request's ``time_grid``. RequestError: there is no such grid, or not for these steps.
    """
    if isinstance(asked, str) or asked is None:
        return _named(asked, schedule, steps, solver)
    if schedule.kind != "rflow" or not isinstance(asked, Sequence | np.ndarray):
        raise RequestError(f"time_grid: expected one of {', '.join(UNTUNED)}, found {_shown(asked)}")
    problem = times_problem(asked, schedule.train_steps)
    if problem is not None:
        raise RequestError(f"time_grid: {problem}")
    if len(asked) != steps:
        raise RequestError(f"time_grid: expected as many times as steps, {steps}, found {len(asked)}; leave steps out")
    return GIVEN, tuple(float(time) for time in asked)


def steps_of(asked: object, schedule: Schedule) -> int:
    """The steps of a request that does not give them: as many as it has times, else the plan's default."""
    listed = isinstance(asked, Sequence | np.ndarray) and not isinstance(asked, str | bytes)
    return len(asked) if listed and len(asked) > 0 else schedule.steps  # type: ignore[arg-type]


def times_problem(times: Any, train_steps: int) -> str | None:
    """What is wrong with the times, if anything."""
    legal = f"expected times that begin at {train_steps} and fall, all above 0"
    values = list(times)
    if not values or not all(_is_number(time) for time in values):
        return f"{legal}, found {_shown(times)}"
    if len(values) > train_steps:
        return f"expected at most {train_steps} times, found {len(values)}"
    later = [math.inf, *values]
    wrong = next((i for i, time in enumerate(values) if not 0 < time < later[i]), None)
    if values[0] != train_steps or wrong is not None:
        return f"{legal}, found {values[wrong or 0]:g} at step {(wrong or 0) + 1}"
    return None


def _named(asked: str | None, schedule: Schedule, steps: int, solver: str) -> tuple[str, tuple[float, ...] | None]:
    tuned = schedule.tuned
    fits = tuned is not None and (steps, solver) == (len(tuned.times), tuned.solver)
    if asked is None and not (fits and schedule.time_grid == "tuned"):
        return _usual(schedule, solver), None
    if asked in UNTUNED:
        return asked, None
    if asked not in (None, "tuned"):
        raise RequestError(f"time_grid: expected one of {', '.join(TIME_GRIDS)}, found {asked!r}")
    if tuned is None:
        raise RequestError(
            f"time_grid: the plan has no tuned one; expected one of {', '.join(UNTUNED)}, or make a plan that has one "
            "with 'ctfast evaluate --tune'"
        )
    if not fits:
        raise RequestError(
            f"time_grid: the plan's tuned one is for {len(tuned.times)} steps of {tuned.solver}, found {steps} steps "
            f"of {solver}; leave steps and solver out, or the time grid"
        )
    return "tuned", tuned.times


def _usual(schedule: Schedule, solver: str) -> str:
    """The grid of requests that ask for none. The official one is made for Euler's steps; others lose their order."""
    if schedule.kind == "rflow" and solver != "euler":
        return "exact"
    return schedule.tuned.otherwise if schedule.time_grid == "tuned" and schedule.tuned else schedule.time_grid


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
