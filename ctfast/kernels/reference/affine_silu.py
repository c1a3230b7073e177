"""A scale, a shift and SiLU in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def affine_silu(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    silu: bool,
    mask: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See ``ctfast.kernels.affine_silu``. In 16 bits plane by plane: no more than one is there in float32."""
    factor, offset = (vector.float().reshape(*vector.shape, 1, 1, 1) for vector in (scale, shift))
    kept = None if mask is None else mask.float().reshape(-1, 1, 1)
    if x.dtype == torch.float32:
        y = _activated(x, factor, offset, silu, kept)
        return y if out is None else out.copy_(y)
    out = torch.empty_like(x) if out is None else out
    for plane in range(x.shape[2]):
        here = slice(plane, plane + 1)
        out[:, :, here] = _activated(x[:, :, here].float(), factor, offset, silu, None if kept is None else kept[here])
    return out


def _activated(x: Tensor, factor: Tensor, offset: Tensor, silu: bool, kept: Tensor | None) -> Tensor:
    y = torch.addcmul(offset, x, factor)
    if silu:
        y = F.silu(y, inplace=True)
    return y if kept is None else y.mul_(kept)
