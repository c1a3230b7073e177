"""Quality against network calls: solvers in few steps, measured by the same seeds' volumes sampled in many.

The reference is Heun's method on the exact grid. UniPC in as many steps, another method of order 2, is measured as
well: distances near that one's say nothing, since the reference is not known any better.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import RequestError
from ..observer import Observer
from ..request import FLOW_SOLVERS, MAX_SEED, MAX_STEPS
from .distances import References, Row
from .metered import Metered
from .subject import Setting, Subject

REFERENCE_STEPS = 200
REFERENCE_SOLVER = "heun"
CHECK_SOLVER = "unipc"
#: What others are compared with: the official scripts' default.
BASELINE = Setting("euler", "monai", 30)
FORMAT = 1


@dataclass(frozen=True)
class Smallest:
    """The fewest steps with which a solver is as close to the reference as the baseline; None: none that were tried.

    ``tried`` is the most steps that were tried.
    """

    solver: str
    time_grid: str
    tried: int
    row: Row | None


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: ``rows`` as asked for, and ``refined``, those that the search for the fewest steps added."""

    about: Mapping[str, Any]
    seeds: tuple[int, ...]
    span: float
    reference: Setting
    agreement: Row
    baseline: Row
    rows: tuple[Row, ...]
    refined: tuple[Row, ...]
    smallest: tuple[Smallest, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        reference = {
            "solver": self.reference.solver,
            "time_grid": self.reference.time_grid,
            "steps": self.reference.steps,
            "calls": self.reference.calls,
            "agreement": self.agreement.as_dict(self.span),
        }
        return {
            "format": FORMAT,
            "kind": "sweep",
            "ctfast": __version__,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **self.about,
            "seeds": list(self.seeds),
            "span": self.span,
            "reference": reference,
            "baseline": self.baseline.as_dict(self.span),
            "rows": [row.as_dict(self.span) for row in self.rows],
            "refined": [row.as_dict(self.span) for row in self.refined],
            "smallest": [self._smallest(each) for each in self.smallest],
            "seconds": round(self.seconds, 1),
        }

    def _smallest(self, found: Smallest) -> dict[str, Any]:
        head = {"solver": found.solver, "time_grid": found.time_grid, "steps_tried": found.tried}
        if found.row is None:
            return {**head, "steps": None, "calls": None, "image_rms": None, "seeds_within": None}
        row = found.row
        return {
            **head,
            "steps": row.setting.steps,
            "calls": row.setting.calls,
            "image_rms": row.image_rms,
            "seeds_within": row.within(self.baseline),
        }


def usual_grid(solver: str) -> str:
    """The grid that a solver has unless another is asked for."""
    return "monai" if solver == "euler" else "exact"


def sweep(
    subject: Subject,
    solvers: Sequence[str],
    steps: Sequence[int],
    seeds: Sequence[int],
    *,
    time_grid: str | None = None,
    reference_steps: int = REFERENCE_STEPS,
    observer: Observer,
) -> Sweep:
    """Measure every solver with every number of steps, and find the fewest steps that do what the baseline does.

    ``time_grid`` None gives each solver its usual one. Between a number of steps that is enough and the next smaller
    one of ``steps`` that is not, the fewest are found by bisection: more steps count as no worse. The observer hears of
    stages "sweep" and "refine", in network calls. RequestError: an argument that makes no sense; CancelledError: the
    observer wants to stop.
    """
    check_arguments(solvers, steps, seeds, reference_steps)
    start = time.monotonic()
    reference = Setting(REFERENCE_SOLVER, "exact", reference_steps)
    check = Setting(CHECK_SOLVER, "exact", reference_steps)
    settings = [Setting(solver, time_grid or usual_grid(solver), count) for solver in solvers for count in steps]
    wanted = list(dict.fromkeys([check, BASELINE, *settings]))
    metered = Metered(
        subject, observer, "sweep", len(seeds) * (reference.calls + sum(setting.calls for setting in wanted))
    )
    with tempfile.TemporaryDirectory(prefix="ctfast-sweep-") as folder:
        references = References(metered, reference, seeds, Path(folder), metered.observe)
        measured = {setting: references.row(setting, metered.observe) for setting in wanted}
        baseline = measured[BASELINE]
        refined: dict[Setting, Row] = {}

        def measure(setting: Setting) -> Row:
            if setting not in measured:
                measured[setting] = refined[setting] = references.row(setting, metered.observe)
            return measured[setting]

        metered.restart("refine", _most_refining_calls(solvers, steps) * len(seeds))
        smallest = tuple(
            _fewest(solver, time_grid or usual_grid(solver), sorted(set(steps)), baseline, measure)
            for solver in solvers
        )
    return Sweep(
        about=subject.about(),
        seeds=tuple(seeds),
        span=references.span,
        reference=reference,
        agreement=measured[check],
        baseline=baseline,
        rows=tuple(measured[setting] for setting in settings),
        refined=tuple(refined.values()),
        smallest=smallest,
        seconds=time.monotonic() - start,
    )


def _fewest(solver: str, grid: str, steps: Sequence[int], baseline: Row, measure: Callable[[Setting], Row]) -> Smallest:
    """The fewest steps that reach the baseline, by bisection below the first of ``steps`` that does."""

    def reaches(count: int) -> bool:
        return measure(Setting(solver, grid, count)).image_rms <= baseline.image_rms

    enough = next((count for count in steps if reaches(count)), None)
    if enough is None:
        return Smallest(solver, grid, steps[-1], None)
    too_few = max((count for count in steps if count < enough), default=0)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if reaches(middle):
            enough = middle
        else:
            too_few = middle
    return Smallest(solver, grid, steps[-1], measure(Setting(solver, grid, enough)))


def _most_refining_calls(solvers: Sequence[str], steps: Sequence[int]) -> int:
    """An upper limit, for the progress bar."""
    ordered = [0, *sorted(set(steps))]
    gaps = [(high - low, high) for low, high in pairwise(ordered)]
    most = max(math.ceil(math.log2(gap)) * high if gap > 1 else 0 for gap, high in gaps)
    return sum(Setting(solver, "", most).calls for solver in solvers)


def check_arguments(solvers: Sequence[str], steps: Sequence[int], seeds: Sequence[int], reference_steps: int) -> None:
    """RequestError unless the numbers are legal, each solver and seed comes once, and the reference has most steps."""
    unknown = [solver for solver in solvers if solver not in FLOW_SOLVERS]
    if unknown or not solvers:
        raise RequestError(f"solver: expected some of {', '.join(FLOW_SOLVERS)}, found {', '.join(unknown) or 'none'}")
    if len(set(solvers)) < len(solvers):
        raise RequestError(f"solver: expected each once, found {', '.join(solvers)}")
    if not steps or min(steps) < 1 or max(steps) > MAX_STEPS:
        raise RequestError(f"steps: expected whole numbers from 1 to {MAX_STEPS}, found {', '.join(map(str, steps))}")
    least = max(*steps, BASELINE.steps)
    if not least < reference_steps <= MAX_STEPS:
        raise RequestError(
            f"reference steps: expected more than the {least} that are compared with them, at most {MAX_STEPS}, "
            f"found {reference_steps}"
        )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise RequestError(f"seeds: expected one or more different whole numbers from 0 to 2^64 - 1, found {seeds!r}")
