"""A 3^3 convolution of each channel by itself, and a 1^3 convolution of its result, in one.

Depthwise separable convolution (Chollet 2017, arXiv:1610.02357). A program computes the first for a brick of voxels, a
few channels at a time, and multiplies what it has into the sums of the second at once: the tensor between the two is
never in memory, one write and one read of it less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .conv3d import neighbouring
from .conv3d_kernel import repeated, there
from .dispatch import available, jit, launch, tl
from .reference.depthwise import depthwise as _twin
from .tuning import Configuration, Tunable, configuration


def depthwise(
    x: Tensor,
    weight: Tensor,
    point: Tensor,
    bias: Tensor | None = None,
    point_bias: Tensor | None = None,
    silu: Literal["between", "behind"] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """conv3d(conv3d(x, weight, bias, padding=1, groups=C), point, point_bias).

    Args:
        x: [B, C, X, Y, Z], bfloat16, float16 or float32, channels-last-3d (copied into that order if it is not).
        weight: [C, 1, 3, 3, 3], the type of ``x``. Read where it lies if channels are next to each other in memory
            (``in_order``), else copied: 27 C numbers.
        point: [made, C] or [made, C, 1, 1, 1], the type of ``x``.
        bias: [C], of the first convolution.
        point_bias: [made], of the second.
        silu: Where v / (1 + exp(-v)) is taken: "between" the two, "behind" the second, or not at all.
        out: Where to put the result: of its shape and type, its channels next to each other.

    Returns:
        [B, made, X, Y, Z] in channels-last-3d order, of the type of ``x``. Sums are float32; the first convolution's
        result is rounded to the type of ``x`` before the second.

    Raises:
        ValueError: Shapes, types, devices or strides do not fit, or ``silu`` is something else.
    """
    _check(x, weight, point, bias, point_bias, silu, out)
    if not available(x):
        return _twin(x, weight, point, bias, point_bias, silu, out)
    tunable = replace(DEPTHWISE, default=default(x.dtype))
    config = configuration(tunable, x, (*x.shape, point.shape[0]))
    return _run(config, x, weight, point, bias, point_bias, silu, out)


def in_order(weight: Tensor) -> Tensor:
    """Depthwise weights [C, 1, 3, 3, 3] with the channels of each tap next to each other in memory."""
    return weight.permute(2, 3, 4, 1, 0).contiguous().permute(4, 3, 0, 1, 2)


def _run(
    config: Configuration,
    x: Tensor,
    weight: Tensor,
    point: Tensor,
    bias: Tensor | None = None,
    point_bias: Tensor | None = None,
    silu: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    batch, channels, *extents = x.shape
    made = point.shape[0]
    if out is None:
        shape = (batch, made, extents[0], extents[1], extents[2])
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    x = neighbouring(x)
    ordered = weight.stride(0) == 1 and weight.stride()[2:] == (9 * channels, 3 * channels, channels)
    brick = [int(config[name]) for name in ("BLOCK_X", "BLOCK_Y", "BLOCK_Z")]
    bricks = [-(-extent // edge) for extent, edge in zip(extents, brick, strict=True)]
    block_out = min(int(config["BLOCK_OUT"]), max(16, 1 << (made - 1).bit_length()))
    blocks = {"BLOCK_IN": min(int(config["BLOCK_IN"]), max(16, 1 << (channels - 1).bit_length()))}
    launch(
        _convolve,
        (bricks[0] * bricks[1] * bricks[2] * -(-made // block_out), batch),
        x,
        *(x, weight if ordered else in_order(weight), point),
        *(x if tensor is None else tensor for tensor in (bias, point_bias)),
        out,
        *extents,
        *(tensor.stride(axis) for tensor in (x, out) for axis in (0, 2, 3, 4)),
        *point.stride()[:2],
        CHANNELS=channels,
        MADE=made,
        BIAS=bias is not None,
        POINT_BIAS=point_bias is not None,
        SILU={None: 0, "between": 1, "behind": 2}[silu],
        **{**config, **blocks, "BLOCK_OUT": block_out},
    )
    return out


def _check(
    x: Tensor,
    weight: Tensor,
    point: Tensor,
    bias: Tensor | None,
    point_bias: Tensor | None,
    silu: str | None,
    out: Tensor | None,
) -> None:
    if x.ndim != 5 or 0 in x.shape:
        raise ValueError(f"expected [B, C, X, Y, Z] with a voxel or more, found {tuple(x.shape)}")
    if silu not in (None, "between", "behind"):
        raise ValueError(f"expected silu 'between', 'behind' or None, found {silu!r}")
    channels, made = x.shape[1], point.shape[0]
    points = (made, channels, *([1] * 3 if point.ndim == 5 else []))
    wanted = {
        "depthwise weights": (weight, (channels, 1, 3, 3, 3)),
        "pointwise weights": (point, points),
        "a result": (out, (x.shape[0], made, *x.shape[2:])),
        "a bias": (bias, (channels,)),
        "a second bias": (point_bias, (made,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"expected {name} {shape}, found {tuple(tensor.shape)}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"expected {name} on {x.device}, found {tensor.device}")
        if tensor is not None and not name.endswith("bias") and tensor.dtype != x.dtype:
            raise ValueError(f"expected {name} of {x.dtype}, found {tensor.dtype}")
        if tensor is not None and name.endswith("bias") and not tensor.is_contiguous():
            raise ValueError(f"expected {name} without gaps, found strides {tensor.stride()}")
    if out is not None and made > 1 and out.stride(1) != 1:
        raise ValueError(f"expected a result with stride 1 along the channels, found strides {out.stride()}")


@jit
def _silu(values: tl.tensor) -> Any:
    return values / (1.0 + tl.math.exp2(values * -1.4426950408889634))


@jit
def _convolve(
    x: tl.tensor,
    weight: tl.tensor,
    point: tl.tensor,
    bias: tl.tensor,
    point_bias: tl.tensor,
    out: tl.tensor,
    extent_x: tl.tensor,
    extent_y: tl.tensor,
    extent_z: tl.tensor,
    x_batch: tl.tensor,
    x_x: tl.tensor,
    x_y: tl.tensor,
    x_z: tl.tensor,
    out_batch: tl.tensor,
    out_x: tl.tensor,
    out_y: tl.tensor,
    out_z: tl.tensor,
    point_out: tl.tensor,
    point_in: tl.tensor,
    CHANNELS: tl.constexpr,
    MADE: tl.constexpr,
    BIAS: tl.constexpr,
    POINT_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_Z: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """A brick of voxels (their rows: along z first) and a block of output channels of one volume."""
    out_blocks = tl.cdiv(MADE, BLOCK_OUT)
    brick = tl.program_id(0) // out_blocks
    made = (tl.program_id(0) % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    along_z, along_y = tl.cdiv(extent_z, BLOCK_Z), tl.cdiv(extent_y, BLOCK_Y)
    batch = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, BLOCK_X * BLOCK_Y * BLOCK_Z)
    place_z = brick % along_z * BLOCK_Z + row % BLOCK_Z
    place_y = brick // along_z % along_y * BLOCK_Y + row // BLOCK_Z % BLOCK_Y
    place_x = brick // along_z // along_y * BLOCK_X + row // (BLOCK_Z * BLOCK_Y)
    inside = (place_x < extent_x) & (place_y < extent_y) & (place_z < extent_z)
    # A bit for each tap: whether it meets a voxel. Rows beyond the grid meet none.
    taps = repeated(
        there(place_x, extent_x, 3), repeated(there(place_y, extent_y, 3), there(place_z, extent_z, 3), 3, 3), 9, 3
    )
    taps = tl.where(inside, taps, 0)
    place_x, place_y, place_z = place_x.to(tl.int64), place_y.to(tl.int64), place_z.to(tl.int64)
    voxel = x + batch * x_batch + place_x * x_x + place_y * x_y + place_z * x_z

    sums = tl.zeros([BLOCK_X * BLOCK_Y * BLOCK_Z, BLOCK_OUT], tl.float32)
    for first in range(0, CHANNELS, BLOCK_IN):
        channel = first + tl.arange(0, BLOCK_IN)
        known = channel < CHANNELS
        between = tl.zeros([BLOCK_X * BLOCK_Y * BLOCK_Z, BLOCK_IN], tl.float32)
        if BIAS:
            between += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
        for slab in range(3):  # unrolled, all 27 loads would be under way at once, in more registers than there are
            for face in tl.static_range(9):
                tap = slab * 9 + face
                away = tl.cast(slab - 1, tl.int64) * x_x + (face // 3 - 1) * tl.cast(x_y, tl.int64)
                away += (face % 3 - 1) * tl.cast(x_z, tl.int64)
                valid = ((taps >> tap) & 1 != 0)[:, None] & known[None, :]
                values = tl.load(voxel[:, None] + away + channel[None, :], mask=valid, other=0.0).to(tl.float32)
                factor = tl.load(weight + tap * CHANNELS + channel, mask=known, other=0.0).to(tl.float32)
                between += values * factor[None, :]
        if SILU == 1:
            between = _silu(between)
        at = point + channel[:, None] * point_in + made[None, :] * point_out
        mixed = tl.load(at, mask=known[:, None] & (made < MADE)[None, :], other=0.0)
        sums = tl.dot(between.to(mixed.dtype), mixed, sums, input_precision="ieee")

    if POINT_BIAS:
        sums += tl.load(point_bias + made, mask=made < MADE, other=0.0).to(tl.float32)[None, :]
    if SILU == 2:
        sums = _silu(sums)
    offset = batch * out_batch + place_x * out_x + place_y * out_y + place_z * out_z
    stored = sums.to(out.dtype.element_ty)
    tl.store(out + offset[:, None] + made[None, :], stored, mask=inside[:, None] & (made < MADE)[None, :])


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Any:
    batch, channels, *extents, made = shape
    x = torch.randn(batch, channels, *extents, dtype=dtype, device=device)
    weight = in_order(torch.randn(channels, 1, 3, 3, 3, dtype=dtype, device=device))
    point = torch.randn(made, channels, dtype=dtype, device=device)
    return partial(_run, x=x.contiguous(memory_format=torch.channels_last_3d), weight=weight, point=point)


def _configuration(brick: tuple[int, int, int], given: int, made: int, warps: int) -> Configuration:
    edges = dict(zip(("BLOCK_X", "BLOCK_Y", "BLOCK_Z"), brick, strict=True))
    return {**edges, "BLOCK_IN": given, "BLOCK_OUT": made, "num_warps": warps, "num_stages": 1}


def default(dtype: torch.dtype) -> Configuration:
    """What fits into the registers of compute capability 8.0 and 9.0 (by the assembler's report)."""
    return _configuration((2, 4, 4), 32, 64, 8) if dtype == torch.float32 else _configuration((4, 4, 4), 32, 128, 8)


#: Keyed by (batch, channels, X, Y, Z, made).
DEPTHWISE = Tunable(
    "depthwise",
    default(torch.bfloat16),
    [
        _configuration(brick, given, made, warps)
        for brick in ((4, 4, 4), (2, 4, 8), (4, 4, 8))
        for given in (32, 64)
        for made in (64, 128)
        for warps in (4, 8)
    ],
    example=_example,
)
