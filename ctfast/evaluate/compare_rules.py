"""Which figures of two evaluations may stand beside each other."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from .result import Evaluation, Metric, SetOfVolumes, is_figure

_FEATURES = ("fid_", "kid_")
# What these say does not depend on the reference set.
_ALONE = ("ms_ssim", "ms_ssim_masks", "mask_coherence", "nearest_training")
_TRAINING = ("nearest_training", "memorised")
# Figures of a reference volume that depend on nothing but the reference set.
_MARKS = ("descriptor_z", "mask_coherence")
_NEAR = 1e-4


@dataclass(frozen=True)
class Common:
    """What two evaluations have in common; each is None, or says how the two differ."""

    preset: str | None
    reference: str | None
    training: str | None


def common_of(old: Evaluation, new: Evaluation) -> Common:
    """Compare what two evaluations rest on.

    Reference sets are the same if they have the same volumes by number and name with the same figures; so a folder
    may have been moved. Where the results hold no figures of them, their paths decide.
    """
    preset = None if old.preset == new.preset else f"presets differ: {old.preset} and {new.preset}"
    same = _same_set(old, new, _MARKS, (old.reference, new.reference))
    reference = None if same else f"reference sets differ: '{old.reference.path}' and '{new.reference.path}'"
    if same:
        same = _same_set(old, new, ("nearest_training",), (old.training, new.training))
    else:
        same = _same_path(old.training, new.training)
    return Common(preset, reference, None if same else "training sets differ")


def refusal(old: Metric, new: Metric, common: Common) -> str | None:
    """Why a metric's two figures may not be compared; None if they may."""
    if new.name.startswith(_FEATURES):
        if common.preset is not None:
            return common.preset
        networks = [(each.parts.get("network"), each.parts.get("sha256")) for each in (old, new)]
        if networks[0] != networks[1]:
            return f"feature networks differ: {_named(networks[0])} and {_named(networks[1])}"
    if new.name not in _ALONE and common.reference is not None:
        return common.reference
    if new.name in _TRAINING and common.training is not None:
        return common.training
    if old.parts.get("scales") != new.parts.get("scales"):
        return f"scales differ: {old.parts.get('scales')} and {new.parts.get('scales')}"
    if new.name.startswith("fid_") and old.count != new.count:
        return f"Fréchet distances fall with the number of volumes: {old.count[0]} and {new.count[0]} generated ones"
    if old.method != new.method or old.unit != new.unit:
        return "they were computed in different ways, by different releases"
    return None


def _named(network: tuple[object, object]) -> str:
    return f"{network[0]} ({str(network[1])[:12]})" if network[1] else str(network[0])


def _same_set(
    old: Evaluation, new: Evaluation, marks: tuple[str, ...], sets: tuple[SetOfVolumes | None, SetOfVolumes | None]
) -> bool:
    if sets[0] is None or sets[1] is None or sets[0].volumes != sets[1].volumes:
        return False
    tables = [_marks(result, marks) for result in (old, new)]
    shared = [{key[1] for key in table} for table in tables]
    if not shared[0] & shared[1]:
        return _same_path(*sets)
    first, second = ({key: table[key] for key in table if key[1] in shared[0] & shared[1]} for table in tables)
    return first.keys() == second.keys() and all(math.isclose(first[key], second[key], rel_tol=_NEAR) for key in first)


def _marks(result: Evaluation, keys: tuple[str, ...]) -> dict[tuple[str, str], float]:
    return {
        (row["name"], key): float(row[key])
        for row in result.per_volume
        if row.get("set") == "reference"
        for key in keys
        if is_figure(row.get(key))
    }


def _same_path(old: SetOfVolumes | None, new: SetOfVolumes | None) -> bool:
    if old is None or new is None:
        return False
    return old.volumes == new.volumes and os.path.abspath(old.path) == os.path.abspath(new.path)
