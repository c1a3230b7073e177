"""A convolution with OpenVINO's attributes, by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PlanError

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def whole_numbers(text: str) -> list[int]:
    """The numbers of an attribute."""
    return [int(value) for value in text.split(",") if value.strip()]


def refuse(what: str) -> PlanError:
    """The error for what this backend cannot do."""
    return PlanError(f"backend 'torch' does not know {what}. Use backend 'openvino'")


def convolve(attributes: Mapping[str, str], x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """A new tensor of the kernel's type; the bias is [C].

    On a GPU a pointwise convolution in 16 bits is a product of matrices, which adds its bias as it writes.
    """
    if attributes.get("auto_pad", "explicit") not in ("explicit", "notset"):
        raise refuse(f"a convolution with auto_pad '{attributes['auto_pad']}'")
    before, after = whole_numbers(attributes["pads_begin"]), whole_numbers(attributes["pads_end"])
    x, padding = _padded(x.to(kernel.dtype), before, after)
    strides, dilations = whole_numbers(attributes["strides"]), whole_numbers(attributes["dilations"])
    added = None if bias is None else bias.to(kernel.dtype)
    if x.is_cuda and kernel.dtype != torch.float32 and _is_pointwise(kernel, padding, strides):
        return products([x], kernel, added)
    return _CONVOLUTIONS[x.ndim](x, kernel, added, strides, padding, dilations)


def products(parts: Sequence[Tensor], kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A pointwise convolution of tensors side by side along their channels: the products of each, added up in place.

    Args:
        parts: Each [B, C of its own, X, Y, Z]; those that are channels last are read as they are.
        kernel: [C out, all C, 1, 1, 1] of their type.
        bias: [C out] of their type, or None.

    Returns:
        [B, C out, X, Y, Z], channels last.
    """
    made, first, weights = None, 0, kernel.flatten(1).t()
    for part in parts:
        rows = part.permute(0, 2, 3, 4, 1).reshape(-1, part.shape[1])
        own = weights[first : first + part.shape[1]]
        if made is not None:
            made.addmm_(rows, own)
        else:
            made = rows @ own if bias is None else torch.addmm(bias, rows, own)
        first += part.shape[1]
    assert made is not None
    return made.reshape(parts[0].shape[0], *parts[0].shape[2:], -1).permute(0, 4, 1, 2, 3)


def _is_pointwise(kernel: Tensor, padding: Sequence[int], strides: Sequence[int]) -> bool:
    return tuple(kernel.shape[2:]) == (1, 1, 1) and not any(padding) and set(strides) == {1}


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The tensor and the padding that is left to a convolution, which pads both ends alike."""
    if list(before) == list(after):
        return x, list(before)
    ends = [count for pair in zip(reversed(before), reversed(after), strict=True) for count in pair]
    return F.pad(x, ends), [0] * len(before)
