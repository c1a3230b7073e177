"""A network of random weights, for when there is no other: features that tell sets apart, and nothing more."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 20240601
_CHANNELS = {2: (1, 32, 64, 96), 3: (1, 16, 32, 48)}
_KERNELS = {2: (7, 3, 3), 3: (5, 3, 3)}


class RandomFeatures(nn.Module):
    """Three convolutions of stride 2 with fixed weights; the features are the means of the last two layers' maps.

    The weights come from the bits of PCG64, which NumPy keeps as they are, so that every machine has the same.
    """

    def __init__(self, dimensions: int) -> None:
        """``dimensions``: 2 for slices (n, 1, h, w), 3 for volumes (n, 1, x, y, z)."""
        super().__init__()
        self._convolve = functional.conv2d if dimensions == 2 else functional.conv3d
        bits = np.random.PCG64(SEED + dimensions)
        channels = _CHANNELS[dimensions]
        for layer, (inputs, outputs) in enumerate(pairwise(channels)):
            shape = (outputs, inputs, *(_KERNELS[dimensions][layer],) * dimensions)
            self.register_buffer(f"weight{layer}", _uniform(bits, shape))
        self.width = sum(channels[-2:])

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, width) of images in any range."""
        maps, means = images, []
        for layer in range(3):
            weight: Tensor = getattr(self, f"weight{layer}")
            maps = functional.relu(self._convolve(maps, weight, stride=2, padding=weight.shape[-1] // 2))
            means.append(maps.flatten(2).mean(2))
        return torch.cat(means[1:], 1)


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...]) -> Tensor:
    """Weights between ± sqrt(6 / fan-in), which keeps the variance from layer to layer behind ReLU."""
    raw = np.asarray(bits.random_raw(math.prod(shape)), np.uint64)
    values = (raw >> np.uint64(11)).astype(np.float64) / 2**53
    limit = math.sqrt(6 / math.prod(shape[1:]))
    return torch.from_numpy(((2 * values - 1) * limit).reshape(shape).astype(np.float32))
