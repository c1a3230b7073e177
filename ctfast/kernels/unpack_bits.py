"""A label map to the first convolution of a ControlNet's condition: its bits are channels, and are never written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .dispatch import available, jit, launch, tl
from .reference import unpack_bits as twin
from .tiles import FEATURES, ceiling, channel_block, check_vector
from .tuning import Configuration, Tunable, configuration

#: Types of label maps. Triton has no uint16 of torch's; its bits are those of int16.
LABELS = (torch.uint8, torch.uint16, torch.int16, torch.int32)


def unpack_bits(
    labels: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    silu: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``conv3d(bits, kernel, bias, padding=1)``, then SiLU if wanted; channel k of ``bits`` is bit k of each label.

    The label map is read and the features are written, once; as bit planes of 16 or 32 bits a volume would be 16 or
    32 times as large as with labels of one byte, written once and read once.

    Args:
        labels: [B, X, Y, Z], uint8, uint16, int16 or int32.
        kernel: [C, bits, 3, 3, 3] of floats, at most 16 bits; bits of labels beyond these have no effect.
        bias: [C] of floats.
        silu: Whether SiLU (Elfwing et al., 2018) follows.
        dtype: The result's type; by default the kernel's.

    Returns:
        [B, C, X, Y, Z], channels last; sums are in float32.
    """
    dtype = kernel.dtype if dtype is None else dtype
    if labels.ndim != 4 or labels.dtype not in LABELS:
        raise ValueError(
            f"unpack_bits: labels are to be [B, X, Y, Z] of uint8, uint16, int16 or int32, not {list(labels.shape)} of "
            f"{labels.dtype}"
        )
    if kernel.ndim != 5 or tuple(kernel.shape[2:]) != (3, 3, 3) or not 1 <= kernel.shape[1] <= 16:
        raise ValueError(f"unpack_bits: kernel is to be [C, 1 to 16 bits, 3, 3, 3], not {list(kernel.shape)}")
    if dtype not in FEATURES:
        raise ValueError(f"unpack_bits: dtype is to be float32, float16 or bfloat16, not {dtype}")
    check_vector("unpack_bits", "bias", bias, [(kernel.shape[0],)])
    if not available(labels):
        return twin.unpack_bits(labels, kernel, bias, silu, dtype)
    return _run(labels, kernel, bias, silu, dtype, configuration(TUNABLE, labels))


def _run(
    labels: Tensor, kernel: Tensor, bias: Tensor | None, silu: bool, dtype: torch.dtype, options: Configuration
) -> Tensor:
    labels = labels.contiguous()
    batch, *size = labels.shape
    channels, bits = kernel.shape[:2]
    out = torch.empty(batch, channels, *size, dtype=dtype, device=labels.device, memory_format=torch.channels_last_3d)
    block_v, block_c = options["BLOCK_V"], channel_block(channels)
    taps = kernel.float().permute(2, 3, 4, 1, 0).contiguous()  # [27, bits, C]
    launch(
        _unpack,
        (ceiling(size[0] * size[1] * size[2], block_v) * ceiling(channels, block_c), batch),
        labels,
        labels.view(torch.int16) if labels.dtype == torch.uint16 else labels,
        taps,
        taps if bias is None else bias.float().contiguous(),
        out,
        *size,
        CHANNELS=channels,
        BITS=bits,
        BIASED=bias is not None,
        SILU=silu,
        BLOCK_V=block_v,
        BLOCK_C=block_c,
        num_warps=options["num_warps"],
    )
    return out


@jit
def _unpack(
    labels: tl.tensor,
    taps: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    size_x: tl.tensor,
    size_y: tl.tensor,
    size_z: tl.tensor,
    CHANNELS: tl.constexpr,
    BITS: tl.constexpr,
    BIASED: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    voxel = (tl.program_id(0) // blocks) * BLOCK_V + tl.arange(0, BLOCK_V)
    batch = tl.program_id(1).to(tl.int64)
    real = c < CHANNELS
    z, y, x = voxel % size_z, voxel // size_z % size_y, voxel // size_z // size_y
    value = tl.zeros([BLOCK_V, BLOCK_C], tl.float32)
    if BIASED:
        value += tl.load(bias + c, mask=real, other=0)[None, :]
    for tap in range(27):
        from_x, from_y, from_z = x + tap // 9 - 1, y + tap // 3 % 3 - 1, z + tap % 3 - 1
        there = (
            (from_x >= 0) & (from_x < size_x) & (from_y >= 0) & (from_y < size_y) & (from_z >= 0) & (from_z < size_z)
        )
        at = ((batch * size_x + from_x) * size_y + from_y) * size_z + from_z
        label = tl.load(labels + at, mask=there, other=0).to(tl.int32)
        for bit in tl.static_range(BITS):
            weight = tl.load(taps + (tap * BITS + bit) * CHANNELS + c, mask=real, other=0)
            value += ((label >> bit) & 1).to(tl.float32)[:, None] * weight[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    at = batch * size_x * size_y * size_z + voxel
    inside = (x < size_x)[:, None] & real[None, :]
    tl.store(out + at[:, None] * CHANNELS + c[None, :], value.to(out.dtype.element_ty), mask=inside)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Callable[[Configuration], object]:
    labels = torch.randint(0, 256, tuple(shape), dtype=torch.uint8, device=device)
    kernel, bias = torch.randn(8, 8, 3, 3, 3, device=device), torch.randn(8, device=device)
    return lambda options: _run(labels, kernel, bias, True, dtype, options)


TUNABLE = Tunable(
    "unpack_bits",
    {"BLOCK_V": 128, "num_warps": 4},
    [{"BLOCK_V": block_v, "num_warps": warps} for block_v in (64, 128, 256, 512) for warps in (4, 8)],
    _example,
)
