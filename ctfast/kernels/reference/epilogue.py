"""Bias, embedding, residual and SiLU in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def epilogue(
    x: Tensor,
    bias: Tensor | None = None,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    silu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """See ``ctfast.kernels.epilogue``. In 16 bits the vectors are rounded first, and a SiLU's argument is."""
    y = x
    into = None if out is residual else out  # which is read last
    vector = None if bias is None else bias.float()[None]
    if embedding is not None:
        vector = embedding.float() if vector is None else vector + embedding.float()
    if vector is not None:
        y = torch.add(y, vector.to(x.dtype).reshape(*vector.shape, 1, 1, 1), out=into)
    if scale != 1.0:
        y = torch.mul(y, scale, out=into)
    if residual is not None:
        y = torch.add(y, residual.to(x.dtype), out=out)
    if silu:
        y = F.silu(y, inplace=y is not x or out is x)
    if out is None:
        return x.clone() if y is x else y
    return out if y is out else out.copy_(y)
