"""Patches of volumes to train on: cut, turned, scaled and shifted in one step, brighter or darker, noisier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """How far a patch may be from the volume, each way at random: radians about each axis, factor, voxels, HU.

    Nothing is mirrored, since left and right organs have labels of their own.
    """

    turn: float = 0.15
    scale: float = 0.1
    shift: float = 4.0
    gain: float = 0.05
    offset: float = 20.0
    noise: float = 15.0


NONE = Augmentation(0, 0, 0, 0, 0, 0)


def cut(
    hu: NDArray[np.int16], labels: NDArray[np.uint8], size: Size, seed: int, augmentation: Augmentation
) -> tuple[Tensor, Tensor]:
    """A patch of a volume: HU float32 and labels int64, both (1, x, y, z) of ``size``; a function of ``seed``.

    Half of the patches are about a voxel of a label, each label as often, the others anywhere; along axes where the
    volume is no larger than the patch they are about its middle. Beyond the volume its edge goes on. HU are
    interpolated linearly, labels are the nearest voxel's.
    """
    random = np.random.default_rng(seed)
    theta = _theta(hu.shape, size, _centre(labels, size, augmentation, random), _matrix(augmentation, random))
    with torch.autocast("cpu", enabled=False):  # in which places of voxels would be rounded to bf16
        grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
        image = _sampled(torch.from_numpy(hu.astype(np.float32)), grid, "bilinear")
        wanted = _sampled(torch.from_numpy(labels.astype(np.float32)), grid, "nearest").long()
    gain, offset, deviation = random.uniform(-1, 1, 3)
    image = image * (1 + gain * augmentation.gain) + offset * augmentation.offset
    if augmentation.noise:
        noise = torch.from_numpy(random.standard_normal(size, np.float32))
        image = image + noise * (abs(deviation) * augmentation.noise)
    return image, wanted


def _centre(
    labels: NDArray[np.uint8], size: Size, augmentation: Augmentation, random: np.random.Generator
) -> NDArray[np.float64]:
    """Where the patch's middle is, in voxels of the volume."""
    extents, wanted = np.array(labels.shape), np.array(size)
    room = np.maximum(extents - wanted, 0)
    classes = np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1
    if len(classes) and room.any() and random.random() < 0.5:
        where = np.flatnonzero(labels == classes[random.integers(len(classes))])
        place = np.array(np.unravel_index(where[random.integers(len(where))], labels.shape))
        start = np.clip(place - wanted // 2, 0, room)
    else:
        start = np.floor(random.random(3) * (room + 1))
    centre = np.where(room > 0, start + (wanted - 1) / 2, (extents - 1) / 2)
    moved: NDArray[np.float64] = centre + random.uniform(-1, 1, 3) * augmentation.shift
    return moved


def _matrix(augmentation: Augmentation, random: np.random.Generator) -> NDArray[np.float64]:
    """Turns about the three axes after each other, and scales along them."""
    matrix = np.diag(1 + random.uniform(-1, 1, 3) * augmentation.scale)
    for axis, angle in enumerate(random.uniform(-1, 1, 3) * augmentation.turn):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _theta(extents: tuple[int, ...], size: Size, centre: NDArray[np.float64], matrix: NDArray[np.float64]) -> Tensor:
    """torch's affine map from the patch to the volume, whose coordinates go from -1 to 1 between outer faces, z first.

    A patch's coordinate u is the offset u size / 2 from its middle, in voxels; a voxel v is (2 v + 1) / extent - 1.
    """
    whole = np.array(extents, np.float64)
    turn = 2 / whole[:, None] * matrix * (np.array(size) / 2)[None]
    move = (2 * centre + 1) / whole - 1
    theta = np.concatenate([turn[::-1, ::-1], move[::-1, None]], axis=1)
    return torch.from_numpy(np.ascontiguousarray(theta)).float()


def _sampled(volume: Tensor, grid: Tensor, mode: str) -> Tensor:
    sampled: Tensor = F.grid_sample(volume[None, None], grid, mode, padding_mode="border", align_corners=False)
    return sampled[0]
