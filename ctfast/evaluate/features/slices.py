"""What feature networks are shown of a volume: stacks of slices per plane and window, or the whole in little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..presets import AIR, PLANES, Preset
from ..volumes import Scan

# Longest side of what a 3-D network is shown: its first layers at 512^3 would take tens of GiB.
LARGEST_SIDE = 128


def prepared(scan: Scan, preset: Preset) -> Tensor:
    """A volume (x, y, z) in HU on the preset's grid: resampled linearly, then padded with air or cut at its centre."""
    from monai.data import MetaTensor
    from monai.transforms import ResizeWithPadOrCrop, Spacing

    volume: Any = MetaTensor(
        torch.from_numpy(scan.hu)[None], affine=torch.diag(torch.tensor([*scan.spacing, 1.0])).double()
    )
    if preset.spacing is not None:
        volume = Spacing(pixdim=preset.spacing, mode="bilinear", padding_mode="border")(volume)
    if preset.size is not None:
        volume = ResizeWithPadOrCrop(preset.size, mode="constant", value=AIR)(volume)
    grid: Tensor = volume.as_tensor()[0]
    return grid


def kept_slices(count: int, share: float) -> tuple[int, int]:
    """First and past-last of the middle ``share`` of ``count`` slices; at least one is kept."""
    first = int((1 - share) / 2 * count)
    after = int((1 + share) / 2 * count)
    return first, max(after, first + 1)


def stacks(volume: Tensor, preset: Preset) -> Iterator[tuple[str, Tensor]]:
    """Per window and plane a name such as "full/xy" and its slices (n, 1, h, w).

    HU are clipped to the window, and each stack is stretched from its own lowest to its highest value onto [0, 1], as
    the papers' tool does; a stack of one value becomes 0.
    """
    for window, (low, high) in preset.windows.items():
        clipped = volume.clamp(low, high)
        # XY slices are stacked along z, YZ along x, ZX along y.
        for plane, axis in zip(PLANES, (2, 0, 1), strict=True):
            first, after = kept_slices(clipped.shape[axis], preset.centre_share)
            stack = clipped.movedim(axis, 0)[first:after]
            least, most = stack.amin(), stack.amax()
            yield f"{window}/{plane}", ((stack - least) / (most - least).clamp_min(1e-6))[:, None]


def stack_names(preset: Preset) -> tuple[str, ...]:
    """The names that ``stacks`` gives."""
    return tuple(f"{window}/{plane}" for window in preset.windows for plane in PLANES)


def whole(scan: Scan) -> Tensor:
    """A volume (1, 1, x, y, z) for a 3-D network: clipped to ±1000 HU, its longest side LARGEST_SIDE voxels at most,
    zero mean and unit variance.
    """
    volume = torch.from_numpy(scan.hu).clamp(-1000, 1000)[None, None]
    largest = max(volume.shape[2:])
    if largest > LARGEST_SIDE:
        size = [max(1, round(side * LARGEST_SIDE / largest)) for side in volume.shape[2:]]
        volume = functional.interpolate(volume, size=size, mode="trilinear", align_corners=False, antialias=False)
    centred: Tensor = volume - volume.mean()
    return centred / centred.std().clamp_min(1e-6)
