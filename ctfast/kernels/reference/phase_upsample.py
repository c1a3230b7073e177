"""Phases to their voxels in plain torch."""

from __future__ import annotations

from itertools import product

from torch import Tensor

from .epilogue import epilogue


def interleave(made: Tensor, first: int, bias: Tensor | None, embedding: Tensor | None, out: Tensor) -> None:
    """See ``ctfast.kernels.phase_upsample``."""
    channels, size = out.shape[1], [extent // 2 for extent in out.shape[2:]]
    for phase, odd in enumerate(product((0, 1), repeat=3)):
        channel = (phase - first) * channels
        if not 0 <= channel < made.shape[1]:
            continue
        x, y, z = (slice(start, start + extent) for start, extent in zip(odd, size, strict=True))
        values = made[:, channel : channel + channels, x, y, z]
        target = out[:, :, odd[0] :: 2, odd[1] :: 2, odd[2] :: 2]
        target.copy_(values if bias is None and embedding is None else epilogue(values, bias, embedding))
