"""One pass over a set: what every metric needs of each volume, one volume in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..observer import Observer, report
from .descriptors import describe
from .features.cache import FeatureCache
from .features.networks import FeatureNetwork
from .memorisation import coarse
from .organs import Organ, organs_of
from .presets import Preset
from .volumes import VolumeSet, load_scan


@dataclass(frozen=True)
class Wants:
    """What to take of each volume."""

    descriptors: bool = False
    organs: bool = False
    coarse: bool = False
    networks: Sequence[FeatureNetwork] = ()


@dataclass
class Measured:
    """What was taken, in the order of the set's volumes; ``features`` are the files with features, per dimensions."""

    volumes: VolumeSet
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    descriptors: list[dict[str, float]] = field(default_factory=list)
    organs: list[Mapping[int, Organ]] = field(default_factory=list)
    coarse: list[NDArray[np.float32]] = field(default_factory=list)
    features: dict[int, list[Path]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many volumes."""
        return len(self.volumes.items)


def measure(
    volumes: VolumeSet, wants: Wants, cache: FeatureCache, preset: Preset, observer: Observer, stage: str
) -> Measured:
    """Go through a set. RequestError names a volume that cannot be used; CancelledError if the observer asks for it."""
    found = Measured(volumes, features={network.dimensions: [] for network in wants.networks})
    total = len(volumes.items)
    for index, item in enumerate(volumes.items):
        report(observer, stage, index, total)
        scan = load_scan(item, labels=wants.organs)
        found.sizes.append(scan.hu.shape)
        if wants.descriptors:
            found.descriptors.append(describe(scan.hu, scan.spacing))
        if wants.organs and scan.labels is not None:
            found.organs.append(organs_of(scan.hu, scan.labels))
        if wants.coarse:
            found.coarse.append(coarse(scan.hu))
        for network in wants.networks:
            found.features[network.dimensions].append(cache.ensure(item, network, preset, scan))
    report(observer, stage, total, total)
    return found
