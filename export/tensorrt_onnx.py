"""A plan's ONNX graph as TensorRT takes it: of one precision in its types, its weights as the engine holds them.

TensorRT 11 has no precision flags, and strongly typed networks of TensorRT 10 obey none: an engine computes in the
types that its graph has. So the precision is written into the graph.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ctfast.backends.tensorrt_table import Weight
from ctfast.errors import CtfastError
from ctfast.export.tensors import ALIGNMENT

#: What is computed in float32 whatever the precision: sums over a whole volume, and what makes its own type.
_FLOAT32 = frozenset(
    {"ConstantOfShape", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Range", "ReduceMean"}
)
#: TensorRT has no Resize of bfloat16.
_NOT_BF16 = frozenset({"Resize"})
#: Inputs that keep their type: of an operator, from this index on.
_TYPED_INPUTS = {"Resize": 1}

#: From this opset on convolutions and norms may be bfloat16; that is all that is new in it of what the graphs have.
_BF16_OPSET = 22

_ONNX_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_NUMPY = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_KINDS = {
    **{value: key for key, value in _ONNX_TYPES.items()},
    **{TensorProto.INT64: "int64", TensorProto.INT32: "int32", TensorProto.BOOL: "bool"},
}


@dataclass(frozen=True)
class TypedGraph:
    """A graph without its external weights, which are in ``weights`` by name, and constants as tables have them."""

    model: ModelProto
    weights: Mapping[str, Weight]
    constants: Mapping[str, tuple[str, str]]

    @property
    def digest(self) -> str:
        """Checksum of all but the weights' values and places: engines of graphs with the same one take each other's."""
        told = [f"{name} {weight.type} {_shape(weight)}" for name, weight in self.weights.items()]
        bare = ModelProto()
        bare.CopyFrom(self.model)
        for field in ("producer_name", "producer_version", "doc_string", "metadata_props"):
            bare.ClearField(field)
        return hashlib.sha256("\n".join(told).encode() + bare.SerializeToString(deterministic=True)).hexdigest()

    def save(self, path: Path, data: Any) -> None:
        """Write the graph to ``path`` and its weights, out of the buffer of ``model.bin``, to a file beside it."""
        model = ModelProto()
        model.CopyFrom(self.model)
        with path.with_suffix(".weights").open("wb") as file:
            for name, weight in self.weights.items():
                model.graph.initializer.append(_external(file, path, name, weight, data))
        onnx.save_model(model, str(path))


def typed_graph(model: ModelProto, precision: str) -> TypedGraph:
    """A plan's graph in "fp32", "fp16" or "bf16"; the given one is not changed.

    Inputs and outputs stay float32, and so does what does not depend on a volume, such as the embedding of time, and
    group norms. Casts and transpositions of weights go: the weights are written as they come out of those.

    Raises:
        CtfastError: The graph has tensors whose types nobody can tell, or weights of other types than float.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    _constants_to_initializers(copy.graph)
    weights = _fold_weights(copy.graph)
    _Typing(copy, weights, precision).apply()
    if precision == "bf16":
        for opset in copy.opset_import:
            opset.version = max(opset.version, _BF16_OPSET) if opset.domain == "" else opset.version
    inner = {tensor.name: tensor for tensor in copy.graph.initializer}
    constants = {
        name: (_KINDS[tensor.data_type], base64.b64encode(numpy_helper.to_array(tensor).tobytes()).decode())
        for name, tensor in inner.items()
        if tensor.data_type in _KINDS
    }
    return TypedGraph(copy, weights, constants)


class _Typing:
    """One graph on its way to another precision."""

    def __init__(self, model: ModelProto, weights: dict[str, Weight], precision: str) -> None:
        self._graph, self._weights, self._precision = model.graph, weights, precision
        self._types = _types(model, weights)
        self._inner = {tensor.name: tensor for tensor in model.graph.initializer}
        self._actual: dict[str, str] = {value.name: "fp32" for value in model.graph.input}
        self._made: dict[tuple[str, str], str] = {}
        self._nodes: list[NodeProto] = []
        self._source = dict(weights)
        weights.clear()

    def apply(self) -> None:
        """Give every node its precision, with casts between nodes of different ones."""
        graph = self._graph
        volumes = {value.name for value in graph.input if len(value.type.tensor_type.shape.dim) >= 4}
        for node in graph.node:
            on_volume = any(name in volumes for name in node.input)
            if on_volume:
                volumes.update(node.output)
            self._give(node, self._wanted(node, on_volume))
        for value in graph.output:
            if self._actual.get(value.name, "fp32") != "fp32":
                self._rename(value.name)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        graph.initializer.extend(tensor for name, tensor in self._inner.items() if name in used)

    def _wanted(self, node: NodeProto, on_volume: bool) -> str:
        kept = node.op_type in _FLOAT32 or (self._precision == "bf16" and node.op_type in _NOT_BF16)
        return self._precision if on_volume and not kept else "fp32"

    def _give(self, node: NodeProto, wanted: str) -> None:
        free = _TYPED_INPUTS.get(node.op_type, len(node.input))
        for index, name in enumerate(node.input):
            if self._is_float(name):
                node.input[index] = self._as(name, wanted if index < free else "fp32")
        if node.op_type == "Cast" and _attribute(node, "to").i == TensorProto.FLOAT:
            _attribute(node, "to").i = _ONNX_TYPES[wanted]
        self._actual.update((name, wanted) for name in node.output if self._is_float(name))
        self._nodes.append(node)

    def _is_float(self, name: str) -> bool:
        return bool(name) and self._types[name] == TensorProto.FLOAT

    def _as(self, name: str, wanted: str) -> str:
        """The name of a tensor in a precision: its own, or that of a copy or a cast."""
        if name in self._source or name in self._inner:
            if (name, wanted) not in self._made:
                taken = any(made == name for made, _ in self._made)
                self._made[name, wanted] = self._constant(name, f"{name}.{wanted}" if taken else name, wanted)
            return self._made[name, wanted]
        if self._actual[name] == wanted:
            return name
        if (name, wanted) not in self._made:
            cast = f"{name}.{wanted}"
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=_ONNX_TYPES[wanted]))
            self._made[name, wanted] = cast
        return self._made[name, wanted]

    def _constant(self, name: str, given: str, wanted: str) -> str:
        if name in self._source:
            self._weights[given] = replace(self._source[name], type=wanted)
        else:
            values = numpy_helper.to_array(self._inner[name])
            self._inner[given] = numpy_helper.from_array(values.astype(_NUMPY[wanted]), given)
            self._types[given] = self._types[name]
        return given

    def _rename(self, output: str) -> None:
        """Let a graph's output be a cast of what was it."""
        inner = f"{output}.{self._actual[output]}"
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == output:
                        names[index] = inner
        self._nodes.append(helper.make_node("Cast", [inner], [output], name=f"{output}.cast", to=TensorProto.FLOAT))


def _types(model: ModelProto, weights: Mapping[str, Weight]) -> dict[str, int]:
    """The element type of every tensor."""
    inferred = onnx.shape_inference.infer_shapes(_with_inputs(model, weights)).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    unknown = [name for node in model.graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise CtfastError(f"the types of {', '.join(unknown[:3])} cannot be told; please report this as a bug")
    return types


def _with_inputs(model: ModelProto, weights: Mapping[str, Weight]) -> ModelProto:
    """The graph with its weights as further inputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, _shape(weight)) for name, weight in weights.items()
    )
    return copy


def _constants_to_initializers(graph: GraphProto) -> None:
    """Constants get names, under which an engine can be given them."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = TensorProto()
        tensor.CopyFrom(_attribute(node, "value").t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _fold_weights(graph: GraphProto) -> dict[str, Weight]:
    """Take external weights, and what only casts or transposes them, out of a graph; what is left of them by name."""
    weights: dict[str, Weight] = {}
    for tensor in [each for each in graph.initializer if each.data_location == TensorProto.EXTERNAL]:
        offset = int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        if dtype not in ("float16", "float32"):
            raise CtfastError(
                f"weights '{tensor.name}' are {dtype}, which no engine takes; please report this as a bug"
            )
        weights[tensor.name] = Weight(offset, dtype, tuple(tensor.dims), None, "fp32")
        graph.initializer.remove(tensor)
    for node in list(graph.node):
        if node.op_type not in ("Cast", "Transpose") or node.input[0] not in weights:
            continue
        weight = weights[node.input[0]]
        if node.op_type == "Transpose":
            order = tuple(_attribute(node, "perm").ints)
            before = weight.permutation or tuple(range(len(order)))
            weight = replace(weight, permutation=tuple(before[axis] for axis in order))
        weights[node.output[0]] = weight
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    return {name: weight for name, weight in weights.items() if name in used}


def _attribute(node: NodeProto, name: str) -> AttributeProto:
    found: AttributeProto = next(attribute for attribute in node.attribute if attribute.name == name)
    return found


def _shape(weight: Weight) -> list[int]:
    order = weight.permutation or range(len(weight.shape))
    return [weight.shape[axis] for axis in order]


def _external(file: BinaryIO, path: Path, name: str, weight: Weight, data: Any) -> TensorProto:
    """Write one weight to ``file``; the initializer that points there."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset, values = file.tell(), weight.array(data)
    file.write(values.tobytes())
    tensor = TensorProto(name=name, data_type=_ONNX_TYPES[weight.type], data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(_shape(weight))
    for key, value in _place(path, offset, values):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _place(path: Path, offset: int, values: NDArray[Any]) -> Iterator[tuple[str, str]]:
    yield "location", path.with_suffix(".weights").name
    yield "offset", str(offset)
    yield "length", str(values.nbytes)
