"""What an evaluation gives: metrics with their intervals, and figures per volume, as JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import RequestError
from ..json_fields import Fields
from .saved import saved_fields, saved_text

FORMAT = 1
GROUPS = ("distribution", "diversity", "reconstruction", "masks", "organs", "memorisation")
BETTER = ("lower", "higher")


@dataclass(frozen=True)
class Metric:
    """One figure of a set.

    ``low`` and ``high`` bound its 95 % interval by bootstrap, None where there is none. ``better`` is "lower", "higher"
    or None where neither is. ``count`` is how many volumes of the generated and of the reference set went in.
    ``comparable`` says whether papers' figures may stand beside it. ``method`` is one sentence, ``parts`` holds what
    the value is made of (per plane, per organ) or is to be seen beside (the reference set's own figure).
    """

    name: str
    group: str
    value: float | None
    unit: str
    better: str | None
    count: tuple[int, int]
    comparable: bool
    method: str
    low: float | None = None
    high: float | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetOfVolumes:
    """Which folder, and how many of its volumes were used."""

    path: str
    volumes: int


@dataclass(frozen=True)
class FeatureInfo:
    """Which network made the features; ``sha256`` is that of the user's file, None for random features."""

    network: str
    sha256: str | None
    comparable: bool


@dataclass(frozen=True)
class Evaluation:
    """Everything that one comparison found.

    ``skipped`` tells for each metric that was left out why it was. ``training`` is the set that the model was trained
    on, if one was given; ``paired`` whether volumes of the same name belong together.
    """

    ctfast: str
    date: str
    generated: SetOfVolumes
    reference: SetOfVolumes
    preset: str
    features: FeatureInfo
    metrics: tuple[Metric, ...]
    per_volume: tuple[Mapping[str, Any], ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    training: SetOfVolumes | None = None
    paired: bool = False

    def metric(self, name: str) -> Metric:
        """The metric of a name; RequestError if it was not computed, with the reason."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        why = self.skipped.get(name, f"computed were {', '.join(metric.name for metric in self.metrics)}")
        raise RequestError(f"there is no metric '{name}': {why}")

    def skipped_by_reason(self) -> dict[str, list[str]]:
        """The metrics that were left out, by why they were."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(str(reason), []).append(name)
        return reasons

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that are not finite become null."""
        content = _finite({"format": FORMAT, **asdict(self)})
        assert isinstance(content, dict)
        return content

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, what: str = "the result") -> Evaluation:
        """Read what ``to_json`` wrote; RequestError lists everything that is wrong with it."""
        fields, problems = saved_fields(text, what, "the JSON that 'ctfast evaluate' writes", FORMAT)
        features = fields.child("features")
        result = cls(
            ctfast=fields.text("ctfast"),
            date=fields.text("date"),
            generated=_set_of(fields.child("generated")),
            reference=_set_of(fields.child("reference")),
            preset=fields.text("preset"),
            features=FeatureInfo(
                features.text("network"),
                features.text("sha256") if features.has("sha256") else None,
                features.flag("comparable"),
            ),
            metrics=tuple(_metric(each) for each in fields.items("metrics")),
            per_volume=fields.values("per_volume"),
            skipped=fields.mapping("skipped"),
            training=_set_of(fields.child("training")) if fields.has("training") else None,
            paired=fields.flag("paired") if fields.has("paired") else False,
        )
        features.finish()
        fields.finish()
        if not all(isinstance(row, Mapping) and isinstance(row.get("name"), str) for row in result.per_volume):
            problems.append("per_volume: expected objects with a name")
        if problems:
            raise RequestError(f"{what}: not what 'ctfast evaluate' writes: {'; '.join(problems[:5])}")
        return result

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read a result's file; RequestError if it is missing or no result."""
        return cls.from_json(saved_text(path, "ctfast evaluate"), f"'{path}'")


def is_figure(value: Any) -> TypeGuard[float]:
    """Whether a value of a result is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _set_of(fields: Fields) -> SetOfVolumes:
    result = SetOfVolumes(fields.text("path"), fields.whole("volumes", 0))
    fields.finish()
    return result


def _metric(fields: Fields) -> Metric:
    generated, reference = fields.wholes("count", 0, 2)
    result = Metric(
        name=fields.text("name"),
        group=fields.text("group", GROUPS),
        value=fields.number_or_none("value"),
        unit=fields.text("unit", empty=True),
        better=fields.text("better", BETTER) if fields.has("better") else None,
        count=(generated, reference),
        comparable=fields.flag("comparable"),
        method=fields.text("method"),
        low=fields.number_or_none("low"),
        high=fields.number_or_none("high"),
        parts=fields.mapping("parts"),
    )
    fields.finish()
    return result


def _finite(value: Any) -> Any:
    """A value without NaN and infinity, which JSON has no word for, and with lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
