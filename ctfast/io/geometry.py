"""Where voxels are: affines in RAS+ millimetres, reorientation, and grids that share axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

Affine = NDArray[np.float64]

# A direction counts as along an axis when its other components are below this (0.1 degrees).
_OFF_AXIS = 2e-3


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel spacing in mm: the lengths of the affine's columns."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def centred_affine(size: Sequence[int], spacing: Sequence[float]) -> Affine:
    """The RAS+ affine of an axis-aligned grid whose centre is at (0, 0, 0) mm."""
    affine = np.diag([*spacing, 1.0]).astype(np.float64)
    affine[:3, 3] = [-step * (count - 1) / 2 for count, step in zip(size, spacing, strict=True)]
    return affine


def checked_affine(affine: object, what: str) -> Affine:
    """``affine`` as a float64 4 x 4 matrix; RequestError if it is no invertible affine."""
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise RequestError(f"{what}: the affine should be a 4 x 4 matrix and has shape {matrix.shape}")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise RequestError(f"{what}: the affine is not invertible; write a valid qform or sform into the file")
    return matrix


def to_ras(array: NDArray[Any], affine: Affine, what: str) -> tuple[NDArray[Any], Affine]:
    """Flip and permute the axes so that they run to the right, to the front and up.

    Only reorders voxels. RequestError when the axes are oblique, since that would need resampling.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = [int(np.argmax(np.abs(directions[row]))) for row in range(3)]
    along = np.zeros((3, 3))
    along[range(3), order] = np.sign(directions[range(3), order])
    tilt = float(np.abs(directions - along).max())
    if sorted(order) != [0, 1, 2] or tilt > _OFF_AXIS:
        angle = float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0).min(), 0, 1))))
        raise RequestError(
            f"{what}: the affine is oblique: its axes are up to {angle:.1f} degrees off the patient's. Resample it "
            "onto straight axes first, a label map with nearest neighbours, for instance with "
            "nibabel.processing.resample_to_output(image, order=0)"
        )
    signs = along[range(3), order]
    turned = np.transpose(array, order)[tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[order]
    result = np.diag([*spacing, 1.0])
    # The new first voxel is the old one at the far end of every axis that was flipped.
    corner = np.zeros(3)
    for axis, sign in zip(order, signs, strict=True):
        if sign < 0:
            corner[axis] = array.shape[axis] - 1
    result[:3, 3] = affine[:3, :3] @ corner + affine[:3, 3]
    return np.ascontiguousarray(turned), result


def straight_image(array: NDArray[Any], affine: object, what: str) -> tuple[NDArray[Any], Affine]:
    """A three-dimensional image reoriented to RAS+; RequestError if it has other dimensions or is oblique."""
    if array.ndim != 3 or array.size == 0:
        raise RequestError(f"{what}: expected a three-dimensional image, found shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise RequestError(f"{what}: expected numbers, found data of type {array.dtype}")
    return to_ras(array, checked_affine(affine, what), what)


def resampled_nearest(
    array: NDArray[Any], affine: Affine, size: Sequence[int], spacing: Sequence[float]
) -> tuple[NDArray[Any], Affine]:
    """A straight RAS+ image on another grid with the same centre: nearest voxels, 0 outside."""
    old_spacing = spacing_of(affine)
    centre = affine[:3, 3] + [step * (count - 1) / 2 for step, count in zip(old_spacing, array.shape, strict=True)]
    target = centred_affine(size, spacing)
    target[:3, 3] += centre
    result = array
    for axis in range(3):
        position = target[axis, 3] + spacing[axis] * np.arange(size[axis])
        index = np.rint((position - affine[axis, 3]) / old_spacing[axis]).astype(np.int64)
        inside = (index >= 0) & (index < array.shape[axis])
        result = np.take(result, np.clip(index, 0, array.shape[axis] - 1), axis=axis)
        shape = [1, 1, 1]
        shape[axis] = -1
        result = np.where(inside.reshape(shape), result, np.zeros((), result.dtype))
    return result, target
