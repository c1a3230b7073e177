"""Describing a network as a program: stages one after the other, each with its graph.

A VAE is described by calls of ``ProgramBuilder.stage``; ctfast.export.vae_program does so for the MAISI family. What a
stage's graph takes and gives is told in docs/plan_format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as op

from ctfast.errors import CtfastError
from ctfast.export.stage_graph import channels_first, channels_last
from ctfast.manifest_program import Program, Size3, Stage, StageMask, StageNorm, program_problems


@dataclass(frozen=True)
class StageInputs:
    """What a stage's graph starts from: ``x``, channels last and normalised if the stage has a norm, and its mask."""

    x: ov.Node
    mask: ov.Node | None

    def masked(self, node: ov.Node, *, first: bool = False) -> ov.Node:
        """``node``, zero outside the volume; it is channels last unless ``first``."""
        if self.mask is None:
            raise CtfastError("the stage has no mask")
        return op.multiply(node, channels_first(self.mask) if first else self.mask)


#: Makes what a stage computes, channels first, from its inputs.
Body = Callable[[StageInputs], ov.Node]


@dataclass(frozen=True)
class StagedNetwork:
    """A program and the graph of each of its stages by name."""

    program: Program
    graphs: Mapping[str, ov.Model]


class ProgramBuilder:
    """Collects stages in the order in which they are computed."""

    def __init__(self, name: str, channels: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Start from the input called ``name``; ``shapes`` are those of the network's tensors by state-dict key."""
        self._input, self._shapes = name, shapes
        self._channels = {name: channels}
        self._stages: list[Stage] = []
        self._graphs: dict[str, ov.Model] = {}

    def stage(
        self,
        name: str,
        reads: str,
        channels: int,
        body: Body,
        *,
        multiply_adds: int,
        writes: str | None = None,
        halo: tuple[int, int] = (0, 0),
        up: Size3 = (1, 1, 1),
        down: Size3 = (1, 1, 1),
        skip: int = 0,
        adds: str | None = None,
        norm: StageNorm | None = None,
        mask: StageMask | None = None,
        end: Callable[[ov.Node], ov.Node] | None = None,
    ) -> str:
        """Add a stage and tell what it writes: ``writes``, by default the stage's own name.

        Args:
            name, reads, channels, multiply_adds, halo, up, down, skip, adds, norm, mask: As in
                ctfast.manifest_program.Stage; norm and mask say which inputs the graph has.
            body: Makes the graph but for norm, addition and layout; it must use the mask if there is one.
            writes: The tensor.
            end: What is done behind the addition, to a channels-first tensor.

        Raises:
            CtfastError: ``reads`` or ``adds`` was not written yet, or the graph gives other channels.
        """
        for tensor in (reads, adds):
            if tensor is not None and tensor not in self._channels:
                raise CtfastError(f"stage '{name}': nothing before it writes '{tensor}'")
        parameters: list[ov.Node] = []

        def parameter(called: str, *axes: int) -> ov.Node:
            node = op.parameter([1, *axes], np.float32, name=called)
            node.output(0).set_names({called})
            parameters.append(node)
            return node

        width = self._channels[reads]
        x = parameter("x", -1, -1, -1, width)
        if norm is not None:
            x = op.add(op.multiply(x, parameter("scale", 1, 1, 1, width)), parameter("shift", 1, 1, 1, width))
        y = body(StageInputs(x, None if mask is None else parameter("mask", -1, 1, 1, 1)))
        if adds is not None:
            y = op.add(y, channels_first(parameter("residual", -1, -1, -1, self._channels[adds])))
        y = channels_last(y if end is None else end(y))
        y.output(0).set_names({"y"})
        given = y.output(0).get_partial_shape()[4]
        if given.is_dynamic or given.get_length() != channels:
            raise CtfastError(f"stage '{name}': expected {channels} channels, but its graph gives {given}")
        stage = Stage(name, reads, writes or name, channels, halo, multiply_adds, up, down, skip, adds, norm, mask)
        self._stages.append(stage)
        self._channels[stage.writes] = channels
        self._graphs[name] = ov.Model([y], parameters, name)
        return stage.writes

    def finish(self) -> StagedNetwork:
        """The program, whose output is what the last stage writes; CtfastError lists what does not fit together."""
        output = self._stages[-1].writes if self._stages else ""
        program = Program(self._input, self._channels[self._input], output, tuple(self._stages))
        problems = list(program_problems(program, [self._input], self._shapes))
        if problems:
            raise CtfastError(f"the program from '{self._input}' does not fit together: {'; '.join(problems)}")
        return StagedNetwork(program, self._graphs)
