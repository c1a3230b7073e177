"""Programs run by the native runtime, from graphs in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from ctfast import _native
from ctfast.decoding import _native_stage
from ctfast.export.program import StagedNetwork
from ctfast.manifest_program import Stage


class NativeProgram:
    """A program as the runtime has it, with its stages' graphs as IR."""

    def __init__(self, staged: StagedNetwork, weights: Mapping[str, Any], precision: str = "fp32") -> None:
        """``weights`` is the state dict, of which the norms' tensors are taken."""
        self._stages = {stage.name: stage for stage in staged.program.stages}
        self._ends = staged.program.input, staged.program.output
        self._precision = precision
        self._bytes = 2 if precision == "bf16" else 4
        self._files = {name: _ir(graph) for name, graph in staged.graphs.items()}
        stages = [_native_stage(stage, weights.__getitem__) for stage in staged.program.stages]
        program = staged.program
        self.program = _native.Program(program.input, program.input_channels, program.output, stages)

    def strategies(self, shape: tuple[int, ...], budget: int) -> dict[str, _native.Strategy]:
        """By name, for an input [z, y, x, channels]."""
        z, y, x, _ = shape
        found = _native.strategies(self.program, (x, y, z), element_bytes=self._bytes, budget=budget)
        return {strategy.name: strategy for strategy in found}

    def run(self, x: Any, strategy: _native.Strategy, scratch: Path) -> Any:
        """The output [z, y, x, channels] of an input in that layout."""
        taken: list[tuple[int, Any]] = []
        _native.run_program(
            self.program,
            self._open,
            x,
            strategy,
            sink=lambda first, rows: taken.append((first, np.array(rows))),
            element_bytes=self._bytes,
            threads=2,
            scratch=str(scratch),
        )
        assert [first for first, _ in taken] == list(_starts(rows for _, rows in taken))
        return np.concatenate([rows for _, rows in taken])

    def _open(self, name: str) -> _native.OpenVINOSession:
        xml, weights = self._files[name]
        half = _half_ports(self._stages[name], *self._ends) if self._precision == "bf16" else []
        return _native.OpenVINOSession.from_bytes(
            xml, weights, name=name, precision=self._precision, threads=2, half_io=half
        )


def _half_ports(stage: Stage, source: str, target: str) -> list[str]:
    """Ports that are bfloat16 in memory: all but those of the program itself."""
    tensors = {"x": stage.reads, "residual": stage.adds, "y": stage.writes}
    return [port for port, tensor in tensors.items() if tensor not in (None, source, target)]


def _starts(slabs: Iterator[Any]) -> Iterator[int]:
    """Where each slab should begin, if they follow one another."""
    first = 0
    for slab in slabs:
        yield first
        first += len(slab)


def _ir(graph: ov.Model) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.xml"
        ov.save_model(graph, str(path), compress_to_fp16=False)
        return path.read_text(), path.with_suffix(".bin").read_bytes()
