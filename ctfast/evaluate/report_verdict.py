"""What an evaluation says in words: which figures differ from the reference set's own, by rules written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .report_html import interval, number
from .result import Evaluation, Metric, is_figure

# Fewer volumes than this in either set leave intervals too wide, and distances too large, to say much.
_FEW = 20
# What unseen real volumes have, by the metric's definition.
_MEMORISED = 0.05


@dataclass(frozen=True)
class Verdict:
    """Whether a metric clearly differs from the reference set's own figure, None where there is nothing to judge by."""

    metric: str
    differs: bool | None
    why: str


def verdicts(result: Evaluation) -> list[Verdict]:
    """A verdict for each metric."""
    return [_verdict(metric) for metric in result.metrics]


def cautions(result: Evaluation) -> list[str]:
    """What limits every verdict."""
    found = []
    counts = (result.generated.volumes, result.reference.volumes)
    if min(counts) < _FEW:
        found.append(
            f"The sets have {counts[0]} and {counts[1]} volumes. With fewer than {_FEW}, intervals are wide and only "
            "large differences are clear."
        )
    if not result.features.comparable and any(name in metric.name for metric in result.metrics for name in _FEATURES):
        found.append(
            f"Features are of {result.features.network}. Such distances tell sets apart, and may not stand beside "
            "those of a paper."
        )
    if any(metric.name.startswith("fid_") for metric in result.metrics):
        found.append(
            "Fréchet distances fall with the number of volumes, so halves of the reference set look farther apart than "
            "whole sets would: these rules are lenient."
        )
    if any(metric.low is None for metric in result.metrics):
        found.append("Metrics without an interval are not judged.")
    found.append("No clear difference is no proof of likeness: look at the pictures.")
    return found


_FEATURES = ("fid_", "kid_")


def _verdict(metric: Metric) -> Verdict:
    rule = _RULES.get(metric.name)
    if rule is None:
        return Verdict(metric.name, None, "the reference set has no figure of its own")
    if metric.value is None or metric.low is None or metric.high is None:
        return Verdict(metric.name, None, "has no interval")
    differs, why = rule(metric, metric.value, metric.low, metric.high)
    return Verdict(metric.name, differs, why)


Judged = tuple[bool | None, str]


def _halves(metric: Metric, value: float, low: float, high: float) -> Judged:
    """Sets of one distribution are about as far apart as halves of the reference set, or less."""
    halves = metric.parts.get("reference")
    if not is_figure(halves):
        return None, "the reference set is too small for halves"
    shown = f"{number(value)} ({interval(low, high)}), the halves {number(halves)}"
    if low <= halves:
        return False, f"the interval reaches what halves of the reference set have: {shown}"
    return True, f"farther from the reference set than its halves are from each other: {shown}"


def _own_interval(metric: Metric, value: float, low: float, high: float) -> Judged:
    """The value lies inside the interval of the same figure of the reference set, or the intervals overlap."""
    real_low, real_high = metric.parts.get("reference_low"), metric.parts.get("reference_high")
    if not is_figure(real_low) or not is_figure(real_high):
        return None, "the reference set's figure has no interval"
    shown = f"{number(value)} ({interval(low, high)}), the reference set's {interval(real_low, real_high)}"
    if real_low <= value <= real_high:
        return False, f"inside the reference set's own interval: {shown}"
    side = "below" if value < real_low else "above"
    if low <= real_high and real_low <= high:
        return False, f"{side} the reference set's own interval, but the intervals overlap: {shown}"
    return True, f"{side} the reference set's own interval: {shown}"


def _spread(_: Metric, value: float, low: float, high: float) -> Judged:
    shown = f"{number(value)} ({interval(low, high)}) times the reference set's"
    if low <= 1 <= high:
        return False, f"the interval holds 1: {shown}"
    return True, f"{'less' if high < 1 else 'more'} varied than the reference set: {shown}"


def _outliers(_: Metric, value: float, low: float, high: float) -> Judged:
    if value == 0:
        return False, "every organ's HU are inside the bounds of real ones"
    shown = f"{value:.1%} ({low:.1%} to {high:.1%}) of organs have HU outside the bounds of real ones"
    return (True, shown) if low > 0 else (False, f"the interval reaches 0: {shown}")


def _memorised(_: Metric, value: float, low: float, high: float) -> Judged:
    shown = f"{value:.0%} ({low:.0%} to {high:.0%}) of volumes; unseen real ones have {_MEMORISED:.0%}"
    if low > _MEMORISED:
        return True, f"nearer to the training set than real volumes are: {shown}"
    return False, f"not clearly nearer to the training set than real volumes are: {shown}"


_RULES: dict[str, Callable[[Metric, float, float, float], Judged]] = {
    **dict.fromkeys(("fid_2.5d", "kid_2.5d", "fid_3d", "kid_3d", "descriptor_energy"), _halves),
    **dict.fromkeys(("ms_ssim", "ms_ssim_masks", "mask_coherence"), _own_interval),
    "descriptor_spread": _spread,
    "organ_outliers": _outliers,
    "memorised": _memorised,
}
