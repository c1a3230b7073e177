"""A downstream comparison as a table on the screen."""

from __future__ import annotations

from .result import Comparison, Downstream, SetInfo
from .statistics import Figure


def table(result: Downstream) -> str:
    """Lines of text: arms with their figures, what each is against real volumes alone, and Dice by label."""
    settings = result.settings
    width = max(len(arm.name) for arm in result.arms)
    against = {found.arm: found for found in result.comparisons}
    lines = [
        *(_set(what, found) for what, found in _sets(result)),
        f"every arm: {settings['steps']} steps of {settings['batch']} patch(es) of "
        f"{' x '.join(str(extent) for extent in settings['patch'])} voxels, the same initial weights; {result.runs} "
        "runs, each without one fold",
        f"{'':{width}}  synthetic   Dice      95 %         spread  against real",
    ]
    for arm in result.arms:
        row = (
            f"{arm.name:{width}}  {arm.share:8.0%}   {_number(arm.dice.value)}  {_interval(arm.dice):14}  "
            f"{arm.spread:.3f}   {_against(against.get(arm.name))}"
        )
        lines.append(row.rstrip())
    lines.append("Dice by label")
    lines.append(f"{'':{width}}  " + " ".join(f"{label:>6}" for label in result.labels))
    for arm in result.arms:
        by_label = {score.label: score for score in arm.labels}
        cells = " ".join(f"{_number(by_label[label].dice.value):>6}" for label in result.labels)
        lines.append(f"{arm.name:{width}}  {cells}")
    return "\n".join(lines)


def _sets(result: Downstream) -> tuple[tuple[str, SetInfo], ...]:
    return ("real", result.real), ("synthetic", result.synthetic), ("held out", result.held_out)


def _set(what: str, found: SetInfo) -> str:
    unit = "label maps" if what == "synthetic" else "patients"
    return f"{what}: {found.volumes} volumes of {found.patients} {unit}, {found.path}"


def _against(found: Comparison | None) -> str:
    if found is None:
        return ""
    value = found.difference.value
    difference = "-" if value is None else f"{value:+.3f}"
    return f"{difference} ({_interval(found.difference, '+')}), p {found.corrected:.2g}: {found.verdict}"


def _interval(figure: Figure, sign: str = "") -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:{sign}.3f} to {figure.high:{sign}.3f}"


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"
