"""Group norm and SiLU in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    second: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See ``ctfast.kernels.group_norm_silu``. In 16 bits the sum and the norm are rounded, as torch's are."""
    if second is not None:
        x = torch.cat([x, second], 1)
    if shift is not None:
        x = x + shift.reshape(*shift.shape, 1, 1, 1).to(x.dtype)
    y = F.group_norm(x, groups, _typed(weight, x), _typed(bias, x), eps)
    if silu:
        y = F.silu(y, inplace=True)
    return y if out is None else out.copy_(y)


def _typed(vector: Tensor | None, x: Tensor) -> Tensor | None:
    return None if vector is None else vector.to(x.dtype)
