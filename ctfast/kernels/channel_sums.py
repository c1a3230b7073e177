"""Sums of a tensor's values and of their squares per channel: what a group norm's statistics are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .dispatch import available, channels_last, jit, launch, tl
from .reference import channel_sums as twin
from .tiles import ceiling, channel_block, check_features, check_vector, power_of_two, voxels
from .tuning import Configuration, Tunable, configuration

_PARTS = 1024  # programs that fill a GPU a few times over
_LONGEST = 32768  # voxels that one program adds up; float32 sums stay exact to a few units in the last place


def channel_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over a sample's voxels, and sums of squares.

    Each program of the kernel adds up a slab of voxels in float32, less the channel's first value, so that nothing is
    lost where the mean is far from zero (Chan, Golub, LeVeque: Algorithms for computing the sample variance, 1983);
    slabs are combined in float64. The tensor is read once.

    Args:
        x: [B, C, X, Y, Z], float32, float16 or bfloat16; one that is not channels last goes through plain torch.

    Returns:
        Both [B, C] float64. Sums of parts of a volume add up to those of the whole.
    """
    check_features("channel_sums", x)
    if not (available(x) and channels_last(x)):
        return twin.channel_sums(x)
    partial, pivots = partial_sums(x)
    batch, channels = pivots.shape
    sums = torch.empty(batch, channels, dtype=torch.float64, device=x.device)
    squares = torch.empty_like(sums)
    slabs = partial.shape[2]
    block_c = channel_block(channels)
    launch(
        _add_up, (ceiling(channels, block_c), batch), x,
        *(partial, pivots, sums, squares, voxels(x), slabs, channels), BLOCK_P=min(power_of_two(slabs), 64),
        BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return sums, squares


def normalisation(
    sums: Tensor, squares: Tensor, count: int, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """What makes a group norm (Wu, He: Group Normalization, 2018) of x: x * scale + shift.

    Args:
        sums, squares: [B, C] float64, over ``count`` voxels.
        count: Voxels that were added up.
        groups: Groups of channels; divides C.
        weight, bias: [C], or None for 1 and 0.
        eps: Added to the variance, which is that of the population.

    Returns:
        Scale and shift, both [B, C] float32.
    """
    batch, channels = sums.shape
    if groups < 1 or channels % groups:
        raise ValueError(f"normalisation: {channels} channels are not {groups} groups of one width")
    check_vector("normalisation", "weight", weight, [(channels,)])
    check_vector("normalisation", "bias", bias, [(channels,)])
    members = count * (channels // groups)
    mean = sums.reshape(batch, groups, -1).sum(2, keepdim=True) / members
    variance = (squares.reshape(batch, groups, -1).sum(2, keepdim=True) / members - mean * mean).clamp_min(0)
    inverse = torch.rsqrt(variance + eps).expand(batch, groups, channels // groups).reshape(batch, channels)
    scale = inverse if weight is None else inverse * weight.double()
    shift = -mean.expand(batch, groups, channels // groups).reshape(batch, channels) * scale
    return scale.float(), (shift if bias is None else shift + bias.double()).float()


def slab_count(count: int, programs: int, block: int) -> int:
    """Into how many slabs ``count`` voxels go, where each is added up by ``programs`` programs."""
    wanted = max(_PARTS // max(programs, 1), ceiling(count, _LONGEST), 1)
    slab = ceiling(ceiling(count, wanted), block) * block
    return ceiling(count, slab)


def room(x: Tensor, channels: int, options: Configuration | None = None) -> tuple[Tensor, Tensor]:
    """Tensors for ``partial_sums`` of ``channels`` channels in all, over the voxels of ``x``."""
    options = configuration(TUNABLE, x) if options is None else options
    batch = x.shape[0]
    programs = batch * ceiling(channels, channel_block(channels, options["BLOCK_C"]))
    slabs = slab_count(voxels(x), programs, options["BLOCK_V"])
    partial = torch.empty(batch, 2, slabs, channels, dtype=torch.float32, device=x.device)
    return partial, torch.empty(batch, channels, dtype=torch.float32, device=x.device)


def partial_sums(
    x: Tensor,
    into: tuple[Tensor, Tensor] | None = None,
    first: int = 0,
    options: Configuration | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums by slab of a channels-last tensor's values less their channel's first one.

    Args:
        x: [B, C, X, Y, Z], channels last, on a device that runs Triton.
        into: What ``room`` gave, for the channels of several tensors.
        first: The channel there that is this tensor's first.
        options: A configuration in place of the table's.

    Returns:
        Sums and sums of squares, [B, 2, slabs, channels], and the first values, [B, channels], all float32.
    """
    options = configuration(TUNABLE, x) if options is None else options
    batch, channels = x.shape[:2]
    block_v, block_c = options["BLOCK_V"], channel_block(channels, options["BLOCK_C"])
    partial, pivots = room(x, channels, options) if into is None else into
    slabs, count = partial.shape[2], voxels(x)
    slab = ceiling(ceiling(count, slabs), block_v) * block_v
    launch(
        _sum_slabs,
        (slabs * ceiling(channels, block_c), batch),
        x,
        *(x, partial, pivots, count, slab, slabs, pivots.shape[1], first),
        CHANNELS=channels,
        BLOCK_V=block_v,
        BLOCK_C=block_c,
        num_warps=options["num_warps"],
    )
    return partial, pivots


@jit
def _sum_slabs(
    x: tl.tensor,
    partial: tl.tensor,
    pivots: tl.tensor,
    count: tl.tensor,
    slab: tl.tensor,
    slabs: tl.tensor,
    all_channels: tl.tensor,
    first: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    part = tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    batch = tl.program_id(1).to(tl.int64)
    real = c < CHANNELS
    rows = tl.arange(0, BLOCK_V)
    start = part.to(tl.int64) * slab
    pivot = tl.load(x + batch * count * CHANNELS + c, mask=real, other=0).to(tl.float32)
    tile = x + (batch * count + start) * CHANNELS + rows[:, None] * CHANNELS + c[None, :]
    left = tl.minimum(count - start, slab)
    total = tl.zeros([BLOCK_V, BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_V, BLOCK_C], tl.float32)
    for done in range(0, left, BLOCK_V):
        inside = (rows < left - done)[:, None] & real[None, :]
        value = tl.load(tile, mask=inside, other=0).to(tl.float32) - pivot[None, :]
        value = tl.where(inside, value, 0)
        total += value
        square += value * value
        tile += BLOCK_V * CHANNELS
    sums = partial + (batch * 2 * slabs + part) * all_channels + first + c
    squares = partial + ((batch * 2 + 1) * slabs + part) * all_channels + first + c
    tl.store(sums, tl.sum(total, axis=0), mask=real)
    tl.store(squares, tl.sum(square, axis=0), mask=real)
    if part == 0:
        tl.store(pivots + batch * all_channels + first + c, pivot, mask=real)


@jit
def slab_total(
    partial: tl.tensor,
    row: tl.tensor,
    slabs: tl.tensor,
    channels: tl.tensor,
    c: tl.tensor,
    real: tl.tensor,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    """The sum of rows, one of each slab, in float64: of channels ``c``, from row ``row`` (64 bits) on."""
    rows = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float64)
    for done in range(0, slabs, BLOCK_P):
        inside = (rows < slabs - done)[:, None] & real[None, :]
        at = (row + done + rows)[:, None] * channels + c[None, :]
        total += tl.load(partial + at, mask=inside, other=0).to(tl.float64)
    return tl.sum(total, axis=0)


@jit
def _add_up(
    partial: tl.tensor,
    pivots: tl.tensor,
    sums: tl.tensor,
    squares: tl.tensor,
    count: tl.tensor,
    slabs: tl.tensor,
    channels: tl.tensor,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    batch = tl.program_id(1).to(tl.int64)
    real = c < channels
    total = slab_total(partial, batch * 2 * slabs, slabs, channels, c, real, BLOCK_P, BLOCK_C)
    square = slab_total(partial, (batch * 2 + 1) * slabs, slabs, channels, c, real, BLOCK_P, BLOCK_C)
    at = batch * channels + c
    pivot = tl.load(pivots + at, mask=real, other=0).to(tl.float64)
    tl.store(sums + at, total + pivot * count, mask=real)
    tl.store(squares + at, square + (2 * total + pivot * count) * pivot, mask=real)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Callable[[Configuration], object]:
    x = torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    return lambda options: partial_sums(x, options=options)


TUNABLE = Tunable(
    "channel_sums",
    {"BLOCK_V": 64, "BLOCK_C": 64, "num_warps": 8},
    [
        {"BLOCK_V": block_v, "BLOCK_C": block_c, "num_warps": warps}
        for block_v in (32, 64, 128)
        for block_c in (32, 64, 128)
        for warps in (4, 8)
    ],
    _example,
)
