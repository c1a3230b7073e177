"""Pieces of a stage's graph, as functions on OpenVINO nodes.

Tensors are channels last, [1, z, y, x, channels], but for what a convolution takes and gives, which is channels first,
[1, channels, z, y, x]. Element-wise work belongs in front of ``channels_first``: OpenVINO then runs the convolution on
the memory as it is and drops both transpositions, which behind them it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as op

_SPATIAL = np.array([2, 3, 4], np.int64)


def channels_first(x: ov.Node) -> ov.Node:
    """[1, z, y, x, channels] to [1, channels, z, y, x]."""
    return op.transpose(x, op.constant(np.array([0, 4, 1, 2, 3], np.int64)))


def channels_last(x: ov.Node) -> ov.Node:
    """[1, channels, z, y, x] to [1, z, y, x, channels]."""
    return op.transpose(x, op.constant(np.array([0, 2, 3, 4, 1], np.int64)))


def convolution(
    x: ov.Node,
    kernel: ov.Node,
    bias: ov.Node | None = None,
    *,
    stride: Sequence[int] = (1, 1, 1),
    before: Sequence[int] = (0, 0, 0),
    after: Sequence[int] = (0, 0, 0),
) -> ov.Node:
    """A convolution of a channels-first tensor.

    Args:
        x: [1, channels in, z, y, x].
        kernel: [channels out, channels in, z, y, x].
        bias: [1, channels out, 1, 1, 1].
        stride, before, after: Per axis (z, y, x); before and after are voxels of zero padding. Along z a stage pads
            with the rows of its halo, so that is 0 there.
    """
    out = op.convolution(x, kernel, list(stride), list(before), list(after), [1, 1, 1])
    return out if bias is None else op.add(out, bias)


def same(kernel: ov.Node) -> tuple[int, int, int]:
    """The padding on either side with which a convolution keeps y and x; that of z is the halo."""
    _, _, _, y, x = kernel.get_output_shape(0)
    return 0, y // 2, x // 2


def trilinear(x: ov.Node) -> ov.Node:
    """Twice the grid of a channels-first tensor, by the trilinear interpolation that torch has with align_corners off.

    The first and the last row of the result are those that an end of the volume would have; where the volume goes on,
    drop them with ``trimmed``.
    """
    twice = np.array([2, 2, 2], np.float32)
    return op.interpolate(x, twice, "linear_onnx", "scales", [0], [0], "half_pixel", axes=_SPATIAL)


def repeated(x: ov.Node, factors: Sequence[int]) -> ov.Node:
    """Every voxel of a channels-first tensor repeated along (z, y, x)."""
    scales = np.array(factors, np.float32)
    return op.interpolate(x, scales, "nearest", "scales", [0], [0], "asymmetric", nearest_mode="floor", axes=_SPATIAL)


def trimmed(x: ov.Node, before: int, after: int) -> ov.Node:
    """A channels-first tensor without its first ``before`` and its last ``after`` rows."""
    whole = np.iinfo(np.int64).max
    start, stop, step, axis = (op.constant(np.array([v], np.int64)) for v in (before, -after if after else whole, 1, 2))
    return op.slice(x, start, stop, step, axis)


def fold(x: ov.Node, patch: int) -> ov.Node:
    """Blocks of patch^3 voxels of a channels-first tensor to channels, each channel's block in the order (z, y, x)."""
    return x if patch == 1 else op.space_to_depth(x, "depth_first", patch)


def unfold(x: ov.Node, patch: int) -> ov.Node:
    """Inverse of :func:`fold`."""
    return x if patch == 1 else op.depth_to_space(x, "depth_first", patch)


def channel_norm(x: ov.Node, weight: ov.Node, eps: float) -> ov.Node:
    """A channels-last tensor divided by the root of its channels' mean square, voxel by voxel, times ``weight``."""
    mean_square = op.reduce_mean(op.multiply(x, x), op.constant(np.array([4], np.int64)), keep_dims=True)
    root = op.sqrt(op.add(mean_square, op.constant(np.full((1, 1, 1, 1, 1), eps, np.float32))))
    return op.multiply(op.divide(x, root), weight)


def exact(x: ov.Node) -> ov.Node:
    """The same values, which OpenVINO then writes in float32 when it computes in bf16.

    Put directly behind a convolution, it is fused into that, and what follows stays in float32 too.
    """
    return op.prelu(x, op.constant(np.ones(1, np.float32)))
