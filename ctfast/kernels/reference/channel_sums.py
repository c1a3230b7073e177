"""Sums per channel in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def channel_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares over voxels, [B, C] float64, of [B, C, X, Y, Z]; a copy in float64 is made of a row."""
    shape = x.shape[:2]
    sums = torch.zeros(shape, dtype=torch.float64, device=x.device)
    squares = torch.zeros(shape, dtype=torch.float64, device=x.device)
    for row in x.unbind(2):
        exact = row.double()
        sums += exact.sum((2, 3))
        squares += exact.square().sum((2, 3))
    return sums, squares
