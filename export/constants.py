"""The constants that the graphs of a network share: its ``model.bin``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op

from ctfast.errors import CtfastError
from ctfast.manifest import TensorEntry


class Constants:
    """A network's state dict as constants of a graph, in float32 whatever they are stored in.

    Their bytes are those in ``weights``, so that a graph can be saved without storing them again. The networks' axes
    are (x, y, z) and those of stages (z, y, x): kernels are turned in the graph, which costs nothing once compiled.
    """

    def __init__(self, weights: Path, table: Mapping[str, TensorEntry]) -> None:
        """``table`` tells where the tensors are in the file ``weights``."""
        self._weights = weights
        self._table = table

    def shape(self, key: str) -> tuple[int, ...]:
        """A tensor's shape; CtfastError if there is none of this name."""
        return self._entry(key).shape

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors."""
        return {key: entry.shape for key, entry in self._table.items()}

    def count(self, key: str) -> int:
        """Elements of a tensor: for a kernel, multiply-adds per voxel of what its convolution writes."""
        return math.prod(self.shape(key))

    def kernel(self, key: str, *, folded_in: int = 1, folded_out: int = 1) -> ov.Node:
        """The kernel of a convolution, [channels out, channels in, z, y, x].

        ``folded_in`` and ``folded_out`` are the edges of the blocks of voxels that were folded into channels as
        ctfast.networks.patches does, axes (x, y, z); they come out as ctfast.export.stage_graph.fold has them.
        """
        out, into, *size = self.shape(key)
        split = (*_blocks(out, folded_out), *_blocks(into, folded_in), *size)
        turned = [len(split) - 1 - axis for axis in range(3)]
        order: list[int] = []
        for patch in (folded_out, folded_in):
            start = len(order)
            order += [start] if patch == 1 else [start, start + 3, start + 2, start + 1]
        node = op.transpose(self._constant(key, split), _whole(*order, *turned))
        if len(split) > 5:
            node = op.reshape(node, _whole(out, into, *size[::-1]), special_zero=False)
        return node

    def bias(self, key: str, *, folded_out: int = 1) -> ov.Node:
        """The bias of a convolution, [1, channels, 1, 1, 1]; ``folded_out`` as for ``kernel``."""
        (channels,) = self.shape(key)
        if folded_out == 1:
            return self._constant(key, (1, channels, 1, 1, 1))
        node = op.transpose(self._constant(key, _blocks(channels, folded_out)), _whole(0, 3, 2, 1))
        return op.reshape(node, _whole(1, channels, 1, 1, 1), special_zero=False)

    def vector(self, key: str) -> ov.Node:
        """A value per channel for a channels-last tensor, [1, 1, 1, 1, channels]."""
        return self._constant(key, (1, 1, 1, 1, self.count(key)))

    def _entry(self, key: str) -> TensorEntry:
        if key not in self._table:
            raise CtfastError(f"the network has no tensor '{key}'; it has: {', '.join(self._table)}")
        return self._table[key]

    def _constant(self, key: str, shape: tuple[int, ...]) -> ov.Node:
        entry = self._entry(key)
        if entry.transposed:
            raise CtfastError(f"the tensor '{key}' is stored as its transpose; a stage cannot use it")
        values = np.fromfile(self._weights, entry.dtype, math.prod(shape), offset=entry.offset).reshape(shape)
        node = op.constant(values)
        return node if entry.dtype == "float32" else op.convert(node, "f32")


def _blocks(channels: int, patch: int) -> tuple[int, ...]:
    return (channels,) if patch == 1 else (channels // patch**3, patch, patch, patch)


def _whole(*values: int) -> ov.Node:
    return op.constant(np.array(values, np.int64))
