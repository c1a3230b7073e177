"""Torch graphs to ONNX files whose batch and spatial axes are free."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ctfast._version import __version__
from ctfast.errors import CtfastError
from ctfast.export.wrappers import Graph, Port

import_module("onnxscript")  # torch needs it to translate; without it the build should end here, not after loading

#: Up to this opset the norm over groups is written with InstanceNormalization, which every runtime computes well:
#: ONNX Runtime's kernel for GroupNormalization (opset 21) is a digit less accurate.
OPSET = 20

#: Protobuf's limit on one message; larger networks keep their weights in a file beside the graph.
ONE_FILE_BYTES = 2 * 10**9

#: Operators that runtimes run slowly or not at all; none of the networks needs one.
UNWANTED = frozenset({"If", "Loop", "Scan", "ScatterElements", "ScatterND", "SequenceAt", "SplitToSequence"})


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file: where it is, its operators by type, and whether its weights are in ``<path>.data``."""

    path: Path
    operators: Mapping[str, int]
    external: bool


class _Flat(nn.Module):
    """A graph's module behind one variadic argument, so that all graphs describe their inputs alike."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*tensors)


def export_onnx(
    graph: Graph, path: Path, metadata: Mapping[str, str] | None = None, one_file_bytes: int = ONE_FILE_BYTES
) -> OnnxFile:
    """Write a graph as an ONNX model and check it.

    Args:
        graph: What to write; nothing of it is computed, so the time depends on its depth alone.
        path: The file; its weights go to ``<path>.data`` if they have more than ``one_file_bytes``.
        metadata: Strings for the model's metadata properties, beside the network's name and ctfast's version.

    Raises:
        CtfastError: The graph came out with operators or fixed axes that ctfast cannot use.
        onnx.checker.ValidationError: The file breaks the ONNX standard.
    """
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Flat(graph.module),
            graph.example(),
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in graph.inputs],
            output_names=list(graph.outputs),
            dynamic_shapes={"tensors": _free_axes(graph.inputs)},
            verbose=False,
        )
    assert program is not None
    properties = {"ctfast.network": graph.name, "ctfast.version": __version__, **(metadata or {})}
    program.model.producer_name, program.model.producer_version = "ctfast", __version__
    program.model.metadata_props.update(properties)
    external = sum(tensor.numel() * tensor.element_size() for tensor in graph.state.values()) > one_file_bytes
    program.save(path, external_data=external)
    del program
    return OnnxFile(path, _checked(path, graph), external)


def _free_axes(ports: tuple[Port, ...]) -> tuple[dict[int, Any], ...]:
    """For torch.export: which axes are free, and that they are multiples of one another's units."""
    roots = {name: torch.export.Dim(name, min=1, max=4096) for name in ("batch", "d", "h", "w")}
    return tuple(
        {
            index: roots[axis[0]] * axis[1] if axis[1] > 1 else roots[axis[0]]
            for index, axis in enumerate(port.shape)
            if not isinstance(axis, int)
        }
        for port in ports
    )


def _checked(path: Path, graph: Graph) -> dict[str, int]:
    """The operators of a file that keeps to the standard and to what the runtime needs."""
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path), load_external_data=False)
    operators = Counter(node.op_type for node in model.graph.node)
    unwanted = sorted(UNWANTED & operators.keys())
    if unwanted:
        raise CtfastError(f"the graph of {graph.name} came out with {', '.join(unwanted)}; please report this as a bug")
    found = {port.name: port for port in graph.inputs}
    given = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    fixed = [
        name
        for name, port in found.items()
        if any(not isinstance(axis, int) and dim.dim_value for axis, dim in zip(port.shape, given[name], strict=True))
    ]
    if fixed:
        raise CtfastError(
            f"the graph of {graph.name} came out with fixed sizes of {', '.join(fixed)}; please report it"
        )
    return dict(operators)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter tells of optional packages and of its own deprecations; neither is the user's concern."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
