"""OpenVINO's operations on torch tensors: those that plans have. docs.openvino.ai specifies each ("opset")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PlanError

Attributes = Mapping[str, str]
Operation = Callable[..., Tensor | Sequence[Tensor]]

_FLOATS = {"f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
_WHOLE = {"i32": torch.int32, "i64": torch.int64, "boolean": torch.bool, "u8": torch.uint8}
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def _whole(text: str) -> list[int]:
    return [int(value) for value in text.split(",") if value.strip()]


def _true(attributes: Attributes, key: str) -> bool:
    return attributes.get(key, "false") in ("true", "1")


def _axes(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


def _refuse(what: str) -> PlanError:
    return PlanError(f"backend 'torch' does not know {what}. Use backend 'openvino'")


def _matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of the larger one, so that a bias or an embedding does not widen features."""
    if a.dtype == b.dtype or not (a.is_floating_point() and b.is_floating_point()) or a.numel() == b.numel():
        return a, b
    return (a, b.to(a.dtype)) if a.numel() > b.numel() else (a.to(b.dtype), b)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda _, a, b: function(*_matched(a, b))


def _unary(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda _, x: function(x)


def _divide(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    if not a.is_floating_point():
        return torch.div(a, b, rounding_mode="floor")
    a, b = _matched(a, b)
    return a / b


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The tensor and the padding that is left to a convolution, which pads both ends alike."""
    if list(before) == list(after):
        return x, list(before)
    ends = [count for pair in zip(reversed(before), reversed(after), strict=True) for count in pair]
    return F.pad(x, ends), [0] * len(before)


def _convolution(attributes: Attributes, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    if attributes.get("auto_pad", "explicit") not in ("explicit", "notset"):
        raise _refuse(f"a convolution with auto_pad '{attributes['auto_pad']}'")
    before, after = _whole(attributes["pads_begin"]), _whole(attributes["pads_end"])
    x, padding = _padded(x.to(kernel.dtype), before, after)
    strides, dilations = _whole(attributes["strides"]), _whole(attributes["dilations"])
    added = None if bias is None else bias.reshape(-1).to(kernel.dtype)
    return _CONVOLUTIONS[x.ndim](x, kernel, added, strides, padding, dilations)


def _transposed_convolution(attributes: Attributes, x: Tensor, kernel: Tensor) -> Tensor:
    before, after = _whole(attributes["pads_begin"]), _whole(attributes["pads_end"])
    if before != after or attributes.get("auto_pad", "explicit") not in ("explicit", "notset"):
        raise _refuse("a transposed convolution with padding that differs between the ends")
    more = _whole(attributes.get("output_padding", "")) or [0] * len(before)
    strides, dilations = _whole(attributes["strides"]), _whole(attributes["dilations"])
    return _TRANSPOSED[x.ndim](x.to(kernel.dtype), kernel, None, strides, before, more, 1, dilations)


def _matmul(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    if a.dtype != b.dtype:
        half = torch.bfloat16 if torch.bfloat16 in (a.dtype, b.dtype) else torch.float32
        a, b = a.to(half), b.to(half)
    a = a.transpose(-1, -2) if _true(attributes, "transpose_a") else a
    b = b.transpose(-1, -2) if _true(attributes, "transpose_b") else b
    return a @ b


def _attention(
    attributes: Attributes, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    causal = _true(attributes, "causal")
    if mask is not None and mask.ndim == 0:
        mask = None
    factor = None if scale is None else float(scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=factor)


def _mvn(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    over = sorted(axis % x.ndim for axis in _axes(axes))
    eps = float(attributes["eps"])
    if not _true(attributes, "normalize_variance") or attributes["eps_mode"].upper() != "INSIDE_SQRT":
        raise _refuse("a normalisation without variance, or with eps outside the root")
    if over == list(range(over[0], x.ndim)):
        return F.layer_norm(x, x.shape[over[0] :], eps=eps)
    variance, mean = torch.var_mean(x.float(), over, correction=0, keepdim=True)
    return ((x - mean) * torch.rsqrt(variance + eps)).to(x.dtype)


def _group_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, eps = int(attributes["num_groups"]), float(attributes["epsilon"])
    return F.group_norm(x, groups, scale.reshape(-1).to(x.dtype), bias.reshape(-1).to(x.dtype), eps)


def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    shaped = slope.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)]) if slope.ndim == 1 else slope
    return torch.where(x < 0, x * shaped.to(x.dtype), x)


def _interpolate(attributes: Attributes, x: Tensor, second: Tensor, third: Tensor | None = None) -> Tensor:
    axes = list(range(x.ndim)) if third is None else [axis % x.ndim for axis in _axes(third)]
    if attributes["shape_calculation_mode"] == "scales":
        wanted = [
            int(x.shape[axis] * factor + 1e-4) for axis, factor in zip(axes, second.reshape(-1).tolist(), strict=True)
        ]
    else:
        wanted = _axes(second)
    shape = list(x.shape)
    for axis, extent in zip(axes, wanted, strict=True):
        shape[axis] = extent
    mode, grid = attributes["mode"], attributes["coordinate_transformation_mode"]
    if shape[:2] != list(x.shape[:2]):
        raise _refuse("an enlargement of batch or channels")
    whole = all(to % of == 0 for to, of in zip(shape[2:], x.shape[2:], strict=True))
    if mode == "nearest" and grid == "asymmetric" and whole:
        return F.interpolate(x, size=shape[2:], mode="nearest")
    if mode in ("linear", "linear_onnx") and grid == "half_pixel":
        linear = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
        return F.interpolate(x, size=shape[2:], mode=linear, align_corners=False)
    raise _refuse(f"interpolation '{mode}' with coordinates '{grid}'")


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    if any(_whole(attributes["pads_begin"])) or any(_whole(attributes["pads_end"])):
        raise _refuse("an average over padded voxels")
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]
    kernel, strides = _whole(attributes["kernel"]), _whole(attributes["strides"])
    pooled: Tensor = pool(x.float(), kernel, strides).to(x.dtype)
    return pooled


def _reshape(attributes: Attributes, x: Tensor, target: Tensor) -> Tensor:
    shape = _axes(target)
    if _true(attributes, "special_zero"):
        shape = [x.shape[axis] if extent == 0 else extent for axis, extent in enumerate(shape)]
    return x.reshape(shape)


def _squeeze(_: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_axes(axes)))


def _unsqueeze(_: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in _axes(axes)):
        x = x.unsqueeze(axis)
    return x


def _gather(_: Attributes, x: Tensor, indices: Tensor, axis: Tensor) -> Tensor:
    along = int(axis) % x.ndim
    flat = indices.reshape(-1).to(x.device, torch.int64)
    found = x.index_select(along, torch.where(flat < 0, flat + x.shape[along], flat))
    return found.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])


def _concat(attributes: Attributes, *tensors: Tensor) -> Tensor:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        widest = max(tensors, key=Tensor.numel).dtype
        tensors = tuple(tensor.to(widest) for tensor in tensors)
    return torch.cat(tensors, int(attributes["axis"]))


def _slice(_: Attributes, x: Tensor, start: Tensor, stop: Tensor, step: Tensor, axes: Tensor | None = None) -> Tensor:
    over = list(range(start.numel())) if axes is None else _axes(axes)
    index = [slice(None)] * x.ndim
    for axis, first, last, stride in zip(over, _axes(start), _axes(stop), _axes(step), strict=True):
        if stride < 1:
            raise _refuse("a slice that goes backwards")
        index[axis] = slice(*slice(first, last, stride).indices(x.shape[axis]))
    return x[tuple(index)]


def _split(attributes: Attributes, x: Tensor, axis: Tensor) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = x.chunk(int(attributes["num_splits"]), int(axis))
    return parts


def _split_as(_: Attributes, x: Tensor, axis: Tensor, lengths: Tensor) -> Sequence[Tensor]:
    sizes, along = _axes(lengths), int(axis)
    rest = x.shape[along] - sum(size for size in sizes if size >= 0)
    parts: Sequence[Tensor] = x.split([rest if size < 0 else size for size in sizes], along)
    return parts


def _mean(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    return x.float().mean(_axes(axes), keepdim=_true(attributes, "keep_dims")).to(x.dtype)


def _depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    if attributes["mode"] != "depth_first":
        raise _refuse("channels to voxels in the order 'blocks_first'")
    edge, (batch, channels, *size) = int(attributes["block_size"]), x.shape
    rank = len(size)
    split = x.reshape(batch, channels // edge**rank, *[edge] * rank, *size)
    order = [axis for pair in zip(range(2 + rank, 2 + 2 * rank), range(2, 2 + rank), strict=True) for axis in pair]
    shape = (batch, channels // edge**rank, *(extent * edge for extent in size))
    return split.permute(0, 1, *order).reshape(shape)


def _space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    if attributes["mode"] != "depth_first":
        raise _refuse("voxels to channels in the order 'blocks_first'")
    edge, (batch, channels, *size) = int(attributes["block_size"]), x.shape
    rank = len(size)
    split = x.reshape(batch, channels, *(part for extent in size for part in (extent // edge, edge)))
    inside, outside = range(3, 3 + 2 * rank, 2), range(2, 2 + 2 * rank, 2)
    shape = (batch, channels * edge**rank, *(extent // edge for extent in size))
    return split.permute(0, 1, *inside, *outside).reshape(shape)


def _convert(attributes: Attributes, x: Tensor) -> Tensor:
    wanted = attributes["destination_type"]
    if wanted in _WHOLE:
        return x.to(_WHOLE[wanted])
    # A conversion to float32 only widens what is stored; features stay in what they are computed in.
    return x if x.dtype == torch.bfloat16 else x.to(_FLOATS[wanted])


def _clamp(attributes: Attributes, x: Tensor) -> Tensor:
    return x.clamp(float(attributes["min"]), float(attributes["max"]))


def _swish(_: Attributes, x: Tensor, beta: Tensor | None = None) -> Tensor:
    return F.silu(x) if beta is None else x * torch.sigmoid(x * beta.to(x.dtype))


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh" if attributes.get("approximation_mode", "ERF").upper() == "TANH" else "none")


def _shape(_: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64)


def _transpose(_: Attributes, x: Tensor, order: Tensor) -> Tensor:
    return x.permute(_axes(order))


OPERATIONS: Mapping[str, Operation] = {
    "Add": _binary(torch.add),
    "AvgPool": _average_pool,
    "Clamp": _clamp,
    "Concat": _concat,
    "Convert": _convert,
    "Convolution": _convolution,
    "ConvolutionBackpropData": _transposed_convolution,
    "Cos": _unary(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Divide": _divide,
    "Exp": _unary(torch.exp),
    "Gather": _gather,
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "Interpolate": _interpolate,
    "MVN": _mvn,
    "MatMul": _matmul,
    "Multiply": _binary(torch.mul),
    "PReLU": _prelu,
    "Power": _binary(torch.pow),
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "ScaledDotProductAttention": _attention,
    "ShapeOf": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Subtract": _binary(torch.sub),
    "Swish": _swish,
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "VariadicSplit": _split_as,
}
