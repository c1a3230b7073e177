"""Where plans are."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import PlanError, RequestError

DEFAULT_PLAN = "headneck"
PLANS = Path(__file__).parent / "plans"


def embedded_plans() -> dict[str, Path]:
    """The plans inside the package, by name."""
    return {path.stem: path for path in sorted(PLANS.glob("*.plan"))}


def plan_path(plan: str | os.PathLike[str] | None) -> Path:
    """The file of a plan: None is the embedded default, a bare name an embedded plan, anything else a path.

    PlanError if there is no such plan.
    """
    embedded = embedded_plans()
    if plan is None:
        if DEFAULT_PLAN not in embedded:
            raise PlanError(
                f"there is no embedded plan '{DEFAULT_PLAN}'; give the path of a plan made with 'ctfast build'"
            )
        return embedded[DEFAULT_PLAN]
    if not isinstance(plan, str | os.PathLike):
        raise RequestError(f"engine: expected a path, a name, an Engine or None, found {type(plan).__name__}")
    path = Path(plan)
    if os.path.exists(path):  # unlike Path.exists, False for names that no file can have
        return path
    if os.fspath(plan) in embedded:
        return embedded[os.fspath(plan)]
    names = ", ".join(embedded) or "none"
    raise PlanError(
        f"there is no plan '{path}'; give the path of a plan file or the name of an embedded one ({names}), or make "
        "one with 'ctfast build'"
    )
