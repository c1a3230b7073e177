"""Torch networks to ONNX graphs: how norms and attention are written, and which tensor of the state dict is which."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from onnxscript import opset20
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from ctfast.export.onnx_shapes import fix_reshapes
from ctfast.export.wrappers import Graph, Port

#: Typed for what is written in its own language; here values of a graph are passed.
_op: Any = opset20

#: From this opset on there are operators for the norm over groups and for attention, and they are used.
SINGLE_OPERATORS = 23

#: What is kept with an initializer that is a weight: its key in the state dict, and whether its axes are exchanged.
KEY = "ctfast.key"
TRANSPOSED = "ctfast.transposed"


class _Flat(nn.Module):
    """A graph's module behind one variadic argument, so that all graphs describe their inputs alike."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*tensors)


def trace(graph: Graph, opset: int) -> ir.Model:
    """The graph as an ONNX model whose batch and spatial axes are free.

    Initializers that are tensors of the state dict have their keys as names, and the same memory; KEY and TRANSPOSED in
    their ``meta`` tell which and how. Nothing is computed, so the time depends on the network's depth alone.
    """
    flat = _Flat(graph.module)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            flat,
            graph.example(),
            dynamo=True,
            opset_version=opset,
            input_names=[port.name for port in graph.inputs],
            output_names=list(graph.outputs),
            dynamic_shapes={"tensors": _free_axes(graph.inputs)},
            custom_translation_table=_PATTERNS if opset < SINGLE_OPERATORS else None,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        assert program.exported_program is not None
        model: ir.Model = program.model
        weights = _as_inputs(model, _keys(flat, graph.state))
        optimize_ir(model)
        _name_extents(model, graph.inputs, program.exported_program)
        fix_reshapes(model, {port.name for port in graph.inputs if port.name in graph.drop_if_unused})
        _as_initializers(model, weights)
        RemoveUnusedNodesPass()(model)
        ClearMetadataAndDocStringPass()(model)  # where in torch's sources each node comes from
    return model


def _group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """A norm over groups as the norm of as many instances, which every runtime computes well.

    The channels of a group go in front of the first spatial axis: then both shapes are constants, whatever the size.
    """
    rank, channels = len(input.shape), int(input.shape[1])
    rest = [-1] + [0] * (rank - 3)
    parts = _op.Reshape(input, _op.Constant(value_ints=[0, num_groups, *rest]))
    ones = _op.Constant(value_floats=[1.0] * num_groups)
    zeros = _op.Constant(value_floats=[0.0] * num_groups)
    normal = _op.InstanceNormalization(parts, ones, zeros, epsilon=eps)
    whole = _op.Reshape(normal, _op.Constant(value_ints=[0, channels, *rest]))
    axes = _op.Constant(value_ints=list(range(1, rank - 1)))
    return _op.Add(_op.Mul(whole, _op.Unsqueeze(weight, axes)), _op.Unsqueeze(bias, axes))


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention without a mask, as matrix products."""
    factor = 1.0 / math.sqrt(int(query.shape[3])) if scale is None else scale
    scaled = _op.Mul(query, _op.Constant(value_float=factor))
    weights = _op.Softmax(_op.MatMul(scaled, _op.Transpose(key, perm=[0, 1, 3, 2])), axis=-1)
    return _op.MatMul(weights, value)


_PATTERNS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.group_norm.default: _group_norm,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}


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


def _name_extents(model: ir.Model, ports: tuple[Port, ...], exported: torch.export.ExportedProgram) -> None:
    """Call the free extents by the ports' names wherever they occur; torch does so at the inputs alone."""
    names: dict[str, str] = {}
    given = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"][-len(ports) :]
    for port, tensor in zip(ports, given, strict=True):
        for axis, extent in zip(port.shape, tensor.shape, strict=True):
            if not isinstance(axis, int):
                names |= dict.fromkeys(re.findall(r"s\d+", str(extent)), axis[0])
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_named(dim, names) for dim in value.shape])


def _named(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    return re.sub(r"\bs\d+\b", lambda match: names.get(match[0], match[0]), dim.value)


def _keys(flat: nn.Module, state: Mapping[str, Tensor]) -> dict[str, str]:
    """State-dict keys by the names that the exporter gives to the same tensors."""
    keys = {tensor.data_ptr(): key for key, tensor in state.items()}
    return {name: keys[tensor.data_ptr()] for name, tensor in flat.state_dict().items() if tensor.data_ptr() in keys}


def _as_inputs(model: ir.Model, keys: Mapping[str, str]) -> dict[str, ir.TensorProtocol]:
    """Make inputs of the weights, so that the optimizer neither computes with them nor merges those that are equal."""
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        if name in keys and value.const_value is not None:
            weights[keys[name]] = value.const_value
            del model.graph.initializers[name]
            value.name, value.const_value = keys[name], None
            model.graph.inputs.append(value)
    return weights


def _as_initializers(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Make initializers of the weights again, in the shapes in which they are used."""
    inputs = {value.name: value for value in model.graph.inputs}
    for key, tensor in weights.items():
        value = inputs[key]
        model.graph.inputs.remove(value)
        uses = [node for node, _ in value.uses()]
        reshaped = [node for node in uses if node.op_type in ("Unsqueeze", "Transpose")]
        if len(reshaped) < len(uses):
            value.const_value = tensor
            value.meta[KEY] = key
            model.graph.register_initializer(value)
        for node in reshaped:
            _absorb(model, node, key, tensor)


def _absorb(model: ir.Model, node: ir.Node, key: str, tensor: ir.TensorProtocol) -> None:
    """Replace the node that gives a weight other axes by an initializer that has them."""
    array = tensor.numpy()
    if node.op_type == "Transpose":
        array = array.transpose(node.attributes["perm"].as_ints())
    else:
        axes = node.inputs[1]
        assert axes is not None
        assert axes.const_value is not None
        array = np.expand_dims(array, tuple(int(axis) for axis in axes.const_value.numpy()))
    taken = model.graph.initializers
    name = next(name for name in (key, *(f"{key}.{count}" for count in range(1, 1000))) if name not in taken)
    made = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    made.const_value = ir.Tensor(array, name=name)
    made.meta[KEY] = key
    made.meta[TRANSPOSED] = node.op_type == "Transpose"
    model.graph.register_initializer(made)
    node.outputs[0].replace_all_uses_with(made)
    model.graph.remove(node, safe=True)


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
