"""A tuned time grid as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(result: Mapping[str, Any]) -> str:
    """Lines of text; ``result`` is ``Tuned.as_dict()`` with "written"."""
    fit, unit, parameters = result["fit"], result["unit"], result["parameters"]
    times = ", ".join(f"{time:.1f}" for time in result["times"])
    lines = [
        f"{result['solver']}, {result['steps']} steps: a = {parameters['a']:.3f}, b = {parameters['b']:.3f}",
        f"times: {times}",
        f"fitted to {_seeds(fit['seeds'])}: latent RMS {fit['latent_rms']:.4g}, with equal steps "
        f"{fit['latent_rms_of_equal_steps']:.4g}",
        f"measured on {_seeds([each['seed'] for each in result['check']['per_seed']])}:",
    ]
    lines += [_line(row, unit) for row in (result["check"], *result["others"])]
    written = result.get("written")
    if written is not None:
        lines.append(f"{written['path']}: identity {written['identity']}")
    elif not result["better"]:
        lines.append("the tuned grid is no better")
    return "\n".join(lines)


def _line(row: Mapping[str, Any], unit: str) -> str:
    name = f"{row['solver']}, {row['calls']} calls, {row['time_grid']}"
    psnr = "the same" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    return f"  {name:<30}{row['image_rms']:>9.4g} {unit}, {psnr}"


def _seeds(seeds: list[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
