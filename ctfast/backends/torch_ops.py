"""OpenVINO's operations on torch tensors: those that plans have. docs.openvino.ai specifies each ("opset")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .torch_convolution import refuse, whole_numbers
from .torch_fused_ops import FUSED, MAKERS

Attributes = Mapping[str, str]
Operation = Callable[..., Tensor | Sequence[Tensor]]

_FLOATS = {"f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
_HALVES = (torch.bfloat16, torch.float16)
_WHOLE = {"i32": torch.int32, "i64": torch.int64, "boolean": torch.bool, "u8": torch.uint8}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def _true(attributes: Attributes, key: str) -> bool:
    return attributes.get(key, "false") in ("true", "1")


def _axes(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


def _matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of the larger one, so that a bias or an embedding does not widen features."""
    if a.dtype == b.dtype or not (a.is_floating_point() and b.is_floating_point()) or a.numel() == b.numel():
        return a, b
    return (a, b.to(a.dtype)) if a.numel() > b.numel() else (a.to(b.dtype), b)


def _add(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    a, b = _matched(a, b)
    if a.is_cuda and a.shape == b.shape and {a.dtype, b.dtype} in ({torch.float32, half} for half in _HALVES):
        # Features stay in 16 bits, and the sum is rounded as it is written.
        narrow = a if a.dtype != torch.float32 else b
        return torch.add(a, b, out=torch.empty_like(narrow))
    return a + b


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda _, a, b: function(*_matched(a, b))


def _unary(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda _, x: function(x)


def _divide(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    if not a.is_floating_point():
        return torch.div(a, b, rounding_mode="floor")
    a, b = _matched(a, b)
    return a / b


def _transposed_convolution(attributes: Attributes, x: Tensor, kernel: Tensor) -> Tensor:
    before, after = whole_numbers(attributes["pads_begin"]), whole_numbers(attributes["pads_end"])
    if before != after or attributes.get("auto_pad", "explicit") not in ("explicit", "notset"):
        raise refuse("a transposed convolution with padding that differs between the ends")
    more = whole_numbers(attributes.get("output_padding", "")) or [0] * len(before)
    strides, dilations = whole_numbers(attributes["strides"]), whole_numbers(attributes["dilations"])
    return _TRANSPOSED[x.ndim](x.to(kernel.dtype), kernel, None, strides, before, more, 1, dilations)


def _matmul(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    if a.dtype != b.dtype:
        half = next((dtype for dtype in _HALVES if dtype in (a.dtype, b.dtype)), torch.float32)
        a, b = a.to(half), b.to(half)
    a = a.transpose(-1, -2) if _true(attributes, "transpose_a") else a
    b = b.transpose(-1, -2) if _true(attributes, "transpose_b") else b
    return a @ b


def _attention(attributes: Attributes, *tensors: Tensor) -> Tensor:
    parts = attributes.get("parts", "q,k,v,mask,scale").split(",")
    given = dict(zip(parts, tensors, strict=False))
    q, mask = given["q"], given.get("mask")
    if mask is not None and mask.ndim == 0:
        mask = None
    factor = float(given["scale"]) if "scale" in given else None
    if "factor" in given:  # of the queries
        factor = float(given["factor"]) * (q.shape[-1] ** -0.5 if factor is None else factor)
    causal = _true(attributes, "causal")
    return F.scaled_dot_product_attention(q, given["k"], given["v"], attn_mask=mask, is_causal=causal, scale=factor)


def _mvn(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    over = sorted(axis % x.ndim for axis in _axes(axes))
    eps = float(attributes["eps"])
    if not _true(attributes, "normalize_variance") or attributes["eps_mode"].upper() != "INSIDE_SQRT":
        raise refuse("a normalisation without variance, or with eps outside the root")
    if over == list(range(over[0], x.ndim)):
        return F.layer_norm(x, x.shape[over[0] :], eps=eps)
    variance, mean = torch.var_mean(x.float(), over, correction=0, keepdim=True)
    return ((x - mean) * torch.rsqrt(variance + eps)).to(x.dtype)


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
        raise refuse("an enlargement of batch or channels")
    whole = all(to % of == 0 for to, of in zip(shape[2:], x.shape[2:], strict=True))
    if mode == "nearest" and grid == "asymmetric" and whole:
        return F.interpolate(x, size=shape[2:], mode="nearest")
    if mode in ("linear", "linear_onnx") and grid == "half_pixel":
        linear = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
        return F.interpolate(x, size=shape[2:], mode=linear, align_corners=False)
    raise refuse(f"interpolation '{mode}' with coordinates '{grid}'")


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    if any(whole_numbers(attributes["pads_begin"])) or any(whole_numbers(attributes["pads_end"])):
        raise refuse("an average over padded voxels")
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]
    kernel, strides = whole_numbers(attributes["kernel"]), whole_numbers(attributes["strides"])
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
            raise refuse("a slice that goes backwards")
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
        raise refuse("channels to voxels in the order 'blocks_first'")
    edge, (batch, channels, *size) = int(attributes["block_size"]), x.shape
    rank = len(size)
    split = x.reshape(batch, channels // edge**rank, *[edge] * rank, *size)
    order = [axis for pair in zip(range(2 + rank, 2 + 2 * rank), range(2, 2 + rank), strict=True) for axis in pair]
    shape = (batch, channels // edge**rank, *(extent * edge for extent in size))
    return split.permute(0, 1, *order).reshape(shape)


def _space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    if attributes["mode"] != "depth_first":
        raise refuse("voxels to channels in the order 'blocks_first'")
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


_OPERATIONS: Mapping[str, Operation] = {
    "Add": _add,
    "AvgPool": _average_pool,
    "Clamp": _clamp,
    "Concat": _concat,
    "Convert": _convert,
    "ConvolutionBackpropData": _transposed_convolution,
    "Cos": _unary(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Divide": _divide,
    "Exp": _unary(torch.exp),
    "Gather": _gather,
    "Gelu": _gelu,
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
    **FUSED,
}


def operation(kind: str) -> Operation | None:
    """What carries out a layer of this kind, or None if nothing does."""
    return MAKERS[kind]() if kind in MAKERS else _OPERATIONS.get(kind)
