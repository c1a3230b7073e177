"""A plan's ONNX graph and its weights, as ONNX Runtime takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError

__all__ = ["OnnxGraph", "read_graph"]

#: Where the external data of a plan's graphs are; docs/plan_format.md says what it means.
_LOCATION = "model.bin"


@dataclass(frozen=True)
class OnnxGraph:
    """A model whose weights are inputs, which are fed from ``weights``; ``inputs`` and ``outputs`` are the network's.

    ONNX Runtime would copy weights that it holds itself. Given with each run, they are used where they are: in the
    plan's memory, if the plan has them as the graph wants them.
    """

    model: bytes
    weights: dict[str, NDArray[Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_graph(where: str, data: bytes, weights: memoryview, drop: Collection[str] = ()) -> OnnxGraph:
    """The graph in ``data`` over ``weights``, without the inputs in ``drop``, which count as zeros.

    PlanError: it is not a graph that ctfast wrote; ``where`` names it.
    """
    onnx: Any = import_module("onnx")
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # of protobuf's own kinds
        raise _spoilt(where, f"it is no ONNX model ({error})") from None
    graph = model.graph
    arrays = {
        tensor.name: _array(onnx, where, tensor, weights)
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    inside = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name not in arrays
    }
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        given = [name for name in node.input if name in drop]
        if given:
            renamed[node.output[0]] = _without(where, node, given)
        elif node.op_type in _FOLDED and node.input[0] in arrays:
            arrays[node.output[0]] = _FOLDED[node.op_type](onnx, node, arrays[node.input[0]], inside)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in inside and tensor.name in used]
    inputs = [value for value in graph.input if value.name not in drop]
    given_weights = {name: array for name, array in arrays.items() if name in used}
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given_weights.items()
    ]
    outputs = tuple(value.name for value in graph.output)
    if renamed.keys() & set(outputs):
        raise _spoilt(where, f"an output is {', '.join(sorted(drop))} and nothing else")
    names = tuple(value.name for value in inputs)
    for field, items in ((graph.node, nodes), (graph.initializer, kept), (graph.input, [*inputs, *values])):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del field[:]
        field.extend(copies)
    del graph.value_info[:]
    return OnnxGraph(model.SerializeToString(), given_weights, names, outputs)


def _array(onnx: Any, where: str, tensor: Any, weights: memoryview) -> NDArray[Any]:
    """The values of a tensor that lies in ``weights``, which are not copied."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    count = math.prod(tensor.dims)
    try:
        offset, length = int(told["offset"]), int(told["length"])
    except (KeyError, ValueError):
        raise _spoilt(where, f"it does not say where '{tensor.name}' is") from None
    if told.get("location") != _LOCATION or length != count * dtype.itemsize:
        raise _spoilt(where, f"'{tensor.name}' is not in {_LOCATION}, or of another size than its shape tells")
    if offset < 0 or offset + length > len(weights):
        raise _spoilt(where, f"'{tensor.name}' ends at byte {offset + length} of {len(weights)} in {_LOCATION}")
    return np.frombuffer(weights, dtype, count, offset).reshape(tuple(tensor.dims))


def _without(where: str, node: Any, dropped: list[str]) -> str:
    """What an addition gives if a term is zero."""
    others = [name for name in node.input if name not in dropped]
    if node.op_type != "Add" or len(others) != 1:
        raise _spoilt(where, f"'{dropped[0]}' cannot be left out, since {node.op_type} reads it")
    return str(others[0])


def _cast(onnx: Any, node: Any, array: NDArray[Any], _: dict[str, NDArray[Any]]) -> NDArray[Any]:
    to = onnx.helper.tensor_dtype_to_np_dtype(onnx.helper.get_node_attr_value(node, "to"))
    return array.astype(to)


def _transpose(onnx: Any, node: Any, array: NDArray[Any], _: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return np.ascontiguousarray(array.transpose(onnx.helper.get_node_attr_value(node, "perm")))


def _reshape(_: Any, node: Any, array: NDArray[Any], inside: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return array.reshape(tuple(int(extent) for extent in inside[node.input[1]]))


#: Operators on weights alone that are carried out when a graph is read.
_FOLDED: dict[str, Callable[[Any, Any, NDArray[Any], dict[str, NDArray[Any]]], NDArray[Any]]] = {
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
}


def _spoilt(where: str, what: str) -> PlanError:
    return PlanError(f"{where} cannot be used: {what}. Build the plan again with: ctfast build")
