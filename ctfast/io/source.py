"""The ways in which a caller may hand over an image: path, nibabel image, array (with affine) or our own classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .files import read_image
from .geometry import Affine, checked_affine
from .nifti import image_of_nibabel

ACCEPTED = "a path, a nibabel image, a NumPy array, a pair (array, affine) or a ctfast.Volume"


def read_source(source: Any, what: str, *, labels: bool) -> tuple[NDArray[Any], Affine | None]:
    """Array and affine of whatever was handed over; the affine is None for a bare array.

    ``labels`` asks a Volume for its label map instead of its intensities. Tensors with an ``affine`` (MONAI's
    MetaTensor) are taken with their leading channel axis of length one. RequestError: unreadable, or of another type.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(Path(source))
    if isinstance(source, tuple | list) and len(source) == 2 and np.shape(source[1]) == (4, 4):
        return np.asarray(source[0]), checked_affine(source[1], what)
    if hasattr(source, "dataobj"):
        return image_of_nibabel(source, what)
    if hasattr(source, "affine") and hasattr(source, "array"):
        if not labels or not hasattr(source, "labels"):
            return np.asarray(source.array), checked_affine(source.affine, what)
        if source.labels is None:
            raise RequestError(f"{what}: this volume has no labels; give a label map")
        return np.asarray(source.labels), checked_affine(source.affine, what)
    array = np.asarray(source)
    if array.dtype == object or array.ndim == 0:
        raise RequestError(f"{what}: expected {ACCEPTED}, found {type(source).__name__}")
    if not hasattr(source, "affine"):
        return array, None
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    return array, checked_affine(np.asarray(source.affine), what)
