"""The two convolutions in plain torch, one behind the other, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise(
    x: Tensor,
    weight: Tensor,
    point: Tensor,
    bias: Tensor | None = None,
    point_bias: Tensor | None = None,
    silu: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As ctfast.kernels.depthwise.depthwise."""
    biases = [None if tensor is None else tensor.float() for tensor in (bias, point_bias)]
    between = F.conv3d(x.float(), weight.float(), biases[0], padding=1, groups=x.shape[1])
    if silu == "between":
        between = F.silu(between)
    result = F.conv3d(between, point.float().reshape(*point.shape[:2], 1, 1, 1), biases[1])
    if silu == "behind":
        result = F.silu(result)
    if out is not None:
        return out.copy_(result)
    return result.to(x.dtype, memory_format=torch.channels_last_3d)
