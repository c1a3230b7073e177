"""ONNX graphs for a plan: their weights are external data that lie in the network's ``model.bin``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ctfast.export.onnx import check_shapes
from ctfast.export.onnx_trace import KEY, TRANSPOSED
from ctfast.export.shared_graphs import SharedWeights
from ctfast.manifest import TensorEntry

#: Where external data are: the network's section of that name, whatever folder the graph is in.
LOCATION = "model.bin"

#: Constants of fewer bytes that are no weights stay in the graph.
INLINE_BYTES = 1024


def save_over_weights(
    model: ir.Model, path: Path, shared: SharedWeights, table: Mapping[str, TensorEntry] | None = None
) -> None:
    """Write a model whose weights are those in ``model.bin``, and what that lacks of its constants to the end of it.

    Args:
        model: The model; its initializers are replaced.
        path: The file.
        shared: The network's ``model.bin``.
        table: Where the tensors of the state dict are. Weights, which have a KEY, are taken from there if they can be;
            the other way is to look for their bytes.

    Raises:
        onnx.shape_inference.InferenceError: The graph does not fit together.
    """
    for value in list(model.graph.initializers.values()):
        key = value.meta.get(KEY)
        entry = None if table is None or key is None else table.get(key)
        if value.const_value is None:
            continue
        if entry is not None and (len(value.const_value.shape) == 2 or not entry.transposed):
            _use(model, value, entry)
        elif key is not None or value.const_value.nbytes >= INLINE_BYTES:
            array = value.const_value.numpy()
            place = shared.place(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            value.const_value = _external(value.name, place, array.dtype, array.shape)
    ir.save(model, path)
    check_shapes(path)


def _use(model: ir.Model, value: ir.Value, entry: TensorEntry) -> None:
    """Make an initializer of a weight that of its bytes in ``model.bin``, cast and transposed if they are not as it."""
    assert value.name is not None
    assert value.const_value is not None
    wanted, shape = value.const_value.dtype, value.const_value.shape.numpy()
    turn = len(shape) == 2 and bool(value.meta.get(TRANSPOSED)) != entry.transposed
    stored = _external(value.name, entry.offset, np.dtype(entry.dtype), tuple(shape)[::-1] if turn else tuple(shape))
    if not turn and stored.dtype == wanted:
        value.const_value = stored
        return
    made = ir.Value(name=value.name, shape=ir.Shape(stored.shape), type=ir.TensorType(stored.dtype))
    made.const_value = stored
    uses = list(value.uses())
    del model.graph.initializers[value.name]
    model.graph.register_initializer(made)
    nodes = []
    result = made
    if stored.dtype != wanted:
        nodes.append(ir.node("Cast", [result], {"to": int(wanted)}))
        result = nodes[-1].outputs[0]
        result.name, result.dtype, result.shape = f"{made.name}/cast", wanted, ir.Shape(stored.shape)
    if turn:
        nodes.append(ir.node("Transpose", [result], {"perm": [1, 0]}))
        result = nodes[-1].outputs[0]
        result.name, result.dtype, result.shape = f"{made.name}/transposed", wanted, ir.Shape(shape)
    for node, index in uses:
        node.replace_input_with(index, result)
    model.graph.insert_before(model.graph[0], nodes)


def _external(name: str | None, offset: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> ir.ExternalTensor:
    length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    kind = ir.DataType.from_numpy(dtype)
    return ir.ExternalTensor(LOCATION, offset, length, kind, shape=ir.Shape(shape), name=name or "")
