"""The metrics of two distributions: Fréchet and kernel distances of features, energy distance of descriptors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .bootstrap import halves, normal_interval, percentiles, resampled
from .descriptors import compare
from .features.cache import WHOLE, read_features
from .features.networks import FeatureNetwork
from .features.slices import stack_names
from .frechet import Moments, frechet_distance, kernel_distance, kernel_sums, pooled, thinned
from .measure import Measured
from .presets import Preset
from .result import Metric

# Up to this many features the moments of every volume are kept; wider ones are added up from disk each time.
_NARROW = 256
# Wider networks' replicates cost seconds each.
_WIDE_REPLICATES = 20
# Descriptors that are told in a result: those that differ most.
_TOLD = 12


@dataclass(frozen=True)
class Draws:
    """How intervals are made: how many replicates, and from which seed."""

    replicates: int
    seed: int

    def pairs(self, first: int, second: int, most: int | None = None) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Weights of the volumes of two sets, drawn apart from each other."""
        count = self.replicates if most is None else min(self.replicates, most)
        return zip(resampled(first, count, self.seed), resampled(second, count, self.seed + 1), strict=True)


@dataclass
class _Found:
    """Distances per stack, of replicates per stack, and between halves of the reference set."""

    values: dict[str, float] = field(default_factory=dict)
    replicates: list[list[float]] = field(default_factory=list)
    halves: list[float] = field(default_factory=list)


def frechet(generated: Measured, reference: Measured, network: FeatureNetwork, preset: Preset, draws: Draws) -> Metric:
    """FID: per plane and window and their mean for slices, one figure for whole volumes."""
    most = None if network.width <= _NARROW else _WIDE_REPLICATES
    split = halves(reference.count, draws.seed)
    found = _Found()
    for name in _names(network, preset):
        first, second = (
            _Source(each.features[network.dimensions], name, network.width) for each in (generated, reference)
        )
        found.values[name] = frechet_distance(pooled(first.moments()), pooled(second.moments()))
        found.replicates.append(
            [
                frechet_distance(pooled(first.moments(), weights[0]), pooled(second.moments(), weights[1]))
                for weights in draws.pairs(generated.count, reference.count, most)
            ]
        )
        if split is not None:
            found.halves.append(frechet_distance(*(pooled(second.moments(), half) for half in split)))
    return _distance("fid", "Fréchet distance", found, (generated, reference), network, preset)


class _Source:
    """Moments of each volume's features of one stack: kept if they are small, else read again each time."""

    def __init__(self, paths: Sequence[Path], name: str, width: int) -> None:
        self._paths = list(paths)
        self._name = name
        self._kept = list(self._read()) if width <= _NARROW else None

    def moments(self) -> Iterable[Moments]:
        return self._read() if self._kept is None else self._kept

    def _read(self) -> Iterable[Moments]:
        return (Moments.of(features) for features in read_features(self._paths, self._name))


def kernel(generated: Measured, reference: Measured, network: FeatureNetwork, preset: Preset, draws: Draws) -> Metric:
    """KID, likewise; of evenly spaced slices where there are very many."""
    split = halves(reference.count, draws.seed)
    found = _Found()
    for name in _names(network, preset):
        first, second = (
            thinned(read_features(each.features[network.dimensions], name), each.count)
            for each in (generated, reference)
        )
        within, between = (kernel_sums(first), kernel_sums(second)), kernel_sums(first, second)
        found.values[name] = kernel_distance(within, between)
        found.replicates.append(
            [kernel_distance(within, between, weights) for weights in draws.pairs(generated.count, reference.count)]
        )
        if split is not None:
            found.halves.append(kernel_distance((within[1], within[1]), within[1], split))
    return _distance("kid", "kernel distance", found, (generated, reference), network, preset)


def _names(network: FeatureNetwork, preset: Preset) -> tuple[str, ...]:
    return (WHOLE,) if network.dimensions == 3 else stack_names(preset)


def _distance(
    kind: str,
    about: str,
    found: _Found,
    sets: tuple[Measured, Measured],
    network: FeatureNetwork,
    preset: Preset,
) -> Metric:
    slices = network.dimensions == 2
    value = float(np.mean(list(found.values.values())))
    low, high = normal_interval(value, list(np.mean(found.replicates, axis=0)), floor=0.0 if kind == "fid" else None)
    shown = f"slices as in preset '{preset.name}'" if slices else "whole volumes, at most 128 voxels a side"
    return Metric(
        name=f"{kind}_{'2.5d' if slices else '3d'}",
        group="distribution",
        value=value,
        low=low,
        high=high,
        unit="",
        better="lower",
        count=(sets[0].count, sets[1].count),
        # How papers form the 3-D figure is not published in full, and volumes are made smaller for it here.
        comparable=slices and network.info.comparable and preset.published,
        method=f"{about} of features of {network.info.network}, {shown}"
        + ("; mean over planes and windows." if slices else "."),
        parts={
            **found.values,
            "reference": float(np.mean(found.halves)) if found.halves else None,
            "network": network.info.network,
            "sha256": network.info.sha256,
        },
    )


def descriptor_metrics(
    generated: Measured, reference: Measured, draws: Draws
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """The energy distance of 30 descriptors, and how varied the generated set is in them; and each volume's distance
    from the mean of the reference set.
    """
    result = compare(generated.descriptors, reference.descriptors)
    value = result.distances.energy()
    drawn = draws.pairs(generated.count, reference.count)
    low, high = normal_interval(value, [result.distances.energy(weights) for weights in drawn])
    count = (generated.count, reference.count)
    split = halves(reference.count, draws.seed)
    energy = Metric(
        name="descriptor_energy",
        group="distribution",
        value=value,
        low=low,
        high=high,
        unit="",
        better="lower",
        count=count,
        comparable=False,
        method="Energy distance of 30 descriptors (HU, tissues, shape, texture) standardised by the reference set.",
        parts={
            "reference": None if split is None else result.distances.within_reference(split),
            **dict(list(result.gaps.items())[:_TOLD]),
        },
    )
    table = np.array([list(row.values()) for row in generated.descriptors])
    real = np.array([list(row.values()) for row in reference.descriptors]).std(0) + 1e-6
    spreads = [float(np.median((_spread(table, weights) + 1e-6) / real)) for weights in _once(draws, generated.count)]
    low, high = percentiles(spreads) if generated.count > 1 else (None, None)
    spread = Metric(
        name="descriptor_spread",
        group="diversity",
        value=result.spread,
        low=low,
        high=high,
        unit="",
        better=None,
        count=count,
        comparable=False,
        method="Median over 30 descriptors of the generated set's standard deviation over the reference set's.",
    )
    rows = [
        {"name": name, "set": which, "descriptor_z": float(away)}
        for which, measured, found in (
            ("generated", generated, result.generated),
            ("reference", reference, result.reference),
        )
        for name, away in zip(measured.volumes.names, found, strict=True)
    ]
    return [energy, spread], rows


def _once(draws: Draws, count: int) -> Iterable[np.ndarray]:
    return resampled(count, draws.replicates, draws.seed)


def _spread(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard deviation of each column with rows counted ``weights`` times."""
    mean = weights @ rows / weights.sum()
    spread: np.ndarray = np.sqrt(weights @ np.square(rows - mean) / weights.sum())
    return spread
