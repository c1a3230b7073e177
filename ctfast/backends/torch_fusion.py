"""Operations that torch or a kernel of ctfast.kernels does in one call, found in OpenVINO's graphs, where they are
several.

A group norm is written as an enlarged batch norm would be: groups in front, mean and variance of each, back to the
shape it had, times a scale, plus a shift. A convolution's bias is an addition behind it. As one call each keeps the
order of its tensor's memory, and reads it once. torch_fused_ops.py carries out what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .torch_layers import Layer, LayerGraph, Slot
from .torch_linear_fusion import fuse_linear

_CONVOLUTIONS = ("Convolution", "PhaseUpsample")
_SPATIAL = 3
_PARTS = {"Convolution": "x,kernel", "GroupNormalization": "x,scale,bias"}


def fused(layers: Sequence[Layer], values: Callable[[Layer], list[float]], gpu: bool = False) -> list[Layer]:
    """The layers, each behind those whose results it reads, with one in the place of several.

    - GroupNormalization: a group norm, with the embedding that is added in front of it and the SiLU behind it.
    - Convolution: with its bias. ConvolutionEpilogue: also with a tensor that is added, or with a SiLU.
    - AffineSilu: a stage's scale, shift, SiLU and mask.
    - Linear, Projections: see torch_linear_fusion.py; a ScaledDotProductAttention has the scale of its queries.

    Where there are kernels for it:

    - PhaseUpsample: twice the grid by repeating voxels, then a convolution.
    - PairConvolution, and a GroupNormalization of two tensors: these side by side, without their concatenation.
    - GroupNormalization: also with the bias of the convolution in front of it.

    Args:
        layers: Each behind those whose results it reads.
        values: The values of a constant.
        gpu: Whether kernels will run in Triton.
    """
    graph = LayerGraph(layers, values)
    for kind, parts in _PARTS.items():
        for layer in graph.of_kind(kind):
            graph.put(layer.with_attributes(parts=parts))
    for layer in graph.of_kind("MVN"):
        _group_norm(graph, layer)
    if gpu:
        for layer in graph.of_kind("Interpolate"):
            _phase_upsample(graph, layer)
    for layer in graph.of_kind(*_CONVOLUTIONS):
        _bias(graph, layer)
    for layer in graph.of_kind("GroupNormalization"):
        _norm_with_silu(graph, layer)
    for layer in graph.of_kind("GroupNormalization"):
        _norm_with_shift(graph, layer, gpu)
    if gpu:
        for layer in graph.of_kind("Concat"):
            _pair(graph, layer)
    for layer in reversed(graph.of_kind("Convolution")):
        _epilogue(graph, layer)
    for layer in graph.of_kind("Multiply"):
        if layer.number in graph.layers:
            _affine(graph, layer)
    fuse_linear(graph)
    return graph.ordered()


def _group_norm(graph: LayerGraph, norm: Layer) -> None:
    """Put one layer in the place of the last of the five, if they are a group norm."""
    grouped = graph.source(norm.inputs[0])
    back = graph.reader(norm, "Reshape")
    scale = graph.reader(back, "Multiply")
    shift = graph.reader(scale, "Add")
    if grouped.kind != "Reshape" or back is None or scale is None or shift is None:
        return
    if len(graph.readers(grouped)) > 1:
        return
    features = grouped.inputs[0]
    channels = graph.source(features).channels
    factor, offset = graph.per_channel(scale, back, channels), graph.per_channel(shift, scale, channels)
    target, axes = graph.numbers(grouped.inputs[1]), graph.numbers(norm.inputs[1])
    if factor is None or offset is None or target is None or axes != list(range(2, len(target))):
        return
    kind, groups = "GroupNormalization", target[1]
    if target != [0, groups, -1, *[0] * (len(target) - 3)]:
        return
    if not _undoes(graph, back, features, target, channels):
        return
    attributes = {"num_groups": str(int(groups)), "epsilon": norm.attributes["eps"]} | {"parts": _PARTS[kind]}
    inputs = (features, factor, offset)
    one = replace(shift, kind=kind, attributes=attributes, inputs=inputs)
    graph.replace((grouped, norm, back, scale), one)


def _undoes(graph: LayerGraph, back: Layer, features: Slot, target: list[float], channels: int) -> bool:
    """Whether a reshape gives the features' shape back to what another one gave the shape ``target``."""
    shape = graph.source(back.inputs[1])
    if shape.kind == "ShapeOf":
        return shape.inputs[0] == features
    # The extents behind the first spatial one have stayed; the two before are told, and so the rest is one's.
    return len(target) > 3 and graph.numbers(back.inputs[1]) == [0, channels, *target[2:]]


def _bias(graph: LayerGraph, convolution: Layer) -> None:
    """Put a convolution with a bias in the place of the addition, if one value per channel is added."""
    addition = graph.reader(convolution, "Add")
    bias = None if addition is None else graph.per_channel(addition, convolution, convolution.channels)
    if addition is None or bias is None:
        return
    one = replace(addition, kind=convolution.kind, attributes=convolution.attributes, inputs=convolution.inputs)
    graph.replace((convolution,), one.with_part("bias", bias))


def _silu(graph: LayerGraph, layer: Layer) -> tuple[Layer, list[Layer]] | None:
    """The SiLU of a layer that nothing else reads: its last operation, and those in front of that."""
    swish = graph.reader(layer, "Swish")
    if swish is not None:
        return (swish, []) if len(swish.inputs) == 1 or graph.is_one(swish.inputs[1]) else None
    readers = {each.kind: each for each in graph.readers(layer)}
    if readers.keys() != {"Sigmoid", "Multiply"} or len(graph.readers(layer)) != 2:
        return None
    sigmoid, product = readers["Sigmoid"], readers["Multiply"]
    if graph.reader(sigmoid, "Multiply") is not product or set(product.inputs) != {layer.slot, sigmoid.slot}:
        return None
    return product, [sigmoid]


def _norm_with_silu(graph: LayerGraph, norm: Layer) -> None:
    found = _silu(graph, norm)
    if found is None:
        return
    last, between = found
    one = replace(last, kind=norm.kind, attributes=norm.attributes, inputs=norm.inputs)
    graph.replace((norm, *between), one.with_attributes(silu="true"))


def _norm_with_shift(graph: LayerGraph, norm: Layer, gpu: bool) -> None:
    """Have a norm add the embedding that was added in front of it, and the convolution's bias where a kernel does."""
    addition = graph.source(norm.inputs[0])
    if addition.kind == "Add" and graph.reader(addition, norm.kind) is norm:
        for features, vector in (addition.inputs, addition.inputs[::-1]):
            wide, narrow = graph.source(features), graph.source(vector).shape
            if wide.channels == norm.channels and narrow[1:] == (norm.channels, 1, 1, 1) and len(wide.shape) == 5:
                norm = replace(norm, inputs=(features, *norm.inputs[1:])).with_part("shift", vector)
                graph.replace((addition,), norm)
                break
    convolution = graph.source(norm.inputs[0])
    bias = convolution.part("bias") if convolution.kind in _CONVOLUTIONS else None
    if gpu and bias is not None and graph.reader(convolution, norm.kind) is norm:
        bare = replace(convolution, inputs=convolution.inputs[:2]).with_attributes(parts="x,kernel")
        graph.put(bare)
        graph.put(norm.with_part("convolution_bias", bias))


def _epilogue(graph: LayerGraph, convolution: Layer) -> None:
    """Have a convolution add the tensor that is added behind it, or take the SiLU behind it."""
    found = _silu(graph, convolution)
    if found is not None:
        last, between = found
        one = replace(last, kind="ConvolutionEpilogue", attributes=convolution.attributes, inputs=convolution.inputs)
        graph.replace((convolution, *between), one.with_attributes(silu="true"))
        return
    addition = graph.reader(convolution, "Add")
    if addition is None or len(addition.shape) != 5 or addition.inputs[0] == addition.inputs[1]:
        return
    added = graph.other(addition, convolution.slot)
    shape = graph.source(added).shape
    if graph.constant(added) is None and len(shape) == 5 and shape[1] == convolution.channels > 0:
        one = replace(addition, kind="ConvolutionEpilogue", attributes=convolution.attributes)
        graph.replace((convolution,), replace(one, inputs=convolution.inputs).with_part("added", added))


def _cubic(graph: LayerGraph, convolution: Layer, extent: int) -> bool:
    """Whether a convolution's kernel has ``extent`` taps along each axis, and keeps the grid."""
    kernel = graph.source(convolution.inputs[1]).shape
    padding = {f"{extent // 2}"}
    steps = [_axes(convolution, key) for key in ("strides", "dilations")]
    around = [_axes(convolution, key) for key in ("pads_begin", "pads_end")]
    return (
        kernel[2:] == (extent,) * _SPATIAL
        and all(set(each) == {"1"} for each in steps)
        and all(set(each) == padding for each in around)
        and convolution.attributes.get("auto_pad", "explicit") in ("explicit", "notset")
    )


def _axes(layer: Layer, key: str) -> list[str]:
    return [value.strip() for value in layer.attributes[key].split(",")]


def _phase_upsample(graph: LayerGraph, doubled: Layer) -> None:
    """Put one layer in the place of a grid that is doubled by repeating voxels, and of the convolution behind it."""
    attributes = doubled.attributes
    convolution = graph.reader(doubled, "Convolution")
    if convolution is None or graph.constant(convolution.inputs[1]) is None or not _cubic(graph, convolution, 3):
        return
    if attributes["mode"] != "nearest" or attributes["coordinate_transformation_mode"] != "asymmetric":
        return
    factors = graph.numbers(doubled.inputs[1]) if attributes["shape_calculation_mode"] == "scales" else None
    axes = graph.numbers(doubled.inputs[2]) if len(doubled.inputs) > 2 else list(range(len(factors or ())))
    if factors is None or axes is None:
        return
    by_axis = dict(zip(axes, factors, strict=True))
    if [by_axis.get(axis, 1) for axis in range(5)] != [1, 1, 2, 2, 2] or len(by_axis) < _SPATIAL:
        return
    # Constant, as the kernel is: it is carried out when the graph is opened.
    kernel = graph.source(convolution.inputs[1])
    merged = replace(
        kernel, number=graph.new_number(convolution), kind="MergedWeights", attributes={}, inputs=(kernel.slot,)
    )
    graph.put(merged)
    one = replace(convolution, kind="PhaseUpsample", inputs=(doubled.inputs[0], merged.slot))
    graph.replace((doubled,), one.with_attributes(parts="x,kernel"))


def _pair(graph: LayerGraph, concatenation: Layer) -> None:
    """Have norms and pointwise convolutions read two tensors in the place of their concatenation."""
    sources = [graph.source(slot) for slot in concatenation.inputs]
    readers = graph.readers(concatenation)
    if concatenation.attributes["axis"] not in ("1", "-4") or len(sources) != 2 or not readers:
        return
    if not all(len(source.shape) == 5 and source.channels > 0 for source in sources):
        return
    first, second = concatenation.inputs
    for reader in readers:
        pointwise = reader.kind == "Convolution" and _cubic(graph, reader, 1) and _not_wide(graph, reader)
        if reader.inputs[0] != concatenation.slot or not (pointwise or reader.kind == "GroupNormalization"):
            return
    for reader in readers:
        kind = "PairConvolution" if reader.kind == "Convolution" else reader.kind
        one = replace(reader, kind=kind, inputs=(first, *reader.inputs[1:]))
        graph.put(one.with_part("second", second))
    graph.drop(concatenation.number)


def _not_wide(graph: LayerGraph, convolution: Layer) -> bool:
    """Whether nothing marks a convolution's result as one that is wanted in float32."""
    return all(reader.kind != "PReLU" for reader in graph.readers(convolution))


def _affine(graph: LayerGraph, product: Layer) -> None:
    """Put one layer in the place of a stage's scale and shift, with the SiLU and the mask behind it if there are."""
    shift = graph.reader(product, "Add")
    if shift is None or product.inputs[0] == product.inputs[1]:
        return
    vectors = [graph.source(slot) for slot in (product.inputs[1], graph.other(shift, product.slot))]
    shape = graph.source(product.inputs[0]).shape
    if len(shape) != 5 or shape[-1] < 1 or any(each.shape != (1, 1, 1, 1, shape[-1]) for each in vectors):
        return
    if any(each.kind != "Parameter" for each in vectors):
        return
    inputs = (product.inputs[0], *(each.slot for each in vectors))
    one = replace(shift, kind="AffineSilu", attributes={"parts": "x,scale,shift"}, inputs=inputs)
    graph.replace((product,), one)
    found = _silu(graph, one)
    if found is not None:
        last, between = found
        silu = replace(last, kind=one.kind, attributes={**one.attributes, "silu": "true"}, inputs=one.inputs)
        graph.replace((one, *between), silu)
        one = silu
    masked = graph.reader(one, "Multiply")
    if masked is not None:
        mask = graph.source(graph.other(masked, one.slot))
        if mask.kind == "Parameter" and len(mask.shape) == 5 and mask.shape[0] == 1 and mask.shape[2:] == (1, 1, 1):
            masked = replace(masked, kind=one.kind, attributes=one.attributes, inputs=one.inputs)
            graph.replace((one,), masked.with_part("mask", mask.slot))
