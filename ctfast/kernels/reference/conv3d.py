"""The convolution with all that comes before and behind it, in plain torch, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    second: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As ctfast.kernels.conv3d.conv3d."""
    given = x.float() if second is None else torch.cat([x.float(), second.float()], 1)
    if scale is not None and shift is not None:
        given = given * scale.float()[:, :, None, None, None] + shift.float()[:, :, None, None, None]
    if silu:
        given = F.silu(given)
    added = None if bias is None else bias.float()
    result = F.conv3d(given, weight.float(), added, stride, weight.shape[-1] // 2)
    if embedding is not None:
        result = result + embedding.float()[:, :, None, None, None]
    if residual is not None:
        result = result + residual.float()
    if out is not None:
        return out.copy_(result)
    return result.to(x.dtype, memory_format=torch.channels_last_3d)


def conv3d_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    second: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ctfast.kernels.conv3d.conv3d_sums."""
    result = conv3d(x, weight, bias, stride, second, scale, shift, silu, embedding, residual, out)
    values = result.double()
    return result, values.sum((2, 3, 4)), values.square().sum((2, 3, 4))
