"""Calls of operations, for ``compile_kernels``: every kernel in the variants that networks use."""

from __future__ import annotations

import torch

from ctfast.kernels.affine_silu import affine_silu
from ctfast.kernels.channel_sums import channel_sums
from ctfast.kernels.group_norm_silu import group_norm_silu


def features(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Zeros, channels last."""
    return torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)


def norms() -> None:
    x, vector = features(2, 64, 4, 4, 4), torch.zeros(2, 96)
    group_norm_silu(x, 32, torch.zeros(64), torch.zeros(64), 1e-5, True)
    group_norm_silu(x, 32, None, None, 1e-5, False, vector, features(2, 32, 4, 4, 4))
    group_norm_silu(features(1, 24, 1, 1, 1, dtype=torch.float32), 4, torch.zeros(24), None, 1e-5, True)
    affine_silu(features(1, 64, 4, 4, 4, dtype=torch.float16), vector[:1, :64], vector[:1, :64], True, torch.zeros(4))
    channel_sums(x)
    channel_sums(features(1, 5, 1, 1, 1))
