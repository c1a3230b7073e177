"""What torch_fusion.py puts in the place of several operations, by ctfast.kernels: Triton on a GPU, torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.affine_silu import affine_silu
from ..kernels.conv3d import conv3d, faster
from ..kernels.dispatch import available
from ..kernels.epilogue import epilogue
from ..kernels.group_norm_silu import group_norm_silu
from ..kernels.phase_upsample import merge_weights, phase_upsample
from ..kernels.tiles import FEATURES
from ..kernels.unpack_bits import unpack_bits
from .torch_convolution import convolve, products, whole_numbers

Attributes = Mapping[str, str]


def _named(attributes: Attributes, tensors: Sequence[Tensor], usual: str = "") -> dict[str, Tensor]:
    return dict(zip(attributes.get("parts", usual).split(","), tensors, strict=True))


def _true(attributes: Attributes, key: str) -> bool:
    return attributes.get(key) == "true"


def _vector(tensor: Tensor | None) -> Tensor | None:
    """[C] of what has one value per channel."""
    return None if tensor is None else tensor.reshape(-1)


def group_norm(attributes: Attributes, *tensors: Tensor) -> Tensor:
    """A group norm of any number of axes, with what was found around it if it has five."""
    given = _named(attributes, tensors, "x,scale,bias")
    x, scale, bias = given["x"], given["scale"].reshape(-1), given["bias"].reshape(-1)
    groups, eps = int(attributes["num_groups"]), float(attributes["epsilon"])
    silu, second = _true(attributes, "silu"), given.get("second")
    if x.ndim != 5 or x.dtype not in FEATURES:
        y = F.group_norm(x, groups, scale.to(x.dtype), bias.to(x.dtype), eps)
        return F.silu(y, inplace=True) if silu else y
    vectors = []
    if "shift" in given:
        vectors.append(given["shift"].flatten(1))
    if "convolution_bias" in given:
        vectors.append(given["convolution_bias"].reshape(1, -1))
    shift = sum(vectors[1:], vectors[0]) if vectors else None
    second = None if second is None else second.to(x.dtype)
    return group_norm_silu(x, groups, scale, bias, eps, silu, shift, second)


def convolution(attributes: Attributes, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution with its bias; of a label map, [B, X, Y, Z] of whole numbers, that of its bits."""
    if _is_label_map(x):
        return unpack_bits(x, kernel, _vector(bias))
    made = _in_one(attributes, x, kernel, _vector(bias))
    return convolve(attributes, x, kernel, _vector(bias)) if made is None else made


def convolution_epilogue(attributes: Attributes, *tensors: Tensor) -> Tensor:
    """A convolution with what follows it: bias, an embedding or a tensor like its result, SiLU."""
    given = _named(attributes, tensors)
    x, kernel, bias, added = given["x"], given["kernel"], _vector(given.get("bias")), given.get("added")
    silu = _true(attributes, "silu")
    at_once = None if silu or _is_label_map(x) else _in_one(attributes, x, kernel, bias, added)
    if at_once is not None:
        return at_once
    if _is_label_map(x):
        made = unpack_bits(x, kernel, bias, silu and added is None)
        bias, silu = None, silu and added is not None
    elif available(x) and kernel.ndim == 5:
        made = convolve(attributes, x, kernel)
    else:
        made, bias = convolve(attributes, x, kernel, bias), None
    if made.ndim != 5 or (added is not None and added.shape[1:] not in (made.shape[1:], (made.shape[1], 1, 1, 1))):
        made = made if bias is None else made + bias.to(made.dtype).reshape(-1, *[1] * (made.ndim - 2))
        made = made if added is None else made + added
        return F.silu(made) if silu else made
    if bias is None and added is None and not silu:
        return made
    if added is None or added.shape != made.shape:
        return epilogue(made, bias, None if added is None else added.flatten(1), silu=silu, out=made)
    if added.dtype != made.dtype and not available(made):
        return made + added  # as it is without fusion: in the wider type
    return epilogue(made, bias, residual=added, silu=silu, out=made)


def _in_one(
    attributes: Attributes,
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    added: Tensor | None = None,
    second: Tensor | None = None,
) -> Tensor | None:
    """A convolution with all that is added in one kernel, where a table says that this is faster here, or None."""
    if not (available(x) and kernel.ndim == 5 and kernel.shape[-1] in (1, 3)):
        return None
    edge, strides = kernel.shape[-1], set(whole_numbers(attributes["strides"]))
    padding = {*whole_numbers(attributes["pads_begin"]), *whole_numbers(attributes["pads_end"])}
    kept = padding == {edge // 2} and set(whole_numbers(attributes["dilations"])) == {1}
    if set(kernel.shape[2:]) != {edge} or not kept or strides not in ({1}, {2}):
        return None
    (stride,), x = strides, x.to(kernel.dtype)
    if not faster(x, kernel, stride, second):
        return None
    embedding, residual = None, None
    if added is not None:
        shape = (x.shape[0], kernel.shape[0])
        if tuple(added.shape) == (*shape, 1, 1, 1):
            embedding = added.flatten(1)
        elif tuple(added.shape) == (*shape, *(-(-extent // stride) for extent in x.shape[2:])):
            residual = added
        else:
            return None
    return conv3d(x, kernel, bias, stride, second, embedding=embedding, residual=residual)


def pair_convolution(attributes: Attributes, *tensors: Tensor) -> Tensor:
    """A pointwise convolution of two tensors side by side."""
    given = _named(attributes, tensors)
    kernel, bias = given["kernel"], _vector(given.get("bias"))
    parts = [given[name].to(kernel.dtype) for name in ("x", "second")]
    made = _in_one(attributes, parts[0], kernel, bias, second=parts[1])
    if made is not None:
        return made
    return products(parts, kernel, None if bias is None else bias.to(kernel.dtype))


def phase_upsample_operation(attributes: Attributes, *tensors: Tensor) -> Tensor:
    """Twice the grid and a convolution, with merged weights."""
    given = _named(attributes, tensors)
    merged = given["kernel"]
    return phase_upsample(given["x"].to(merged.dtype), merged, _vector(given.get("bias")))


def merged_weights(_: Attributes, kernel: Tensor) -> Tensor:
    """The kernels of a doubled grid's phases."""
    return merge_weights(kernel)


def affine(attributes: Attributes, *tensors: Tensor) -> Tensor:
    """A stage's scale, shift, SiLU and mask; x is [1, x, y, z, C]."""
    given = _named(attributes, tensors)
    scale, shift = (given[name].reshape(1, -1) for name in ("scale", "shift"))
    mask = given.get("mask")
    features = given["x"].permute(0, 4, 1, 2, 3)
    y = affine_silu(features, scale, shift, _true(attributes, "silu"), None if mask is None else mask.reshape(-1))
    return y.permute(0, 2, 3, 4, 1)


def joined_weights(attributes: Attributes, *tensors: Tensor) -> Tensor:
    """Weights of several products, or their biases, behind one another."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors] if _true(attributes, "flat") else list(tensors))


class _Product:
    """A product with [outputs, inputs] weights, and their bias; weights follow the features' type, once for each."""

    def __init__(self) -> None:
        self._made: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def product(self, attributes: Attributes, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """[..., outputs] of [..., inputs], or of [..., inputs, rows] where the attributes say so."""
        if x.dtype not in self._made:
            self._made[x.dtype] = kernel.to(x.dtype), bias.reshape(-1).to(x.dtype)
        return F.linear(x.transpose(-1, -2) if _true(attributes, "transpose_a") else x, *self._made[x.dtype])


class Linear(_Product):
    """One product."""

    def __call__(self, attributes: Attributes, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """See ``product``."""
        return self.product(attributes, x, kernel, bias)


class Projections(_Product):
    """Several products of one tensor."""

    def __call__(self, attributes: Attributes, x: Tensor, kernel: Tensor, bias: Tensor) -> Sequence[Tensor]:
        """Views of one tensor, one for each product."""
        made: Sequence[Tensor] = self.product(attributes, x, kernel, bias).split(
            whole_numbers(attributes["widths"]), -1
        )
        return made


def _is_label_map(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_floating_point()


FUSED: Mapping[str, Callable[..., Tensor | Sequence[Tensor]]] = {
    "AffineSilu": affine,
    "Convolution": convolution,
    "ConvolutionEpilogue": convolution_epilogue,
    "GroupNormalization": group_norm,
    "JoinedWeights": joined_weights,
    "MergedWeights": merged_weights,
    "PairConvolution": pair_convolution,
    "PhaseUpsample": phase_upsample_operation,
}

#: What keeps something of its own: a new one for each layer.
MAKERS: Mapping[str, Callable[[], Callable[..., Tensor | Sequence[Tensor]]]] = {
    "Linear": Linear,
    "Projections": Projections,
}
