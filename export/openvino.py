"""ONNX files to OpenVINO IR, prepared for the runtime's reduced precision.

Three things are done to the graph that OpenVINO would not do by itself. The sinusoidal time embedding is marked to stay
in float32: in bf16 a time step near 1000 would be rounded to a multiple of 4. Each output ends in an activation that
changes nothing, but whose result OpenVINO keeps in float32: a bf16 image has steps of 8 HU around water. And of all
constants only the weights are halved. See docs/numerics.md.
"""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino._offline_transformations import apply_moc_transformations, compress_model_transformation

from ctfast.errors import CtfastError
from ctfast.export.wrappers import Axis, Graph

#: What OpenVINO calls an operation that must be computed in the precision it is written in.
_PRECISE = {"name": "precise", "version": "0"}

#: Operations that compute nothing.
_MOVES = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})

#: Names that OpenVINO made up; they count up through the life of the process.
_COUNTED = re.compile(r"([A-Z]\w*_\d+(_compressed)?)?")


@dataclass(frozen=True)
class Ir:
    """A network in OpenVINO's format: files with the graph and with its constants, and operations by type."""

    xml: Path
    weights: Path
    operations: Mapping[str, int]


def convert(onnx_path: Path, graph: Graph, folder: Path, *, half: bool, weights: Collection[bytes]) -> Ir:
    """Convert an ONNX file.

    Args:
        onnx_path: The file.
        graph: What it was made from; the IR has the same inputs and outputs by name.
        folder: Where ``<graph.name>.xml`` and ``<graph.name>.bin`` go.
        half: Write the weights as float16; the graph widens them again.
        weights: The constants to halve, as ``fingerprint`` gives them.

    Raises:
        CtfastError: Inputs, outputs or free axes were lost on the way.
    """
    model = ov.Core().read_model(str(onnx_path))
    # What openvino.convert_model does for an ONNX file, less the usage statistics that it sends.
    apply_moc_transformations(model, cf=False, smart_reshape=True)
    _sizes_from_the_latent(model, graph)
    _unsqueeze_by_reshape(model)
    _full_precision_outputs(model)
    if half:
        _halve(model, weights)
    rename_counted(model, {port.name for port in graph.inputs} | set(graph.outputs))
    model.set_friendly_name(graph.name)
    _check(model, graph)
    target = folder / f"{graph.name}.xml"
    ov.save_model(model, str(target), compress_to_fp16=False)
    operations = Counter(node.get_type_name() for node in model.get_ordered_ops())
    del model
    target.write_bytes(mark_precise(target.read_bytes()))
    return Ir(target, target.with_suffix(".bin"), dict(operations))


def fingerprint(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """What two constants share if they are the same bytes, whatever their shapes."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()


def _sizes_from_the_latent(model: ov.Model, graph: Graph) -> None:
    """Let no size be read from an input that the runtime may drop.

    Torch names each free extent after the input where it is met in its simplest form, which for a denoiser is the
    coarsest residual. Extents of all grids follow from the latent's.
    """
    parameters = {node.get_friendly_name(): node for node in model.get_parameters()}
    base = graph.inputs[0]
    for port in graph.inputs:
        if port.name not in graph.drop_if_unused:
            continue
        for target in parameters[port.name].output(0).get_target_inputs():
            node = target.get_node()
            if node.get_type_name() != "ShapeOf":
                continue
            kind = node.get_element_type()
            whole = op.shape_of(parameters[base.name], output_type=kind.get_type_name())
            parts: list[ov.Node] = []
            for axis, (ours, theirs) in enumerate(zip(port.shape, base.shape, strict=True)):
                if isinstance(ours, int) or isinstance(theirs, int):
                    parts.append(_whole(kind, _static(ours)))
                    continue
                extent = op.gather(whole, op.constant([axis], np.int64), op.constant(0, np.int64))
                parts.append(op.divide(extent, _whole(kind, theirs[1] // ours[1])))
            node.output(0).replace(op.concat(parts, 0).output(0))


def _whole(kind: ov.Type, value: int) -> ov.Node:
    """A vector of one whole number."""
    return op.constant(np.array([value], kind.to_dtype()))


def _static(axis: Axis) -> int:
    assert isinstance(axis, int)
    return axis


def _unsqueeze_by_reshape(model: ov.Model) -> None:
    """Write the step from (batch) to (batch, 1) above the sinusoids as Reshape: an Unsqueeze would lose its mark."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Unsqueeze":
            continue
        source = node.input_value(0)
        if source.get_node().get_type_name() != "Parameter" or source.get_partial_shape().rank.get_length() != 1:
            continue
        column = op.reshape(source, op.constant(np.array([-1, 1], np.int64)), special_zero=False)
        column.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(column.output(0))


def _full_precision_outputs(model: ov.Model) -> None:
    """End each output in a PReLU of slope 1, which is fused into what computes it and makes that write float32.

    It stands before what only moves values around, or the convolution before that would still write bf16.
    """
    for result in model.get_results():
        reader = result.input(0)
        while reader.get_source_output().get_node().get_type_name() in _MOVES:
            reader = reader.get_source_output().get_node().input(0)
        source = reader.get_source_output()
        identity = op.prelu(source, op.constant(np.ones(1, np.float32))).output(0)
        identity.get_node().set_friendly_name(f"{source.get_node().get_friendly_name()}_f32")
        if reader.get_node().get_type_name() == "Result":  # the output's name is its tensor's
            names = source.get_names()
            source.get_tensor().set_names(set())
            identity.get_tensor().set_names(names)
        reader.replace_source_output(identity)


def _halve(model: ov.Model, weights: Collection[bytes]) -> None:
    """Write the constants among ``weights`` as float16; others (frequencies, scales) stay as they are."""
    originals = {
        node.get_friendly_name(): node.output(0)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant"
        and node.get_element_type() == ov.Type.f32
        and fingerprint(node.data) not in weights
    }
    copies = {name: np.array(output.get_node().data) for name, output in originals.items()}
    compress_model_transformation(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert" or node.get_element_type() != ov.Type.f32:
            continue
        parent = node.input_value(0).get_node()
        name = node.get_friendly_name()
        if parent.get_type_name() == "Constant" and name in copies:
            constant = op.constant(copies[name])
            constant.set_friendly_name(name)
            node.output(0).replace(constant.output(0))


def rename_counted(model: ov.Model, kept: Collection[str]) -> None:
    """Give nodes whose names are mere counts names that depend on the graph alone, so that equal plans are equal.

    ``kept`` are names of inputs and outputs.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        name = node.get_friendly_name()
        if name not in kept and _COUNTED.fullmatch(name):
            node.set_friendly_name(f"{node.get_type_name()}#{index}")


def _check(model: ov.Model, graph: Graph) -> None:
    """CtfastError unless inputs and outputs are those of ``graph``, with free axes where it has them."""
    inputs = {port.get_any_name(): port.get_partial_shape() for port in model.inputs}
    outputs = [port.get_any_name() for port in model.outputs]
    problems = []
    if set(inputs) != {port.name for port in graph.inputs}:
        problems.append(f"inputs {', '.join(inputs)}")
    if set(outputs) != set(graph.outputs):
        problems.append(f"outputs {', '.join(outputs)}")
    problems += [
        f"{port.name} of shape {inputs[port.name]}"
        for port in graph.inputs
        if port.name in inputs
        and any(
            axis.is_static != isinstance(given, int) for axis, given in zip(inputs[port.name], port.shape, strict=True)
        )
    ]
    if problems:
        raise CtfastError(f"OpenVINO read {graph.name} with {'; '.join(problems)}; please report this as a bug")


def mark_precise(xml: bytes) -> bytes:
    """Mark everything that sines and cosines are computed from, and themselves, to stay in float32."""
    root = ET.fromstring(xml)
    layers = {layer.get("id"): layer for layer in root.iter("layer")}
    sources: dict[str | None, list[str | None]] = {}
    for edge in root.iter("edge"):
        sources.setdefault(edge.get("to-layer"), []).append(edge.get("from-layer"))
    open_ends = [key for key, layer in layers.items() if layer.get("type") in ("Sin", "Cos")]
    marked = set(open_ends)
    while open_ends:
        new = set(sources.get(open_ends.pop(), ())) - marked
        marked |= new
        open_ends += new
    for key in marked:
        layer = layers[key]
        if layer.get("type") not in ("Parameter", "Const", "Convert"):
            info = layer.find("rt_info")
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, info)
            ET.SubElement(info, "attribute", _PRECISE)
    return b'<?xml version="1.0"?>\n' + ET.tostring(root)
