"""Attention in plain torch: every score in memory, float32."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    second: tuple[Tensor, Tensor] | None = None,
    gate: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As ctfast.kernels.attention.attention."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    keys, values = k.float(), v.float()
    if second is not None:
        keys, values = torch.cat([keys, second[0].float()], 1), torch.cat([values, second[1].float()], 1)
    scores = torch.einsum("bqhw,bkhw->bhqk", q.float(), keys) * factor
    attended = torch.einsum("bhqk,bkhw->bqhw", scores.softmax(-1), values)
    if gate is not None:
        attended = attended * torch.sigmoid(gate.float())
    return attended.to(q.dtype) if out is None else out.copy_(attended)
