"""Twice the grid by repeating voxels, then a 3x3x3 convolution: without the repeated voxels.

Along an axis the convolution sees pairs of equal voxels, so two of its three taps fall on the same one: an even voxel
of the result has the taps (w0, w1 + w2) on the voxels (i - 1, i), an odd one (w0 + w1, w2) on (i, i + 1). In three axes
that makes eight convolutions of 2x2x2, one for each parity, of the small grid. Zero padding of the large grid is that
of the small one, so borders are exact too. A result's voxel takes 8 products per channel in place of 27.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import available, channels_last, jit, launch, tl
from .reference import phase_upsample as twin
from .tiles import ceiling, channel_block, check_features, check_vector, power_of_two
from .tuning import TILE, TILES, Configuration, Tunable, configuration

PHASES = 8
_MOST = 2**31 - 1  # elements of a tensor that convolutions take everywhere

#: What each of the 2 taps of an even and of an odd voxel is made of, of the 3.
_MERGED = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def merge_weights(kernel: Tensor) -> Tensor:
    """The kernels of the eight convolutions, added up in float64.

    Args:
        kernel: [C out, C in, 3, 3, 3].

    Returns:
        [8 * C out, C in, 2, 2, 2] float32; kernel ``p * C out + c`` makes channel c of the voxels of phase p, whose
        coordinates are odd where the bits of p (4 for x, 2 for y, 1 for z) are set.
    """
    if kernel.ndim != 5 or tuple(kernel.shape[2:]) != (3, 3, 3):
        raise ValueError(f"merge_weights: kernel is to be [C out, C in, 3, 3, 3], not {list(kernel.shape)}")
    taps = torch.tensor(_MERGED, dtype=torch.float64, device=kernel.device)
    merged = torch.einsum("oiabc,xda,yeb,zfc->xyzoidef", kernel.double(), taps, taps, taps)
    return merged.reshape(PHASES * kernel.shape[0], kernel.shape[1], 2, 2, 2).float()


def phase_upsample(
    x: Tensor,
    merged: Tensor,
    bias: Tensor | None = None,
    embedding: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``conv3d(nearest(x, 2), kernel, padding=1) + bias + embedding`` with ``merge_weights(kernel)``.

    One convolution by torch makes all phases; a kernel puts their voxels in place and adds the vectors as it does, in
    the pass that a bias takes anyway. The repeated voxels, as large as the result, are neither written nor read.

    Args:
        x: [B, C in, X, Y, Z], float32, float16 or bfloat16.
        merged: [8 * C out, C in, 2, 2, 2] of the type of ``x``.
        bias: [C out] of floats.
        embedding: [B, C out] or [1, C out] of floats.
        out: [B, C out, 2 X, 2 Y, 2 Z]; by default a new tensor, in the order of memory that the convolution has.
    """
    check_features("phase_upsample", x)
    if merged.ndim != 5 or merged.shape[0] % PHASES or tuple(merged.shape[1:]) != (x.shape[1], 2, 2, 2):
        wanted = f"[8 * channels, {x.shape[1]}, 2, 2, 2]"
        raise ValueError(f"phase_upsample: merged is to be {wanted}, not {list(merged.shape)}")
    (batch, _, *size), channels = x.shape, merged.shape[0] // PHASES
    check_vector("phase_upsample", "bias", bias, [(channels,)])
    check_vector("phase_upsample", "embedding", embedding, [(batch, channels), (1, channels)])
    shape = (batch, channels, *(2 * extent for extent in size))
    if out is not None:
        check_features("phase_upsample", out, x.new_empty(()).expand(shape), "out")
    all_phases = batch * PHASES * channels * (size[0] + 1) * (size[1] + 1) * (size[2] + 1)
    together = PHASES if all_phases <= _MOST else 1
    for first in range(0, PHASES, together):
        # Padded by one voxel, the convolution has a voxel more than the grid: even voxels take the first ones, odd
        # ones the last.
        made = F.conv3d(x, merged[first * channels : (first + together) * channels], padding=1)
        if out is None:
            last = made.is_contiguous(memory_format=torch.channels_last_3d)
            order = torch.channels_last_3d if last else torch.contiguous_format
            out = torch.empty(shape, dtype=made.dtype, device=made.device, memory_format=order)
        if available(made) and channels_last(made) and channels_last(out):
            interleave(made, first, bias, embedding, out)
        else:
            twin.interleave(made, first, bias, embedding, out)
    assert out is not None
    return out


def interleave(
    made: Tensor,
    first: int,
    bias: Tensor | None,
    embedding: Tensor | None,
    out: Tensor,
    options: Configuration | None = None,
) -> None:
    """Put phases, with the vectors added, to their voxels of ``out``; all eight, or the one that ``first`` names.

    Both tensors are channels last: ``made`` [B, phases * C, X + 1, Y + 1, Z + 1], ``out`` [B, C, 2 X, 2 Y, 2 Z].
    """
    options = configuration(TUNABLE, out) if options is None else options
    batch, channels, *size = out.shape
    whole = made.shape[1] == PHASES * channels
    count = size[0] * size[1] * size[2] // (1 if whole else PHASES)
    block_v, block_c = options["BLOCK_V"], channel_block(channels, options["BLOCK_C"])
    launch(
        _interleave,
        (ceiling(count, block_v) * ceiling(channels, block_c), batch),
        out,
        made,
        out if bias is None else bias.contiguous(),
        out if embedding is None else embedding.contiguous(),
        out,
        *size,
        channels if embedding is not None and embedding.shape[0] > 1 else 0,
        PHASE=-1 if whole else first,
        CHANNELS=channels,
        BIASED=bias is not None,
        EMBEDDED=embedding is not None,
        BLOCK_V=block_v,
        BLOCK_C=block_c,
        num_warps=options["num_warps"],
    )


@jit
def _interleave(
    made: tl.tensor,
    bias: tl.tensor,
    embedding: tl.tensor,
    out: tl.tensor,
    size_x: tl.tensor,
    size_y: tl.tensor,
    size_z: tl.tensor,
    embedding_stride: tl.tensor,
    PHASE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BIASED: tl.constexpr,
    EMBEDDED: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    voxel = (tl.program_id(0) // blocks) * BLOCK_V + tl.arange(0, BLOCK_V)
    batch = tl.program_id(1).to(tl.int64)
    real = c < CHANNELS
    if PHASE < 0:  # voxels of the result
        z, y, x = voxel % size_z, voxel // size_z % size_y, voxel // size_z // size_y
        phase = (x % 2 * 2 + y % 2) * 2 + z % 2
        channels = 8 * CHANNELS
        channel = phase[:, None] * CHANNELS + c[None, :]
    else:  # those of one phase
        half_z, half_y = size_z // 2, size_y // 2
        z = voxel % half_z * 2 + PHASE % 2
        y = voxel // half_z % half_y * 2 + PHASE // 2 % 2
        x = voxel // half_z // half_y * 2 + PHASE // 4
        channels = CHANNELS
        channel = c[None, :]
    inside = (x < size_x)[:, None] & real[None, :]
    vector = tl.zeros([BLOCK_C], tl.float32)
    if BIASED:
        vector += tl.load(bias + c, mask=real, other=0).to(tl.float32)
    if EMBEDDED:
        vector += tl.load(embedding + batch * embedding_stride + c, mask=real, other=0).to(tl.float32)
    # Where an odd voxel 2 i + 1 is in the padded convolution, i + 1, and an even one 2 i, i, is (2 i + odd) + 1 over 2.
    rows, columns = size_z // 2 + 1, size_y // 2 + 1
    source = ((batch * (size_x // 2 + 1) + (x + 1) // 2) * columns + (y + 1) // 2) * rows + (z + 1) // 2
    value = tl.load(made + source[:, None] * channels + channel, mask=inside, other=0).to(tl.float32) + vector[None, :]
    target = ((batch * size_x + x) * size_y + y) * size_z + z
    tl.store(out + target[:, None] * CHANNELS + c[None, :], value.to(out.dtype.element_ty), mask=inside)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Callable[[Configuration], object]:
    batch, channels, *size = (power_of_two(extent) for extent in shape)
    order = torch.channels_last_3d
    out = torch.empty(batch, channels, *size, dtype=dtype, device=device, memory_format=order)
    padded = [extent // 2 + 1 for extent in size]
    made = torch.randn(batch, PHASES * channels, *padded, device=device).to(dtype).contiguous(memory_format=order)
    bias = torch.randn(channels, device=device)
    return lambda options: interleave(made, 0, bias, None, out, options)


TUNABLE = Tunable(
    "phase_upsample",
    TILE,
    TILES,
    _example,
)
