"""The graphs of stages as ONNX: the few operations that ctfast.export.stage_graph has, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import openvino as ov
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ctfast._version import __version__
from ctfast.errors import CtfastError
from ctfast.export.onnx_trace import KEY

_SPATIAL = 3
_RESIZE = {"linear_onnx": "linear", "nearest": "nearest"}


def stage_model(model: ov.Model, network: str, opset: int) -> ir.Model:
    """A stage's graph as an ONNX model with the same inputs and outputs.

    Constants that are floating-point numbers have a KEY in their ``meta``: they lie in the network's weights.

    Raises:
        CtfastError: The graph has an operation that no rule is written for.
    """
    writer = _Writer()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in _RULES:
            raise CtfastError(
                f"a stage of {network} has the operation {kind}, for which ctfast.export.stage_onnx has no rule"
            )
        inputs = [writer.made[_key(port.get_source_output())] for port in node.inputs()]
        result = _RULES[kind](writer, node, inputs)
        if result is not None:
            writer.made[_key(node.output(0))] = result
    stage = model.get_friendly_name()
    graph = ir.Graph(
        writer.inputs,
        writer.outputs,
        nodes=writer.nodes,
        initializers=writer.initializers,
        opset_imports={"": opset},
        name=f"{network}_{stage}",
        doc_string=f"The stage {stage} of the network {network}; tensors are float32, axes (batch, z, y, x, channel)",
    )
    properties = {"ctfast.network": network, "ctfast.stage": stage, "ctfast.version": __version__}
    made = ir.Model(
        graph, ir_version=10, producer_name="ctfast", producer_version=__version__, metadata_props=properties
    )
    RemoveUnusedNodesPass()(made)  # constants that became attributes
    return made


class _Writer:
    """Collects nodes; values are called by the order in which they are made, so equal graphs give equal files."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, int], ir.Value] = {}
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def add(self, kind: str, *inputs: ir.Value | None, **attributes: int | float | str | list[int]) -> ir.Value:
        node = ir.node(kind, inputs, attributes)
        node.name = f"{kind}_{len(self.nodes)}"
        node.outputs[0].name = f"{node.name}_out"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: NDArray[np.generic], key: str | None = None) -> ir.Value:
        name = f"constant_{len(self.initializers)}"
        kind = ir.DataType.from_numpy(array.dtype)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(kind))
        value.const_value = ir.Tensor(array, name=name)
        if key is not None:
            value.meta[KEY] = key
        self.initializers.append(value)
        return value

    def whole(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))


def _key(output: ov.Output) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()


def _parameter(writer: _Writer, node: ov.Node, _: list[ir.Value]) -> ir.Value:
    name = node.output(0).get_any_name()
    axes = zip(node.output(0).get_partial_shape(), ("batch", "z", "y", "x", "channel"), strict=True)
    shape = ir.Shape([f"{name}_{axis}" if extent.is_dynamic else extent.get_length() for extent, axis in axes])
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    writer.inputs.append(value)
    return value


def _result(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> None:
    (value,) = inputs
    value.name = node.input_value(0).get_any_name()
    extents = zip(node.input_value(0).get_partial_shape(), ("batch", "z", "y", "x", "channel"), strict=True)
    value.shape = ir.Shape([f"{value.name}_{axis}" if e.is_dynamic else e.get_length() for e, axis in extents])
    value.type = ir.TensorType(ir.DataType.FLOAT)
    writer.outputs.append(value)


def _constant(writer: _Writer, node: ov.Node, _: list[ir.Value]) -> ir.Value:
    array = np.array(node.data)
    return writer.constant(array, node.get_friendly_name() if array.dtype.kind == "f" else None)


def _convert(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    kind = ir.DataType.from_numpy(node.get_element_type().to_dtype())
    return writer.add("Cast", *inputs, to=int(kind))


def _convolution(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    told = node.get_attributes()
    pads = [*told["pads_begin"], *told["pads_end"]]
    return writer.add("Conv", *inputs, strides=list(told["strides"]), pads=pads, dilations=list(told["dilations"]))


def _interpolate(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    told = node.get_attributes()
    scales = np.ones(2 + _SPATIAL, np.float32)
    scales[_numbers(node, 2)] = np.array(node.input_value(1).get_node().data)
    return writer.add(
        "Resize",
        inputs[0],
        None,
        writer.constant(scales),
        mode=_RESIZE[told["mode"]],
        coordinate_transformation_mode=told["coordinate_transformation_mode"],
        nearest_mode=told["nearest_mode"],
    )


def _slice(writer: _Writer, _: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    data, start, stop, step, axes = inputs
    return writer.add("Slice", data, start, stop, axes, step)


def _swish(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    x, *factor = inputs
    plain = not factor or (np.array(node.input_value(1).get_node().data) == 1).all()
    return writer.add("Mul", x, writer.add("Sigmoid", x if plain else writer.add("Mul", x, *factor)))


def _clamp(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    told = node.get_attributes()
    ends = [writer.constant(np.array(told[end], np.float32)) for end in ("min", "max")]
    return writer.add("Clip", *inputs, *ends)


def _prelu(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    """Nothing for the slope 1, with which OpenVINO is made to write float32."""
    slope = np.array(node.input_value(1).get_node().data)
    return inputs[0] if (slope == 1).all() else writer.add("PRelu", *inputs)


def _space_to_depth(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    """Blocks to channels along three axes; ONNX's own operator knows two."""
    (x,) = inputs
    block, channels = node.get_attributes()["block_size"], _channels(node)
    coarse = writer.add("Div", writer.add("Shape", x, start=2), writer.whole(block))
    column = writer.add("Reshape", coarse, writer.whole(_SPATIAL, 1))
    blocks = writer.constant(np.full((_SPATIAL, 1), block, np.int64))
    pairs = writer.add("Reshape", writer.add("Concat", column, blocks, axis=1), writer.whole(-1))
    split = writer.add("Reshape", x, writer.add("Concat", writer.whole(1, channels), pairs, axis=0))
    turned = writer.add("Transpose", split, perm=[0, 1, 3, 5, 7, 2, 4, 6])
    target = writer.add("Concat", writer.whole(1, channels * block**_SPATIAL), coarse, axis=0)
    return writer.add("Reshape", turned, target)


def _depth_to_space(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    """The inverse of the above."""
    (x,) = inputs
    block = node.get_attributes()["block_size"]
    channels = _channels(node) // block**_SPATIAL
    coarse = writer.add("Shape", x, start=2)
    split = writer.add("Concat", writer.whole(1, channels, *[block] * _SPATIAL), coarse, axis=0)
    turned = writer.add("Transpose", writer.add("Reshape", x, split), perm=[0, 1, 5, 2, 6, 3, 7, 4])
    fine = writer.add("Mul", coarse, writer.whole(block))
    return writer.add("Reshape", turned, writer.add("Concat", writer.whole(1, channels), fine, axis=0))


def _transpose(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    return writer.add("Transpose", inputs[0], perm=_numbers(node, 1))


def _reduce_mean(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    return writer.add("ReduceMean", *inputs, keepdims=int(node.get_attributes()["keep_dims"]))


def _concat(writer: _Writer, node: ov.Node, inputs: list[ir.Value]) -> ir.Value:
    return writer.add("Concat", *inputs, axis=node.get_attributes()["axis"])


def _plain(kind: str) -> Callable[[_Writer, ov.Node, list[ir.Value]], ir.Value]:
    return lambda writer, _, inputs: writer.add(kind, *inputs)


def _channels(node: ov.Node) -> int:
    return int(node.input_value(0).get_partial_shape()[1].get_length())


def _numbers(node: ov.Node, index: int) -> list[int]:
    return [int(number) for number in node.input_value(index).get_node().data]


_RULES: Mapping[str, Callable[[_Writer, ov.Node, list[ir.Value]], ir.Value | None]] = {
    "Parameter": _parameter,
    "Result": _result,
    "Constant": _constant,
    "Convert": _convert,
    "Convolution": _convolution,
    "Interpolate": _interpolate,
    "Slice": _slice,
    "Swish": _swish,
    "Clamp": _clamp,
    "PRelu": _prelu,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _depth_to_space,
    "Transpose": _transpose,
    "ReduceMean": _reduce_mean,
    "Concat": _concat,
    "Reshape": _plain("Reshape"),
    "Add": _plain("Add"),
    "Multiply": _plain("Mul"),
    "Divide": _plain("Div"),
    "Sqrt": _plain("Sqrt"),
}
