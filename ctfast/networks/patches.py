"""Blocks of voxels as channels, and back."""

from __future__ import annotations

from torch import Tensor


def fold(x: Tensor, patch: int) -> Tensor:
    """(b, c, x, y, z) to (b, c * patch^3, x / patch, y / patch, z / patch)."""
    if patch == 1:
        return x
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d // patch, patch, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * patch**3, d // patch, h // patch, w // patch)


def unfold(x: Tensor, patch: int) -> Tensor:
    """Inverse of :func:`fold`."""
    if patch == 1:
        return x
    b, c, d, h, w = x.shape
    x = x.reshape(b, c // patch**3, patch, patch, patch, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // patch**3, d * patch, h * patch, w * patch)
