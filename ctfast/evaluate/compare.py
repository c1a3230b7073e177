"""Two evaluations metric by metric: which figures are clearly better or worse, and which may not be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bootstrap import Interval, percentiles
from .compare_rules import Common, common_of, refusal
from .memorisation import too_near
from .result import Evaluation, Metric, is_figure

FORMAT = 1
BETTER, WORSE, DIFFERENT, UNCLEAR, REFUSED = "better", "worse", "different", "no clear difference", "not compared"
REPLICATES = 2000
# The bootstrap of fewer volumes gives intervals that are too narrow: five that change the same way do so by chance
# in 6 % of cases.
_FEWEST = 6
# How near a figure has to be to the one that is formed again from the volumes.
_SAME = 1e-6


@dataclass(frozen=True)
class Figure:
    """A metric of one run with its interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ComparedMetric:
    """A metric of both runs.

    ``difference`` is new less old, ``low`` and ``high`` bound its 95 % interval where there is one. ``how`` it was
    tested: "paired" or "volumes" (bootstrap), "intervals", or None. ``verdict`` is one of this module's, ``why`` says
    what it rests on.
    """

    name: str
    unit: str
    better: str | None
    old: Figure
    new: Figure
    difference: float | None
    low: float | None
    high: float | None
    how: str | None
    verdict: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """What two evaluations say about each other; ``missing`` are the metrics that only one of them has."""

    old: Evaluation
    new: Evaluation
    metrics: tuple[ComparedMetric, ...]
    missing: Mapping[str, str]

    def with_verdict(self, verdict: str) -> list[str]:
        """The names of the metrics with a verdict."""
        return [metric.name for metric in self.metrics if metric.verdict == verdict]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": FORMAT,
            "old": _about(self.old),
            "new": _about(self.new),
            "metrics": [asdict(metric) for metric in self.metrics],
            "missing": dict(self.missing),
        }

    def to_json(self) -> str:
        """The comparison as JSON text."""
        return json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"


def compare(old: Evaluation, new: Evaluation, *, replicates: int = REPLICATES, seed: int = 0) -> Comparison:
    """Compare the metrics that two evaluations share.

    Where a metric is formed from one figure per volume and both results hold them, the difference new less old is
    drawn again: ``replicates`` times as many volumes as there are, with replacement, and the metric is formed of them.
    If both runs judged volumes of the same names, the same ones are drawn in both (paired), which a difference in the
    volumes themselves does not disturb; otherwise they are drawn apart. A difference is clear if the 2.5th to 97.5th
    percentile of the drawn ones does not hold 0, in sets of six volumes or more.

    Distances of whole sets have no figure per volume. There a difference is clear if the two 95 % intervals do not
    overlap, which is stricter: of sets that are alike less than one in a hundred is called different.

    Every metric is tested by itself. Among twenty, one is likely to be called different by chance, so look at the size
    of a difference and at what else moved with it.

    Figures of different presets, feature networks, reference or training sets are not compared.
    """
    common = common_of(old, new)
    others = {metric.name: metric for metric in new.metrics}
    found = [
        _compared(metric, others[metric.name], (old, new), common, replicates, seed)
        for metric in old.metrics
        if metric.name in others
    ]
    names = {metric.name for metric in old.metrics}
    missing = {metric.name: "only in the old result" for metric in old.metrics if metric.name not in others}
    missing |= {metric.name: "only in the new result" for metric in new.metrics if metric.name not in names}
    return Comparison(old, new, tuple(found), missing)


def _compared(
    old: Metric, new: Metric, runs: tuple[Evaluation, Evaluation], common: Common, replicates: int, seed: int
) -> ComparedMetric:
    figures = _figure(old), _figure(new)

    def told(
        verdict: str, why: str, how: str | None = None, difference: float | None = None, bounds: Interval = (None, None)
    ) -> ComparedMetric:
        return ComparedMetric(new.name, new.unit, new.better, *figures, difference, *bounds, how, verdict, why)

    reason = refusal(old, new, common)
    if reason is not None:
        return told(REFUSED, reason)
    if not is_figure(old.value) or not is_figure(new.value):
        return told(REFUSED, "one of the results has no value")
    difference = new.value - old.value
    first, second = _samples(old, runs[0]), _samples(new, runs[1])
    if first is not None and second is not None:
        paired = first.keys() == second.keys()
        how = "paired" if paired else "volumes"
        count = min(len(first), len(second))
        if count < _FEWEST:
            return told(UNCLEAR, f"{count} volumes are too few to tell; {_FEWEST} are needed", None, difference)
        bounds = _drawn(first, second, _form(new.name), paired, replicates, seed)
        clear = bounds[0] is not None and bounds[1] is not None and (bounds[0] > 0 or bounds[1] < 0)
        drawn = "the same volumes drawn in both" if paired else "volumes drawn apart"
        why = f"the interval of the difference {'does not hold' if clear else 'holds'} 0 ({drawn})"
        return told(_verdict(clear, difference, new.better), why, how, difference, bounds)
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return told(UNCLEAR, "one of the figures has no interval", None, difference)
    count = min(each.count[0] or each.count[1] for each in (old, new))
    if count < _FEWEST:
        return told(UNCLEAR, f"{count} volumes are too few to tell; {_FEWEST} are needed", None, difference)
    clear = new.low > old.high or new.high < old.low
    why = f"the two intervals {'do not overlap' if clear else 'overlap'}"
    return told(_verdict(clear, difference, new.better), why, "intervals", difference)


def _figure(metric: Metric) -> Figure:
    value, low, high = (each if is_figure(each) else None for each in (metric.value, metric.low, metric.high))
    return Figure(value, low, high)


def _verdict(clear: bool, difference: float, better: str | None) -> str:
    if not clear:
        return UNCLEAR
    if better is None:
        return DIFFERENT
    return BETTER if (difference > 0) == (better == "higher") else WORSE


def _form(name: str) -> Callable[[Any], Any]:
    """How a metric is formed from its figures per volume."""
    return np.median if name == "nearest_training" else np.mean


def _samples(metric: Metric, result: Evaluation) -> dict[str, float] | None:
    """The metric's figure for each volume by name; None unless they give its value."""
    which = "reference" if metric.name.endswith("_vae") else "generated"
    found = _column(result, which, metric.name)
    if metric.name == "memorised":
        made, real = (_column(result, each, "nearest_training") for each in ("generated", "reference"))
        if made and real:
            flags = too_near(np.array(list(made.values())), np.array(list(real.values())))
            found = dict(zip(made, flags.astype(float).tolist(), strict=True))
    if not found or metric.value is None:
        return None
    formed = float(_form(metric.name)(list(found.values())))
    return found if abs(formed - metric.value) <= _SAME * max(1.0, abs(metric.value)) else None


def _column(result: Evaluation, which: str, key: str) -> dict[str, float]:
    return {
        row["name"]: float(row[key]) for row in result.per_volume if row.get("set") == which and is_figure(row.get(key))
    }


def _drawn(
    old: Mapping[str, float],
    new: Mapping[str, float],
    form: Callable[[Any], Any],
    paired: bool,
    replicates: int,
    seed: int,
) -> Interval:
    first, second = (np.array([each[name] for name in sorted(each)]) for each in (old, new))
    random = np.random.default_rng(seed)
    found = []
    for _ in range(replicates):
        chosen = random.integers(len(first), size=len(first))
        other = chosen if paired else random.integers(len(second), size=len(second))
        found.append(float(form(second[other]) - form(first[chosen])))
    return percentiles(found)


def _about(result: Evaluation) -> dict[str, Any]:
    """Which evaluation it was."""
    return {
        "ctfast": result.ctfast,
        "date": result.date,
        "generated": asdict(result.generated),
        "reference": asdict(result.reference),
        "preset": result.preset,
        "features": asdict(result.features),
    }
