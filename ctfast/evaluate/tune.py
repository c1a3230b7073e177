"""Fits a time grid to a plan's own model: so that few steps of a solver end where many would.

The times are those of equal steps p = 1, 1 - 1/N, ..., 1/N through u(p) = 1 - (1 - p^a)^b, the distribution function of
Kumaraswamy (1980), which is increasing for all positive a and b and leaves the steps equal for a = b = 1. The two
numbers are fitted by the Nelder-Mead method on some seeds' latents, and what they are worth is measured on the images
of other seeds.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scipy.optimize import minimize

from .._version import __version__
from ..errors import RequestError
from ..observer import Observer
from ..time_grids import TunedGrid, times_problem
from .distances import References, Row
from .metered import Metered
from .subject import Setting, Subject
from .sweep import BASELINE, FORMAT, REFERENCE_SOLVER, REFERENCE_STEPS, check_arguments, usual_grid

#: How often the fit may sample all seeds.
EVALUATIONS = 60
#: Limits of log a and log b: steps beyond them would differ in length by orders of magnitude.
_LIMIT = 2.0
#: The distance of times so close that they are the same number: finite, since the fit subtracts distances.
_ILLEGAL = 1e30


@dataclass(frozen=True)
class Tuned:
    """A fitted grid. ``checks`` are the distances of seeds that it was not fitted to: its own, and other settings'."""

    about: Mapping[str, Any]
    setting: Setting
    parameters: tuple[float, float]
    fit_seeds: tuple[int, ...]
    fitted_rms: float
    even_rms: float
    evaluations: int
    span: float
    reference: Setting
    check: Row
    others: tuple[Row, ...]

    @property
    def better(self) -> bool:
        """Whether its images are closer to the reference than those of the other grids in as many steps."""
        rivals = [row for row in self.others if row.setting != BASELINE]
        return all(self.check.image_rms < row.image_rms for row in rivals)

    def grid(self, otherwise: str) -> TunedGrid:
        """What a plan keeps; ``otherwise`` is its grid for other steps."""
        result = self.as_dict()
        kept = ("ctfast", "date", "plan", "request", "parameters", "reference", "fit", "check", "others")
        about = {key: result[key] for key in kept if key in result}
        assert self.setting.times is not None
        return TunedGrid(self.setting.solver, self.setting.times, otherwise, about)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": FORMAT,
            "kind": "tune",
            "ctfast": __version__,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **self.about,
            "solver": self.setting.solver,
            "steps": self.setting.steps,
            "calls": self.setting.calls,
            "times": list(self.setting.times or ()),
            "parameters": {"a": self.parameters[0], "b": self.parameters[1]},
            "span": self.span,
            "reference": {"solver": self.reference.solver, "steps": self.reference.steps},
            "fit": {
                "seeds": list(self.fit_seeds),
                "evaluations": self.evaluations,
                "latent_rms": self.fitted_rms,
                "latent_rms_of_equal_steps": self.even_rms,
            },
            "better": self.better,
            "check": self.check.as_dict(self.span),
            "others": [row.as_dict(self.span) for row in self.others],
        }


def times_of(steps: int, a: float, b: float, train_steps: int) -> tuple[float, ...]:
    """The family's times: falling from ``train_steps``, before the transform for size."""
    even = (1 - i / steps for i in range(steps))
    return tuple(float(train_steps * (1 - (1 - p**a) ** b)) for p in even)


def tune(
    subject: Subject,
    solver: str,
    steps: int,
    fit_seeds: Sequence[int],
    check_seeds: Sequence[int],
    *,
    reference_steps: int = REFERENCE_STEPS,
    observer: Observer,
) -> Tuned:
    """Fit a grid of ``steps`` steps on some seeds and measure it on others.

    The observer hears of stages "tune" and "check", in network calls. RequestError: an argument that makes no sense;
    CancelledError: the observer wants to stop.
    """
    check_arguments([solver], [steps], [*fit_seeds, *check_seeds], reference_steps)
    if not fit_seeds or not check_seeds:
        raise RequestError("seeds: expected some to fit to and others to check with, found none of one kind")
    reference = Setting(REFERENCE_SOLVER, "exact", reference_steps)
    others = [Setting(solver, grid, steps) for grid in dict.fromkeys((usual_grid(solver), "exact"))] + [BASELINE]
    calls = Setting(solver, "tuned", steps).calls
    metered = Metered(subject, observer, "tune", len(fit_seeds) * (reference.calls + EVALUATIONS * calls))
    with tempfile.TemporaryDirectory(prefix="ctfast-tune-") as folder:
        references = References(metered, reference, fit_seeds, Path(folder), metered.observe)
        fit = _Fit(references, solver, steps, subject.train_steps(), metered.observe)
        parameters = fit.run()
    best = fit.setting(*parameters)
    in_check = reference.calls + calls + sum(setting.calls for setting in others)
    metered.restart("check", len(check_seeds) * in_check)
    with tempfile.TemporaryDirectory(prefix="ctfast-tune-") as folder:
        references = References(metered, reference, check_seeds, Path(folder), metered.observe)
        check = references.row(best, metered.observe)
        rows = tuple(references.row(setting, metered.observe) for setting in others)
    return Tuned(
        about=subject.about(),
        setting=best,
        parameters=parameters,
        fit_seeds=tuple(fit_seeds),
        fitted_rms=fit.seen[parameters],
        even_rms=fit.seen[1.0, 1.0],
        evaluations=len(fit.seen),
        span=references.span,
        reference=reference,
        check=check,
        others=rows,
    )


class _Fit:
    """The search for a and b; ``seen`` keeps what was measured, so that the best is the best of all that were tried."""

    def __init__(self, references: References, solver: str, steps: int, train_steps: int, observer: Observer) -> None:
        self._references = references
        self._solver = solver
        self._steps = steps
        self._train_steps = train_steps
        self._observer = observer
        self.seen: dict[tuple[float, float], float] = {}

    def setting(self, a: float, b: float) -> Setting:
        times = times_of(self._steps, a, b, self._train_steps)
        return Setting(self._solver, "tuned", self._steps, times)

    def run(self) -> tuple[float, float]:
        """The parameters whose latents are closest to the references'; equal steps are always among the tried."""
        self._distance((0.0, 0.0))
        options = {
            "initial_simplex": [[0.0, 0.0], [0.4, 0.0], [0.0, 0.4]],
            "maxfev": EVALUATIONS,
            "xatol": 0.01,
            "fatol": 1e-6,
        }
        bounds = [(-_LIMIT, _LIMIT)] * 2
        minimize(self._distance, (0.0, 0.0), method="Nelder-Mead", bounds=bounds, options=options)
        return min(self.seen, key=self.seen.__getitem__)

    def _distance(self, logs: Sequence[float]) -> float:
        a, b = (math.exp(float(value)) for value in logs)
        setting = self.setting(a, b)
        if times_problem(setting.times, self._train_steps) is not None:
            return _ILLEGAL
        if (a, b) not in self.seen:
            self.seen[a, b] = self._references.latent_rms(setting, self._observer)
        return self.seen[a, b]
