"""The metrics of pairs of volumes: likeness within a set, reconstructions, and agreement of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RequestError
from ..observer import Observer, report
from . import diversity
from .bootstrap import interval_of_mean
from .masks import NAMES, TOLERANCE_MM, Agreement, agreements
from .measure import Measured
from .metrics_distribution import Draws
from .reconstruction import body_of, psnr, round_trip, ssim, unit_range
from .result import Metric
from .volumes import Item, Scan, VolumeSet, load_scan

if TYPE_CHECKING:
    from ..engine import Engine

# Pairs of a set that are compared; each takes a fraction of a second for small volumes, and many for large ones.
PAIRS = 60


@dataclass
class PairFigures:
    """Figures of pairs by metric: one value per volume, and per label for masks; ``names`` of the volumes."""

    names: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    labels: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def add(self, name: str, figures: Mapping[str, float]) -> None:
        """Add a volume's figures."""
        self.names.append(name)
        for metric, value in figures.items():
            self.values.setdefault(metric, []).append(value)

    def rows(self) -> list[dict[str, Any]]:
        """The figures volume by volume."""
        return [
            {"name": name, **{metric: values[index] for metric, values in self.values.items()}}
            for index, name in enumerate(self.names)
        ]


def likeness(generated: Measured, reference: Measured, masks: bool, draws: Draws, observer: Observer) -> list[Metric]:
    """MS-SSIM (one metric) over pairs of the generated set, beside that of the reference set.

    RequestError if a set has fewer than two volumes, of different sizes, or too small ones.
    """
    name = "ms_ssim_masks" if masks else "ms_ssim"
    scales = min(_scales(each) for each in (generated, reference))
    top = max((label for each in (generated, reference) for row in each.organs for label in row), default=1)
    found = []
    for which, measured in (("generated", generated), ("reference", reference)):
        items = [item for item in measured.volumes.items if not masks or item.labels is not None]
        pairs = diversity.chosen_pairs(len(items), PAIRS, draws.seed)
        if not pairs:
            raise RequestError(f"'{measured.volumes.path}': expected at least two volumes, found {len(items)}")
        values = _over(items, pairs, scales, top if masks else None, observer, f"{name} {which}")
        found.append((float(np.mean(values)), *diversity.interval(pairs, values, draws.replicates, draws.seed)))
    (value, low, high), (real, real_low, real_high) = found
    five = scales == len(diversity.WEIGHTS)
    metric = Metric(
        name=name,
        group="diversity",
        value=value,
        low=low,
        high=high,
        unit="",
        better=None,
        count=(generated.count, reference.count),
        comparable=five,
        method=f"Mean 3-D MS-SSIM of {'label maps' if masks else 'volumes'} over up to {PAIRS} pairs, {scales} of 5 "
        "scales; above the reference set's, volumes are too much alike.",
        parts={"reference": real, "reference_low": real_low, "reference_high": real_high, "scales": scales},
    )
    return [metric]


def _scales(measured: Measured) -> int:
    sizes = sorted(set(measured.sizes))
    if len(sizes) != 1:
        raise RequestError(f"'{measured.volumes.path}': expected volumes of one size, found {sizes[0]} and {sizes[-1]}")
    scales = diversity.scales_for(sizes[0])
    if scales == 0:
        raise RequestError(f"'{measured.volumes.path}': {sizes[0]} is too small, at least 11 voxels a side are needed")
    return scales


def _over(
    items: Sequence[Item], pairs: Sequence[diversity.Pair], scales: int, top: int | None, observer: Observer, stage: str
) -> list[float]:
    counted = 0

    def done() -> None:
        nonlocal counted
        counted += 1
        report(observer, stage, counted, len(pairs))

    def load(index: int) -> Any:
        scan = load_scan(items[index], labels=top is not None)
        if top is None or scan.labels is None:
            return unit_range(scan.hu)
        import torch

        return torch.from_numpy(np.minimum(scan.labels.astype(np.float32) / top, 1))[None, None]

    return diversity.over_pairs(pairs, load, scales, done)


def compare_pairs(
    pairs: Sequence[tuple[Item, Item]], wanted: frozenset[str], observer: Observer, stage: str
) -> PairFigures:
    """PSNR, SSIM and the agreement of label maps of volumes with the ones they should be like, as ``wanted``.

    RequestError for pairs of different sizes, by name.
    """
    found = PairFigures()
    masks = bool(wanted & set(NAMES))
    for index, (made, real) in enumerate(pairs):
        report(observer, stage, index, len(pairs))
        first, second = load_scan(made, labels=masks), load_scan(real, labels=masks)
        if first.hu.shape != second.hu.shape:
            raise RequestError(
                f"'{made.image}': expected the size of '{real.image}', {second.hu.shape}, found {first.hu.shape}"
            )
        figures = image_figures(first.hu, second, wanted)
        if masks:
            figures |= _mask_figures(first, second, found)
        found.add(made.name, figures)
    report(observer, stage, len(pairs), len(pairs))
    return found


def round_trips(volumes: VolumeSet, engine: Engine, wanted: frozenset[str], observer: Observer) -> PairFigures:
    """PSNR and SSIM of what a plan's VAE makes of volumes, named psnr_vae and ssim_vae."""
    found = PairFigures()
    plain = frozenset(name.removesuffix("_vae") for name in wanted if name.endswith("_vae"))
    for index, item in enumerate(volumes.items):
        report(observer, "round trip", index, len(volumes.items))
        scan, back = round_trip(item, engine)
        found.add(item.name, {f"{name}_vae": value for name, value in image_figures(back, scan, plain).items()})
    report(observer, "round trip", len(volumes.items), len(volumes.items))
    return found


def image_figures(found: Any, wanted: Scan, names: frozenset[str]) -> dict[str, float]:
    """PSNR in dB, of all voxels and of the body's alone, and SSIM of a volume."""
    figures = {}
    if "psnr" in names:
        body = body_of(wanted.hu)
        figures["psnr"] = psnr(found, wanted.hu)
        figures["psnr_body"] = psnr(found, wanted.hu, body) if body.any() else float("nan")
    if "ssim" in names:
        figures["ssim"] = ssim(found, wanted.hu)
    return figures


def _mask_figures(first: Scan, second: Scan, found: PairFigures) -> dict[str, float]:
    """Means over labels; none of them if a volume has no label map or neither map has a label."""
    each: dict[int, Agreement] = {}
    if first.labels is not None and second.labels is not None:
        each = agreements(first.labels, second.labels, second.spacing)
    for label, result in each.items():
        for name in NAMES:
            found.labels.setdefault(name, {}).setdefault(label, []).append(getattr(result, name))
    means = (
        {
            item.name: float(np.mean([getattr(result, item.name) for result in each.values()]))
            for item in fields(Agreement)
        }
        if each
        else dict.fromkeys(NAMES, float("nan"))
    )
    return means


_ABOUT = {
    "psnr": ("dB", "higher", "Peak signal-to-noise ratio on [-1000, 1000] HU, mean over volumes"),
    "ssim": ("", "higher", "3-D SSIM on [-1000, 1000] HU, Gaussian window of 11 voxels, mean over volumes"),
    "dice": ("", "higher", "Dice, mean over labels and then volumes"),
    "iou": ("", "higher", "Intersection over union, mean over labels and then volumes"),
    "hd95": ("mm", "lower", "95th percentile of the Hausdorff distance, mean over labels and then volumes"),
    "asd": ("mm", "lower", "Mean symmetric surface distance, mean over labels and then volumes"),
    "nsd": ("", "higher", f"Surface Dice at {TOLERANCE_MM:g} mm, mean over labels and then volumes"),
}


def pair_metrics(found: PairFigures, wanted: frozenset[str], count: tuple[int, int], draws: Draws) -> list[Metric]:
    """The metrics that pairs of volumes gave."""
    metrics = []
    for name in (name for name in found.values if name in wanted):
        base = name.removesuffix("_vae")
        unit, better, about = _ABOUT[base]
        known = [value for value in found.values[name] if not np.isnan(value)]
        low, high = interval_of_mean(known, draws.replicates, draws.seed)
        parts: dict[str, Any] = {
            str(label): float(np.mean(values)) for label, values in sorted(found.labels.get(name, {}).items())
        }
        body = found.values.get(name.replace("psnr", "psnr_body")) if base == "psnr" else None
        if body is not None and np.isfinite(body).any():
            parts["body"] = float(np.nanmean(body))
        how = "of the plan's VAE, encoded and decoded" if name != base else "of generated volumes and their namesakes"
        metrics.append(
            Metric(
                name=name,
                group="masks" if base in NAMES else "reconstruction",
                value=float(np.mean(known)) if known else None,
                low=low,
                high=high,
                unit=unit,
                better=better,
                count=count,
                comparable=True,
                method=f"{about}, {how}.",
                parts=parts,
            )
        )
    return metrics
