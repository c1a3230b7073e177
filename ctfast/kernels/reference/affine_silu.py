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
    """See ``ctfast.kernels.affine_silu``."""

    def spread(vector: Tensor) -> Tensor:
        return vector.float().reshape(*vector.shape, 1, 1, 1)

    y = torch.addcmul(spread(shift), x.float(), spread(scale))
    if silu:
        y = F.silu(y, inplace=True)
    if mask is not None:
        y *= mask.float().reshape(-1, 1, 1)
    return y.to(x.dtype) if out is None else out.copy_(y)
