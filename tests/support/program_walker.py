"""A plain way to run a program: every tensor as a whole in NumPy, every stage slab by slab through OpenVINO in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov

from ctfast.manifest_program import Program, Stage

#: What runs a stage's graph: inputs by name in, ``y`` out.
Run = Callable[[dict[str, Any]], Any]


def compiled(model: ov.Model, precision: str = "f32") -> Run:
    """A graph ready to run."""
    network = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    names = {port.any_name for port in network.inputs}

    def run(inputs: dict[str, Any]) -> Any:
        assert set(inputs) == names
        return np.array(network({name: np.ascontiguousarray(value) for name, value in inputs.items()})["y"])

    return run


def walk(program: Program, open_stage: Callable[[str], Run], weights: Any, x: Any, slab: int | None = None) -> Any:
    """The program's output.

    Args:
        program: What to run.
        open_stage: Gives a stage's graph by name.
        weights: State dict; norms take their weight and bias from it.
        x: The input, [z, y, x, channels] as float32.
        slab: Rows that a stage computes at a time; None for all.
    """
    tensors = {program.input: x}
    for stage in program.stages:
        added = None if stage.adds is None else tensors[stage.adds]
        tensors[stage.writes] = _stage(stage, open_stage(stage.name), weights, tensors[stage.reads], added, slab)
        assert tensors[stage.writes].shape[-1] == stage.channels
    return tensors[program.output]


def _stage(stage: Stage, run: Run, weights: Any, x: Any, added: Any, slab: int | None) -> Any:
    up, down = stage.up[2], stage.down[2]
    rows = len(x) * up // down
    step = rows if slab is None else max(up, slab // up * up)
    fixed = _scale_and_shift(stage, weights, x)
    parts = []
    for first in range(0, rows, step):
        last = min(first + step, rows)
        start, stop = first // up * down, last // up * down
        wanted = np.arange(start - stage.halo[0], stop + stage.halo[1])
        inputs = {"x": x[np.clip(wanted, 0, len(x) - 1)][None], **fixed}
        if stage.mask is not None:
            low, high, extent = (start, stop, len(x)) if stage.mask.grid == "input" else (first, last, rows)
            covered = np.arange(low - stage.mask.before, high + stage.mask.after)
            inside = (covered >= 0) & (covered < extent)
            inputs["mask"] = inside.astype(np.float32).reshape(1, -1, 1, 1, 1)
        if added is not None:
            inputs["residual"] = added[first:last][None]
        y = run(inputs)
        assert y.shape[:2] == (1, last - first)
        parts.append(y[0])
    return np.concatenate(parts)[stage.skip :]


def _scale_and_shift(stage: Stage, weights: Any, x: Any) -> dict[str, Any]:
    if stage.norm is None:
        return {}
    grouped = x.astype(np.float64).reshape(-1, stage.norm.groups, x.shape[-1] // stage.norm.groups)
    mean, variance = grouped.mean((0, 2)), grouped.var((0, 2))
    each = x.shape[-1] // stage.norm.groups
    mean, root = np.repeat(mean, each), np.repeat(np.sqrt(variance + stage.norm.eps), each)
    scale = np.asarray(weights[stage.norm.weight], np.float64) / root
    shift = np.asarray(weights[stage.norm.bias], np.float64) - mean * scale
    return {name: v.astype(np.float32).reshape(1, 1, 1, 1, -1) for name, v in (("scale", scale), ("shift", shift))}
