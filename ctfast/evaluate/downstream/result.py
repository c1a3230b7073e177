"""What a downstream comparison gives: figures per arm, label, fold and patient, as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...errors import RequestError
from ...json_fields import Fields
from ..saved import saved_fields, saved_text
from .statistics import BETTER, NO_DIFFERENCE, WORSE, Figure

FORMAT = 1
KIND = "downstream"

T = TypeVar("T")


@dataclass(frozen=True)
class SetInfo:
    """Which folder, and how many of its volumes, of how many patients (or label maps), were used."""

    path: str
    volumes: int
    patients: int


@dataclass(frozen=True)
class LabelScore:
    """A label's Dice, and how many held-out patients have it."""

    label: int
    dice: Figure
    patients: int


@dataclass(frozen=True)
class FoldScore:
    """One run: the fold left out, real and synthetic volumes in its pools, patches drawn of each, Dice, seconds."""

    fold: int
    volumes: tuple[int, int]
    drawn: tuple[int, int]
    dice: float
    seconds: float


@dataclass(frozen=True)
class ArmResult:
    """An arm: the probability that a patch is synthetic, Dice of all runs together and of each.

    ``spread`` is the standard deviation of the runs' Dice.
    """

    name: str
    share: float
    dice: Figure
    spread: float
    labels: tuple[LabelScore, ...]
    folds: tuple[FoldScore, ...]


@dataclass(frozen=True)
class Comparison:
    """An arm against another, over the same held-out patients: mean difference in Dice with its interval, p-values.

    ``p`` is Wilcoxon's, ``corrected`` by Holm over all arms compared; ``higher`` counts patients of higher Dice.
    """

    arm: str
    against: str
    difference: Figure
    p: float
    corrected: float
    higher: int
    patients: int
    verdict: str


@dataclass(frozen=True)
class Downstream:
    """Everything that one comparison found. ``settings`` are the same for every arm; ``per_patient`` has Dice by arm,
    patient and label, means over the runs; ``generation`` tells how the synthetic set was made, if it was made here.
    """

    ctfast: str
    date: str
    real: SetInfo
    synthetic: SetInfo
    held_out: SetInfo
    labels: tuple[int, ...]
    runs: int
    settings: Mapping[str, Any]
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    per_patient: tuple[Mapping[str, Any], ...]
    generation: Mapping[str, Any] | None
    seconds: float

    def arm(self, name: str) -> ArmResult:
        """The arm of a name; RequestError if there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise RequestError(f"there is no arm '{name}': expected one of {', '.join(arm.name for arm in self.arms)}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        content = json.loads(json.dumps({"format": FORMAT, "kind": KIND, **asdict(self)}))
        assert isinstance(content, dict)
        return content

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, what: str = "the result") -> Downstream:
        """Read what ``to_json`` wrote; RequestError lists what is wrong with it."""
        expected = "what 'ctfast evaluate --downstream' writes"
        fields, problems = saved_fields(text, what, expected, FORMAT)
        fields.text("kind", (KIND,))
        result = cls(
            ctfast=fields.text("ctfast"),
            date=fields.text("date"),
            real=_child(fields, "real", _set),
            synthetic=_child(fields, "synthetic", _set),
            held_out=_child(fields, "held_out", _set),
            labels=fields.wholes("labels", 1),
            runs=fields.whole("runs", 2),
            settings=fields.mapping("settings"),
            arms=tuple(_finished(each, _arm) for each in fields.items("arms")),
            comparisons=tuple(_finished(each, _comparison) for each in fields.items("comparisons")),
            per_patient=fields.values("per_patient"),
            generation=fields.mapping("generation") if fields.has("generation") else None,
            seconds=fields.number("seconds"),
        )
        fields.finish()
        if problems:
            raise RequestError(f"{what}: not {expected}: {'; '.join(problems[:5])}")
        return result

    @classmethod
    def load(cls, path: Path) -> Downstream:
        """Read a result's file; RequestError if it is missing or no result."""
        return cls.from_json(saved_text(path, "ctfast evaluate --downstream"), f"'{path}'")


def _finished(fields: Fields, read: Callable[[Fields], T]) -> T:
    result = read(fields)
    fields.finish()
    return result


def _child(fields: Fields, key: str, read: Callable[[Fields], T]) -> T:
    return _finished(fields.child(key), read)


def _set(fields: Fields) -> SetInfo:
    return SetInfo(fields.text("path"), fields.whole("volumes", 0), fields.whole("patients", 0))


def _figure(fields: Fields) -> Figure:
    return Figure(fields.number_or_none("value"), fields.number_or_none("low"), fields.number_or_none("high"))


def _label(fields: Fields) -> LabelScore:
    return LabelScore(
        fields.whole("label", 1),
        _child(fields, "dice", _figure),
        fields.whole("patients", 0),
    )


def _arm(fields: Fields) -> ArmResult:
    return ArmResult(
        name=fields.text("name"),
        share=fields.number("share"),
        dice=_child(fields, "dice", _figure),
        spread=fields.number("spread"),
        labels=tuple(_finished(each, _label) for each in fields.items("labels")),
        folds=tuple(_finished(each, _fold) for each in fields.items("folds")),
    )


def _fold(fields: Fields) -> FoldScore:
    real, synthetic = fields.wholes("volumes", 0, 2)
    from_real, from_synthetic = fields.wholes("drawn", 0, 2)
    return FoldScore(
        fold=fields.whole("fold", 0),
        volumes=(real, synthetic),
        drawn=(from_real, from_synthetic),
        dice=fields.number("dice"),
        seconds=fields.number("seconds"),
    )


def _comparison(fields: Fields) -> Comparison:
    return Comparison(
        arm=fields.text("arm"),
        against=fields.text("against"),
        difference=_child(fields, "difference", _figure),
        p=fields.number("p"),
        corrected=fields.number("corrected"),
        higher=fields.whole("higher", 0),
        patients=fields.whole("patients", 0),
        verdict=fields.text("verdict", (BETTER, WORSE, NO_DIFFERENCE)),
    )
