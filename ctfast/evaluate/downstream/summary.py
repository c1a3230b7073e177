"""Runs put together: per patient, per arm and label, and arm against arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .folds import REAL, Arm
from .result import ArmResult, Comparison, FoldScore, LabelScore
from .runs import Figures, Run
from .statistics import holm, mean_with_interval, signed_rank, verdict

#: Dice by patient and label.
Scores = Mapping[int, Figures]


def by_patient(runs: Sequence[Run], patients: Sequence[int]) -> Scores:
    """Means over runs, and over the volumes of a patient; ``patients`` has the number of each held-out volume's.

    Patients without any of the labels are left out.
    """
    found: dict[int, dict[int, list[float]]] = {}
    for run in runs:
        for number, figures in zip(patients, run.figures, strict=True):
            for label, value in figures.items():
                found.setdefault(number, {}).setdefault(label, []).append(value)
    return {
        number: {label: float(np.mean(values)) for label, values in sorted(labels.items())}
        for number, labels in sorted(found.items())
    }


def arm_result(arm: Arm, runs: Sequence[Run], patients: Sequence[int], labels: Sequence[int]) -> ArmResult:
    """An arm's figures: means over patients of means over labels, and per label and run."""
    scores = by_patient(runs, patients)
    folds = [
        FoldScore(
            fold=fold,
            volumes=run.volumes,
            drawn=run.drawn,
            dice=float(np.mean(_per_patient(by_patient([run], patients)))),
            seconds=round(run.seconds, 1),
        )
        for fold, run in enumerate(runs)
    ]
    return ArmResult(
        name=arm.name,
        share=arm.share,
        dice=mean_with_interval(_per_patient(scores)),
        spread=float(np.std([each.dice for each in folds], ddof=1)),
        labels=tuple(_label_score(scores, label) for label in labels),
        folds=tuple(folds),
    )


def _label_score(scores: Scores, label: int) -> LabelScore:
    found = [labels[label] for labels in scores.values() if label in labels]
    return LabelScore(label, mean_with_interval(found), len(found))


def comparisons(scores: Mapping[str, Scores], against: str = REAL) -> tuple[Comparison, ...]:
    """Every other arm against one: differences in Dice over the same patients, Wilcoxon's test, Holm's correction."""
    base = np.array(_per_patient(scores[against]))
    others = [name for name in scores if name != against]
    differences = [np.array(_per_patient(scores[name])) - base for name in others]
    values = [signed_rank(each) for each in differences]
    return tuple(
        Comparison(
            arm=name,
            against=against,
            difference=mean_with_interval(each),
            p=p,
            corrected=corrected,
            higher=int((each > 0).sum()),
            patients=len(each),
            verdict=verdict(float(each.mean()), corrected),
        )
        for name, each, p, corrected in zip(others, differences, values, holm(values), strict=True)
    )


def rows(scores: Mapping[str, Scores], names: Mapping[int, str]) -> tuple[dict[str, Any], ...]:
    """A row for each arm and patient."""
    return tuple(
        {
            "arm": arm,
            "patient": names[number],
            "dice": float(np.mean(list(figures.values()))),
            "labels": {str(label): dice for label, dice in figures.items()},
        }
        for arm, of_arm in scores.items()
        for number, figures in of_arm.items()
    )


def _per_patient(scores: Scores) -> list[float]:
    return [float(np.mean(list(figures.values()))) for figures in scores.values()]
