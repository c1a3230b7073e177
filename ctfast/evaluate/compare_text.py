"""A comparison of two evaluations as lines of text."""

from __future__ import annotations

from .compare import BETTER, DIFFERENT, UNCLEAR, WORSE, ComparedMetric, Comparison


def table(found: Comparison) -> str:
    """Each metric with both figures, their difference and the verdict, and what was not compared."""
    width = max((len(metric.name) for metric in found.metrics), default=6)
    lines = [
        f"old: {found.old.generated.path}, {found.old.generated.volumes} volumes, {found.old.date}",
        f"new: {found.new.generated.path}, {found.new.generated.volumes} volumes, {found.new.date}",
        f"{'metric':{width}}  {'old':>9} {'new':>9} {'difference':>10} {'95 % interval':>22}  verdict",
        *(_line(metric, width) for metric in found.metrics),
    ]
    lines += [f"{name}: {why}" for name, why in found.missing.items()]
    return "\n".join([*lines, summary(found)])


def summary(found: Comparison) -> str:
    """How many metrics have which verdict, as one line."""
    verdicts = (WORSE, BETTER, DIFFERENT, UNCLEAR)
    counts = [(verdict, len(found.with_verdict(verdict))) for verdict in verdicts]
    compared = sum(count for _, count in counts)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    return f"{compared} of {len(found.metrics)} metrics compared" + (f": {told}" if told else "")


def _line(metric: ComparedMetric, width: int) -> str:
    interval = "" if metric.low is None or metric.high is None else f"{_number(metric.low)} to {_number(metric.high)}"
    why = f" ({metric.why})" if metric.how is None else ""
    return (
        f"{metric.name:{width}}  {_number(metric.old.value):>9} {_number(metric.new.value):>9} "
        f"{_number(metric.difference):>10} {interval:>22}  {metric.verdict}{why}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
