"""Group norm, with what is added in front of it and the SiLU behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from .affine_silu import apply
from .channel_sums import partial_sums, room, slab_total
from .dispatch import available, channels_last, jit, launch, tl
from .reference import group_norm_silu as twin
from .tiles import check_features, check_vector, power_of_two, voxels

_LOADED = 1024  # partial sums that a program holds at a time


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    second: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """SiLU(GroupNorm(x + shift)), of ``x`` or of ``x`` and ``second`` side by side along the channels.

    Group norm is that of Wu and He (2018), SiLU that of Elfwing et al. (2018). Three kernels: sums by slab, one scale
    and shift per channel from them, and the pass that applies these. Features are read twice and written once; group
    norm, addition, concatenation and SiLU apart read them five times and write them four times.

    Args:
        x: [B, C, X, Y, Z], float32, float16 or bfloat16. A tensor that is not channels last, or whose ``second`` or
            ``out`` is not, goes through plain torch.
        groups: Groups of channels, of one width; a group may have channels of both tensors.
        weight, bias: [C + C of second], or None for 1 and 0.
        eps: Added to the variance.
        silu: Whether SiLU follows.
        shift: Added to ``x`` first: [B, channels] or [1, channels] of both tensors, of floats; or None.
        second: The channels behind those of ``x``: [B, C2, X, Y, Z]; or None.
        out: Where to write: [B, C + C2, X, Y, Z]; may be ``x`` where there is no ``second``. By default a new tensor.

    Returns:
        [B, C + C2, X, Y, Z] of the type of ``x``; NaN in all of a group that has a NaN or an infinity.
    """
    check_features("group_norm_silu", x)
    batch, channels = x.shape[:2]
    if second is not None:
        check_features("group_norm_silu", second, name="second")
        if second.dtype != x.dtype or second.shape[0] != batch or second.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"group_norm_silu: second is to be [{batch}, channels, {', '.join(map(str, x.shape[2:]))}] of {x.dtype}"
                f", not {list(second.shape)} of {second.dtype}"
            )
        channels += second.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"group_norm_silu: {channels} channels are not {groups} groups of one width")
    check_vector("group_norm_silu", "weight", weight, [(channels,)])
    check_vector("group_norm_silu", "bias", bias, [(channels,)])
    check_vector("group_norm_silu", "shift", shift, [(batch, channels), (1, channels)])
    if out is not None:
        check_features("group_norm_silu", out, x.new_empty(()).expand(batch, channels, *x.shape[2:]), "out")
    parts = [x] if second is None else [x, second]
    if not (available(x) and all(channels_last(each) for each in (*parts, *([] if out is None else [out])))):
        return twin.group_norm_silu(x, groups, weight, bias, eps, silu, shift, second, out)
    if out is None:
        shape = (batch, channels, *x.shape[2:])
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    sums, first = room(x, channels), 0
    for part in parts:
        partial_sums(part, sums, first)
        first += part.shape[1]
    scale, offset = _normalisation(sums, voxels(x), groups, weight, bias, eps, shift)
    first = 0
    for part in parts:
        apply(part, scale, offset, silu, out, first)
        first += part.shape[1]
    return out


def _normalisation(
    sums: tuple[Tensor, Tensor],
    count: int,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Scale and offset of every channel, both [B, C] float32: of x itself, the shift being in the offset."""
    partial, pivots = sums
    batch, channels = pivots.shape
    slabs, width = partial.shape[2], channels // groups
    block_w = power_of_two(width)
    scale, offset = torch.empty_like(pivots), torch.empty_like(pivots)
    vectors = [pivots if each is None else each.contiguous() for each in (weight, bias, shift)]
    launch(
        _normalise,
        (groups, batch),
        pivots,
        *(partial, pivots, *vectors, scale, offset, count, slabs, channels),
        *(channels if shift is not None and shift.shape[0] > 1 else 0, float(eps)),
        WIDTH=width,
        WEIGHTED=weight is not None,
        BIASED=bias is not None,
        SHIFTED=shift is not None,
        BLOCK_P=max(min(power_of_two(slabs), _LOADED // block_w), 1),
        BLOCK_W=block_w,
        num_warps=4,
    )
    return scale, offset


@jit
def _normalise(
    partial: tl.tensor,
    pivots: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    scale: tl.tensor,
    offset: tl.tensor,
    count: tl.tensor,
    slabs: tl.tensor,
    channels: tl.tensor,
    shift_stride: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BIASED: tl.constexpr,
    SHIFTED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_W: tl.constexpr,
) -> None:
    within = tl.arange(0, BLOCK_W)
    c = tl.program_id(0) * WIDTH + within
    batch = tl.program_id(1).to(tl.int64)
    real = within < WIDTH
    total = slab_total(partial, batch * 2 * slabs, slabs, channels, c, real, BLOCK_P, BLOCK_W)
    square = slab_total(partial, (batch * 2 + 1) * slabs, slabs, channels, c, real, BLOCK_P, BLOCK_W)
    # Of x + shift, out of the sums of x less the pivot.
    first = tl.load(pivots + batch * channels + c, mask=real, other=0).to(tl.float64)
    added = tl.zeros([BLOCK_W], tl.float64)
    if SHIFTED:
        added = tl.load(shift + batch * shift_stride + c, mask=real, other=0).to(tl.float64)
    first += added
    members = total * 0 + count
    mean = tl.sum(tl.where(real, total + first * members, 0), axis=0) / tl.sum(tl.where(real, members, 0), axis=0)
    # About the group's mean, which is exact where the channels' first values are close to it.
    apart = first - mean
    spread = tl.where(real, square + (2 * total + apart * members) * apart, 0)
    variance = tl.sum(spread, axis=0) / tl.sum(tl.where(real, members, 0), axis=0)
    inverse = 1 / tl.sqrt(tl.maximum(variance, 0) + eps)
    factor = tl.zeros([BLOCK_W], tl.float64) + inverse
    if WEIGHTED:
        factor = factor * tl.load(weight + c, mask=real, other=0).to(tl.float64)
    moved = (added - mean) * factor
    if BIASED:
        moved += tl.load(bias + c, mask=real, other=0).to(tl.float64)
    tl.store(scale + batch * channels + c, factor.to(tl.float32), mask=real)
    tl.store(offset + batch * channels + c, moved.to(tl.float32), mask=real)
