"""The convolution of a label map's bits in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unpack_bits(
    labels: Tensor, kernel: Tensor, bias: Tensor | None = None, silu: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """See ``ctfast.kernels.unpack_bits``; bit planes are written."""
    values = labels.to(torch.int32)
    planes = torch.stack([(values >> bit) & 1 for bit in range(kernel.shape[1])], 1).float()
    y = F.conv3d(planes, kernel.float(), None if bias is None else bias.float(), padding=1)
    y = (F.silu(y, inplace=True) if silu else y).to(kernel.dtype if dtype is None else dtype)
    return y.contiguous(memory_format=torch.channels_last_3d)
