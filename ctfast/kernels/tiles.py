"""How kernels cut a channels-last tensor into tiles of voxels and channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: What a tensor of features may be.
FEATURES = (torch.float32, torch.float16, torch.bfloat16)

_WHOLE_LINE = 32  # channels that fill the sectors of a memory access in every type


def power_of_two(count: int) -> int:
    """The least power of two that is not below ``count``."""
    return 1 << max(count - 1, 0).bit_length()


def channel_block(channels: int, most: int = 128) -> int:
    """The channels of a tile, a power of two: one that divides the channels if it is no less than 32."""
    divisor = channels & -channels
    return min(divisor if divisor >= _WHOLE_LINE else power_of_two(channels), most)


def ceiling(count: int, by: int) -> int:
    """``count / by``, rounded up."""
    return -(-count // by)


def voxels(x: Tensor) -> int:
    """The voxels of one sample of [B, C, X, Y, Z]."""
    return x.shape[2] * x.shape[3] * x.shape[4]


def check_features(operation: str, x: Tensor, like: Tensor | None = None, name: str = "x") -> None:
    """Refuse what is not [B, C, X, Y, Z] of floats, or differs in shape, type or device from ``like``.

    Raises:
        ValueError: What was expected, and what was found.
    """
    if x.ndim != 5 or x.dtype not in FEATURES:
        raise ValueError(f"{operation}: {name} is to be [B, C, X, Y, Z] of floats, not {list(x.shape)} of {x.dtype}")
    if like is not None and (x.shape != like.shape or x.dtype != like.dtype or x.device != like.device):
        raise ValueError(
            f"{operation}: {name} is to be {list(like.shape)} of {like.dtype} on {like.device}, "
            f"not {list(x.shape)} of {x.dtype} on {x.device}"
        )


def check_vector(operation: str, name: str, value: Tensor | None, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a tensor whose shape is none of ``shapes``; None is no tensor.

    Raises:
        ValueError: What was expected, and what was found.
    """
    if value is not None and tuple(value.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{operation}: {name} is to be {wanted}, not {list(value.shape)}")
