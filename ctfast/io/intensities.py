"""Images on their way into the networks: from Hounsfield units or MR intensities to the networks' own range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..manifest import PlanManifest
from .geometry import Affine, checked_affine, straight_image
from .source import read_source


def intensities_of(image: Any, affine: Any, manifest: PlanManifest) -> tuple[NDArray[np.float32], Affine | None]:
    """An image in the networks' units, float32 (x, y, z) in RAS+, and its affine (None for a bare array).

    A bare array is taken to be in RAS+ already. RequestError: unreadable, oblique, NaN, or not of a legal size.
    """
    array, own = read_source(image, "image", labels=False)
    if affine is not None:
        own = checked_affine(affine, "image")
    if own is not None:
        array, own = straight_image(array, own, "image")
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise RequestError(f"image: expected numbers (x, y, z), found {array.dtype} of shape {array.shape}")
    problem = manifest.size_problem(array.shape)
    if problem is not None:
        raise RequestError(f"image: {problem}")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise RequestError(f"image: {int((~np.isfinite(values)).sum())} voxels are NaN or infinite")
    intensity = manifest.intensity
    values = np.clip(values, intensity.low, intensity.high)
    return np.ascontiguousarray((values - np.float32(intensity.offset)) / np.float32(intensity.scale)), own
