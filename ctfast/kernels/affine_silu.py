"""A scale and a shift per sample and channel, and SiLU: what is left of a group norm whose statistics are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .dispatch import available, channels_last, jit, launch, tl
from .reference import affine_silu as twin
from .tiles import ceiling, channel_block, check_features, check_vector, voxels
from .tuning import TILE, TILES, Configuration, Tunable, configuration


def affine_silu(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    silu: bool,
    mask: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``x * scale + shift``, then SiLU (Elfwing et al., 2018) if wanted, in one pass: each voxel read and written once.

    Args:
        x: [B, C, X, Y, Z], float32, float16 or bfloat16; one that is not channels last goes through plain torch.
        scale, shift: [B, C] or [1, C], of floats; computed with in float32.
        silu: Whether SiLU follows.
        mask: [X], a factor of each plane of the result, such as 0 where a slab is beyond the volume; or None.
        out: Where to write, like ``x`` in shape, type and order; may be ``x``. By default a new tensor.
    """
    check_features("affine_silu", x)
    batch, channels = x.shape[:2]
    check_vector("affine_silu", "scale", scale, [(batch, channels), (1, channels)])
    check_vector("affine_silu", "shift", shift, [tuple(scale.shape)])
    check_vector("affine_silu", "mask", mask, [(x.shape[2],)])
    if out is not None:
        check_features("affine_silu", out, x, "out")
    if not (available(x) and channels_last(x) and (out is None or channels_last(out))):
        return twin.affine_silu(x, scale, shift, silu, mask, out)
    out = torch.empty_like(x) if out is None else out
    apply(x, scale.float().contiguous(), shift.float().contiguous(), silu, out, mask=mask)
    return out


def apply(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    silu: bool,
    out: Tensor,
    first: int = 0,
    mask: Tensor | None = None,
    options: Configuration | None = None,
) -> None:
    """Write ``affine_silu`` of a channels-last ``x`` to the channels of a channels-last ``out`` from ``first`` on.

    ``scale`` and ``shift`` are [B or 1, channels of out] float32 and contiguous.
    """
    options = configuration(TUNABLE, x) if options is None else options
    batch, channels = x.shape[:2]
    block_v, block_c = options["BLOCK_V"], channel_block(channels, options["BLOCK_C"])
    count = voxels(x)
    launch(
        _apply,
        (ceiling(count, block_v) * ceiling(channels, block_c), batch),
        x,
        *(x, scale, shift, scale if mask is None else mask.float().contiguous(), out),
        *(count, x.shape[3] * x.shape[4], scale.shape[1] if scale.shape[0] > 1 else 0, first),
        CHANNELS=channels,
        OUT_CHANNELS=out.shape[1],
        SILU=silu,
        MASKED=mask is not None,
        BLOCK_V=block_v,
        BLOCK_C=block_c,
        num_warps=options["num_warps"],
    )


@jit
def _apply(
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    mask: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    plane: tl.tensor,
    vector_stride: tl.tensor,
    first: tl.tensor,
    CHANNELS: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    SILU: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    start = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_V
    batch = tl.program_id(1).to(tl.int64)
    real = c < CHANNELS
    rows = tl.arange(0, BLOCK_V)
    inside = (rows < count - start)[:, None] & real[None, :]
    factor = tl.load(scale + batch * vector_stride + first + c, mask=real, other=0)
    offset = tl.load(shift + batch * vector_stride + first + c, mask=real, other=0)
    tile = rows[:, None] * CHANNELS + c[None, :]
    value = tl.load(x + (batch * count + start) * CHANNELS + tile, mask=inside, other=0).to(tl.float32)
    value = value * factor[None, :] + offset[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    if MASKED:
        kept = tl.load(mask + (start + rows) // plane, mask=rows < count - start, other=0)
        value = value * kept[:, None]
    tile = rows[:, None] * OUT_CHANNELS + c[None, :]
    to = out + (batch * count + start) * OUT_CHANNELS + first + tile
    tl.store(to, value.to(out.dtype.element_ty), mask=inside)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Callable[[Configuration], object]:
    x = torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    vector = torch.randn(x.shape[0], x.shape[1], device=device)
    out = torch.empty_like(x)
    return lambda options: apply(x, vector, vector, True, out, options=options)


TUNABLE = Tunable(
    "affine_silu",
    TILE,
    TILES,
    _example,
)
