"""Trilinear enlargement by two and a 3^3 convolution in one, without the enlarged tensor in memory.

Enlargement (half-pixel centres, align_corners off) and convolution are both linear: together they are, for each of the
eight parities of a result's voxel, a 3^3 convolution of the small tensor with folded weights, whose border is the
nearest voxel. That holds wherever the convolution meets no zero padding; the outermost voxels of the result do, and are
made from thin slabs enlarged as they are. Products and sums are as many as before; the large tensor's write and
27-fold reads become 27-fold reads of one that is an eighth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .conv3d import CANDIDATES, default, run
from .dispatch import available
from .reference.trilinear_conv import trilinear_conv as _twin
from .tuning import Configuration, Tunable, configuration

#: Per parity of a voxel of the result: what each tap of the convolution (columns) takes from the small tensor's voxels
#: before, at and behind (rows).
_FOLD = (
    ((0.75, 0.25, 0.0), (0.25, 0.75, 0.75), (0.0, 0.0, 0.25)),
    ((0.25, 0.0, 0.0), (0.75, 0.75, 0.25), (0.0, 0.25, 0.75)),
)


def fold(weight: Tensor) -> Tensor:
    """The eight convolutions of the small tensor, [8, made, C, 3, 3, 3], each in channels-last order.

    ``weight`` is [made, C, 3, 3, 3]. Number 4 a + 2 b + c makes the voxels (2 x + a, 2 y + b, 2 z + c). Computed in
    float64 and rounded once, to the type of ``weight``.
    """
    _check_weight(weight)
    even, odd = torch.tensor(_FOLD, dtype=torch.float64, device=weight.device)
    made, channels = weight.shape[:2]
    folded = torch.empty(8, made, 3, 3, 3, channels, dtype=weight.dtype, device=weight.device)
    for phase in range(8):
        along = [odd if phase & bit else even for bit in (4, 2, 1)]
        folded[phase] = torch.einsum("ax,by,cz,oixyz->oabci", *along, weight.double())
    return folded.permute(0, 1, 5, 2, 3, 4)


def trilinear_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, folded: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """conv3d(interpolate(x, scale_factor=2, mode="trilinear", align_corners=False), weight, bias, padding=1).

    Args:
        x: [B, C, X, Y, Z], bfloat16, float16 or float32, channels-last-3d (copied into that order if it is not).
        weight: [made, C, 3, 3, 3], the type of ``x``.
        bias: [made].
        folded: ``fold(weight)``, which is made here if it is not given.
        out: Where to put the result: of its shape and type, its channels next to each other.

    Returns:
        [B, made, 2 X, 2 Y, 2 Z] in channels-last-3d order, of the type of ``x``; sums are float32. Of 16-bit types the
        folded weights are rounded where torch rounds the enlarged tensor.

    Raises:
        ValueError: Shapes, types, devices or strides do not fit.
    """
    shape = _check(x, weight, bias, folded, out)
    if not available(x):
        return _twin(x, weight, bias, folded, out)
    return _run(_chosen(x, weight), shape, x, weight, bias, fold(weight) if folded is None else folded, out)


def faster(x: Tensor, weight: Tensor) -> bool:
    """Whether the table of the tensor's GPU says that this beats torch's two operations. No table: False."""
    return available(x) and bool(_chosen(x, weight).get("use", False))


def _chosen(x: Tensor, weight: Tensor) -> Configuration:
    tunable = replace(TRILINEAR_CONV, default=default(weight.shape[0], x.dtype))
    return configuration(tunable, x, (*x.shape, weight.shape[0]))


def _run(
    config: Configuration,
    shape: Sequence[int],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    folded: Tensor,
    out: Tensor | None,
) -> Tensor:
    result = run(config, shape, x, folded, bias, out=out, phases=8)
    for axis in (2, 3, 4):
        for far in (False, True):
            plane = result.narrow(axis, result.shape[axis] - 1 if far else 0, 1)
            plane.copy_(_face(x, weight, bias, axis, far))
    return result


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


def _face(x: Tensor, weight: Tensor, bias: Tensor | None, axis: int, far: bool) -> Tensor:
    """The result's first or last voxels along an axis, from the two of the small tensor that they depend on."""
    count = min(2, x.shape[axis])
    slab = x.narrow(axis, x.shape[axis] - count if far else 0, count)
    large = _enlarged(slab)
    nearest = large.narrow(axis, large.shape[axis] - 2 if far else 0, 2)
    around = [0] * 6
    around[2 * (4 - axis) + far] = 1
    padding = [0 if other == axis else 1 for other in (2, 3, 4)]
    added = None if bias is None else bias.to(x.dtype)
    return F.conv3d(F.pad(nearest, around), weight, added, padding=padding)


def _check_weight(weight: Tensor) -> None:
    if weight.ndim != 5 or weight.shape[2:] != (3, 3, 3):
        raise ValueError(f"expected weights [made, C, 3, 3, 3], found {tuple(weight.shape)}")


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, folded: Tensor | None, out: Tensor | None
) -> tuple[int, int, int, int, int]:
    """The result's shape."""
    _check_weight(weight)
    made, channels = weight.shape[:2]
    if x.ndim != 5 or x.shape[1] != channels or 0 in x.shape:
        raise ValueError(f"expected [B, {channels}, X, Y, Z] with a voxel or more, found {tuple(x.shape)}")
    shape = (x.shape[0], made, 2 * x.shape[2], 2 * x.shape[3], 2 * x.shape[4])
    if x.shape[2] * x.shape[3] * x.shape[4] >= 2**31 - 2**16:
        raise ValueError(f"expected fewer than 2^31 voxels, found {tuple(x.shape[2:])}")
    wanted = {"weights": weight.shape, "a bias": (made,), "folded weights": (8, *weight.shape), "a result": shape}
    for (name, extents), tensor in zip(wanted.items(), (weight, bias, folded, out), strict=True):
        if tensor is not None and tuple(tensor.shape) != tuple(extents):
            raise ValueError(f"expected {name} {tuple(extents)}, found {tuple(tensor.shape)}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"expected {name} on {x.device}, found {tensor.device}")
        if tensor is not None and tensor is not bias and tensor.dtype != x.dtype:
            raise ValueError(f"expected {name} of {x.dtype}, found {tensor.dtype}")
    if out is not None and made > 1 and out.stride(1) != 1:
        raise ValueError(f"expected a result with stride 1 along the channels, found strides {out.stride()}")
    return shape


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Any:
    x, weight = _inputs(shape, dtype, device)
    result, folded = _check(x, weight, None, None, None), fold(weight)
    return lambda config: _run(config, result, x, weight, None, folded, None)


def _rival(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Any:
    x, weight = _inputs(shape, dtype, device)
    return lambda: F.conv3d(_enlarged(x), weight, padding=1)


def _inputs(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    batch, channels, *extents, made = shape
    x = torch.randn(batch, channels, *extents, dtype=dtype, device=device)
    weight = torch.randn(made, channels, 3, 3, 3, dtype=dtype, device=device)
    order = torch.channels_last_3d
    return x.contiguous(memory_format=order), weight.contiguous(memory_format=order)


#: Keyed by (batch, channels, X, Y, Z, made), of the small tensor: see ``faster``.
TRILINEAR_CONV = Tunable("trilinear_conv", default(128, torch.bfloat16), CANDIDATES, example=_example, rival=_rival)
