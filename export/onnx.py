"""Networks as ONNX files whose batch and spatial axes are free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from ctfast._version import __version__
from ctfast.errors import CtfastError
from ctfast.export.onnx_text import describe
from ctfast.export.onnx_trace import trace
from ctfast.export.wrappers import Graph

#: With this opset norms and attention are patterns of plain operators; OpenVINO's graphs are made from it.
OPSET = 20

#: Opsets that a network can be written in. With the later one norms and attention are single operators, which ONNX
#: Runtime computes a digit less accurately.
OPSETS = (OPSET, 23)

#: Protobuf's limit on one message; larger networks keep their weights in a file beside the graph.
ONE_FILE_BYTES = 2 * 10**9

#: Operators that runtimes run slowly or not at all; none of the networks needs one.
UNWANTED = frozenset(
    {"If", "Loop", "Scan", "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "SplitToSequence"}
)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file: where it is, its operators by type, and whether its weights are in ``<path>.data``."""

    path: Path
    operators: Mapping[str, int]
    external: bool


def export_onnx(
    graph: Graph,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    one_file_bytes: int = ONE_FILE_BYTES,
    opset: int = OPSET,
) -> OnnxFile:
    """Write a graph as an ONNX file with its weights; see ``onnx_model`` and ``save_onnx``."""
    return save_onnx(onnx_model(graph, opset, metadata), graph, path, one_file_bytes)


def onnx_model(graph: Graph, opset: int = OPSET, metadata: Mapping[str, str] | None = None) -> ir.Model:
    """A graph as an ONNX model, which shares the memory of the graph's weights.

    Args:
        graph: What to write.
        opset: One of OPSETS.
        metadata: Strings for the model's metadata properties, beside the network's name and ctfast's version.

    Raises:
        CtfastError: The graph came out with operators or fixed axes that ctfast cannot use.
    """
    model = trace(graph, opset)
    describe(model, graph)
    model.producer_name, model.producer_version = "ctfast", __version__
    model.metadata_props.clear()
    model.metadata_props.update({"ctfast.network": graph.name, "ctfast.version": __version__, **(metadata or {})})
    unwanted = sorted(UNWANTED & {node.op_type for node in model.graph})
    if unwanted:
        raise CtfastError(f"the graph of {graph.name} came out with {', '.join(unwanted)}; please report this as a bug")
    given = {value.name: value.shape for value in model.graph.inputs}
    fixed = [
        port.name
        for port in graph.inputs
        if any(
            not isinstance(axis, int) and isinstance(dim, int)
            for axis, dim in zip(port.shape, given[port.name] or (), strict=True)
        )
    ]
    if fixed:
        raise CtfastError(
            f"the graph of {graph.name} came out with fixed sizes of {', '.join(fixed)}; please report it"
        )
    return model


def save_onnx(model: ir.Model, graph: Graph, path: Path, one_file_bytes: int = ONE_FILE_BYTES) -> OnnxFile:
    """Write a model of ``onnx_model`` with its weights, which go to ``<path>.data`` if they have more bytes.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: The file breaks the ONNX standard.
    """
    external = sum(tensor.numel() * tensor.element_size() for tensor in graph.state.values()) > one_file_bytes
    ir.save(model, path, external_data=f"{path.name}.data" if external else None)
    onnx.checker.check_model(str(path))
    check_shapes(path)
    return OnnxFile(path, operators(model), external)


def check_shapes(path: Path) -> None:
    """Raise what ONNX's own inference finds wrong with a file's types and shapes; its weights need not be there."""
    model = onnx.load(str(path), load_external_data=False)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def operators(model: ir.Model) -> dict[str, int]:
    """How many nodes of each type a model has."""
    return dict(Counter(node.op_type for node in model.graph))
