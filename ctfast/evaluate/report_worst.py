"""Which volumes a reader should look at first: the worst by each figure that there is per volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .report_charts import values_of
from .report_html import number
from .result import Evaluation, is_figure

_EACH = 2


@dataclass(frozen=True)
class _Rule:
    """A figure per volume; ``most`` tells whether the largest are the worst. ``beside``: the set to show it with."""

    key: str
    most: bool
    unit: str
    about: str
    beside: str | None = None


_RULES = (
    _Rule("descriptor_z", True, "standard deviations", "descriptors farthest from the reference set's mean"),
    _Rule("organ_outliers", True, "", "the largest part of organs with HU outside the real bounds"),
    _Rule("mask_coherence", False, "", "HU change least at the borders of its labels"),
    _Rule("nearest_training", False, "HU", "nearest to a training volume", "training"),
    _Rule("dice", False, "", "label map agrees least with its namesake", "reference"),
    _Rule("psnr", False, "dB", "differs most from its namesake", "reference"),
)


@dataclass
class Case:
    """A volume of the generated set, why it is listed, and by set which volumes to show beside it."""

    name: str
    reasons: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)


def worst_cases(result: Evaluation) -> list[Case]:
    """The two worst generated volumes by each figure, each volume once with everything that it is listed for."""
    cases: dict[str, Case] = {}
    for rule in _RULES:
        rows = [row for row in result.per_volume if row.get("set") == "generated" and is_figure(row.get(rule.key))]
        rows.sort(key=lambda row: -row[rule.key] if rule.most else row[rule.key])
        for row in rows[:_EACH]:
            if rule.key == "organ_outliers" and row[rule.key] == 0:
                continue
            case = cases.setdefault(row["name"], Case(row["name"]))
            case.reasons.append(_reason(rule, row[rule.key], values_of(result, "reference", rule.key), row))
            if rule.beside == "training" and isinstance(row.get("nearest"), str):
                case.beside["training"] = row["nearest"]
            elif rule.beside == "reference":
                case.beside["reference"] = row["name"]
    return list(cases.values())


def _reason(rule: _Rule, value: float, real: list[float], row: Mapping[str, Any]) -> str:
    reason = f"{rule.key} {number(value)}{' ' + rule.unit if rule.unit else ''}: {rule.about}"
    if rule.beside == "training" and isinstance(row.get("nearest"), str):
        reason += f", '{row['nearest']}'"
    if real:
        reason += f"; reference volumes have {number(min(real))} to {number(max(real))}"
    return reason
