"""How well two label maps agree: overlap and distances of surfaces, in mm."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

# Surfaces closer than this agree, for the surface Dice.
TOLERANCE_MM = 2.0
NAMES = ("dice", "iou", "hd95", "asd", "nsd")


@dataclass(frozen=True)
class Agreement:
    """Dice, IoU, 95th percentile of the Hausdorff distance (mm), mean symmetric surface distance (mm), surface Dice."""

    dice: float
    iou: float
    hd95: float
    asd: float
    nsd: float


def agreement(
    found: NDArray[np.bool_], wanted: NDArray[np.bool_], spacing: Sequence[float], tolerance: float = TOLERANCE_MM
) -> Agreement | None:
    """How a mask agrees with the wanted one, both (x, y, z); None if both are empty, which is no evidence either way.

    If just one is empty, overlaps are 0 and the distances are the diagonal of the grid, the largest there can be, so
    that a missed structure counts. Surfaces are voxels with a neighbour outside, as MONAI takes them. RequestError for
    grids of different shapes.
    """
    if found.shape != wanted.shape:
        raise RequestError(f"masks: expected grids of one shape, found {found.shape} and {wanted.shape}")
    voxels, target = int(found.sum()), int(wanted.sum())
    if voxels + target == 0:
        return None
    if voxels == 0 or target == 0:
        diagonal = float(np.linalg.norm(np.asarray(found.shape) * np.asarray(spacing)))
        return Agreement(0.0, 0.0, diagonal, diagonal, 0.0)
    common = int((found & wanted).sum())
    hd95, asd, nsd = _surfaces(found, wanted, spacing, tolerance)
    return Agreement(2 * common / (voxels + target), common / (voxels + target - common), hd95, asd, nsd)


def _surfaces(
    found: NDArray[np.bool_], wanted: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> tuple[float, float, float]:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    # The box around both, with a rim: distances are the same in it and take less.
    box = tuple(slice(max(int(where.min()) - 1, 0), int(where.max()) + 2) for where in np.nonzero(found | wanted))
    first, second = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (found, wanted))
    at = [float(step) for step in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=95, spacing=at)
        asd = compute_average_surface_distance(first, second, include_background=True, symmetric=True, spacing=at)
        nsd = compute_surface_dice(first, second, [tolerance], include_background=True, spacing=at)
    return float(hd95), float(asd), float(nsd)


def agreements(found: NDArray[np.uint16], wanted: NDArray[np.uint16], spacing: Sequence[float]) -> dict[int, Agreement]:
    """The agreement of each label above 0 that either map has."""
    if found.shape != wanted.shape:
        raise RequestError(f"label maps: expected grids of one shape, found {found.shape} and {wanted.shape}")
    labels = np.union1d(np.unique(found), np.unique(wanted))
    results = {int(label): agreement(found == label, wanted == label, spacing) for label in labels if label}
    return {label: result for label, result in results.items() if result is not None}
