"""Which cases a run may train on: patients dealt into folds, arms with their mixtures, and no patient on both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import RequestError
from ..volumes import some
from .cases import Case

REAL, SYNTHETIC = "real", "synthetic"
RATIOS = ("1:1", "1:2")


@dataclass(frozen=True)
class Arm:
    """A mixture: ``share`` is the probability that a drawn volume is synthetic."""

    name: str
    share: float


def arms_of(ratios: Sequence[str]) -> tuple[Arm, ...]:
    """Real alone, synthetic alone, and mixtures at ratios real:synthetic; RequestError for a ratio that is none."""
    arms = [Arm(REAL, 0.0), Arm(SYNTHETIC, 1.0)]
    for ratio in ratios:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)\s*", ratio)
        real, synthetic = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if not real or not synthetic:
            raise RequestError(f"ratios: expected real:synthetic as in 1:2, both above 0, found '{ratio}'")
        arms.append(Arm(f"{real:g}:{synthetic:g}", synthetic / (real + synthetic)))
    if len({arm.name for arm in arms}) < len(arms):
        raise RequestError(f"ratios: expected each once, found {', '.join(ratios)}")
    return tuple(arms)


def grouped(keys: Sequence[frozenset[str]]) -> list[int]:
    """A number for each set of keys: the same for those that share a key, directly or through others."""
    parents = list(range(len(keys)))

    def root(index: int) -> int:
        while parents[index] != index:
            index = parents[index]
        return index

    first: dict[str, int] = {}
    for index, own in enumerate(keys):
        for key in sorted(own):
            low, high = sorted((root(first.setdefault(key, index)), root(index)))
            parents[high] = low
    return [root(index) for index in range(len(keys))]


@dataclass(frozen=True)
class Pools:
    """The training cases, and for each the fold that it is left out with; ``patients``: of real and generated ones."""

    real: tuple[Case, ...]
    synthetic: tuple[Case, ...]
    real_folds: tuple[int, ...]
    synthetic_folds: tuple[int, ...]
    patients: tuple[int, int]

    def without(self, fold: int) -> tuple[list[Case], list[Case]]:
        """The real and the synthetic cases that the run of ``fold`` trains on."""
        real = [case for case, own in zip(self.real, self.real_folds, strict=True) if own != fold]
        synthetic = [case for case, own in zip(self.synthetic, self.synthetic_folds, strict=True) if own != fold]
        return real, synthetic


def deal(real: Sequence[Case], synthetic: Sequence[Case], folds: int, seed: int = 0, only: int | None = None) -> Pools:
    """Deal patients into folds at random, evenly; a generated volume goes with the patient whose label map it has.

    ``only``: keep the real volumes of so many patients, drawn at random; generated ones all stay. Patients with real
    volumes are dealt before others, so that folds have as many of them within one. RequestError: fewer patients than
    folds.
    """
    if folds < 2:
        raise RequestError(f"folds: expected 2 or more, found {folds}")
    numbers = grouped([case.keys for case in (*real, *synthetic)])
    of_real, of_synthetic = numbers[: len(real)], numbers[len(real) :]
    random = np.random.default_rng(seed)
    patients = _shuffled(of_real, random)
    if only is not None:
        if not folds <= only <= len(patients):
            raise RequestError(
                f"real: expected from {folds} (one patient per fold) to {len(patients)} (all there are), found {only}"
            )
        patients = patients[:only]
    others = _shuffled([number for number in of_synthetic if number not in set(patients)], random)
    fold_of = {number: place % folds for place, number in enumerate((*patients, *others))}
    kept = [(case, number) for case, number in zip(real, of_real, strict=True) if number in set(patients)]
    pools = Pools(
        real=tuple(case for case, _ in kept),
        synthetic=tuple(synthetic),
        real_folds=tuple(fold_of[number] for _, number in kept),
        synthetic_folds=tuple(fold_of[number] for number in of_synthetic),
        patients=(len(patients), len(set(of_synthetic))),
    )
    for what, own in ((REAL, pools.real_folds), (SYNTHETIC, pools.synthetic_folds)):
        if len(set(own)) < min(folds, 2) or (what == REAL and len(patients) < folds):
            raise RequestError(
                f"folds: expected at least {folds} different patients among the {what} volumes, found "
                f"{len(patients) if what == REAL else len(set(of_synthetic))}; take fewer folds or more volumes"
            )
    return pools


def _shuffled(numbers: Sequence[int], random: np.random.Generator) -> list[int]:
    ordered = sorted(set(numbers))
    return [ordered[index] for index in random.permutation(len(ordered))]


def check_apart(held_out: Sequence[Case], training: Sequence[Case], what: str) -> None:
    """RequestError if a held-out volume shares its patient, image or label map with one that is trained on."""
    known = {key for case in training for key in case.keys}
    leaks = [case.name for case in held_out if case.keys & known]
    if leaks:
        raise RequestError(
            f"leak: expected held-out volumes of patients that are not trained on, found {some(leaks)} also among the "
            f"{what} volumes (same name, image or label map); take them out of one of the sets"
        )
