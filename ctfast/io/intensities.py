"""Images on their way into the networks: from Hounsfield units or MR intensities to the networks' own range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..manifest import PlanManifest
from .geometry import Affine, checked_affine, straight_image
from .rows import copy_rows
from .source import read_source


def intensities_of(image: Any, affine: Any, manifest: PlanManifest) -> tuple[NDArray[np.float32], Affine | None]:
    """An image in the networks' units, float32 (x, y, z) in RAS+, and its affine (None for a bare array).

    In memory x is fastest. A bare array is taken to be in RAS+ already. RequestError: unreadable, oblique, NaN, or of
    a size that the plan's VAE cannot work on.
    """
    array, own = read_source(image, "image", labels=False)
    if affine is not None:
        own = checked_affine(affine, "image")
    if own is not None:
        array, own = straight_image(array, own, "image")
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise RequestError(f"image: expected numbers (x, y, z), found {array.dtype} of shape {array.shape}")
    problem = vae_size_problem(array.shape, manifest)
    if problem is not None:
        raise RequestError(f"image: {problem}")
    values = np.empty(array.shape[::-1], np.float32)
    copy_rows(array.T, values)
    if not np.isfinite(values).all():
        raise RequestError(f"image: {int((~np.isfinite(values)).sum())} voxels are NaN or infinite")
    intensity = manifest.intensity
    if intensity.low is not None or intensity.high is not None:
        np.clip(values, intensity.low, intensity.high, out=values)
    values -= np.float32(intensity.offset)
    values /= np.float32(intensity.scale)
    return values.T, own


def vae_size_problem(size: Sequence[int], manifest: PlanManifest) -> str | None:
    """None if the plan's VAE can work on an image of ``size``, whatever the plan generates, else what is wrong."""
    compression = manifest.latent.compression
    if len(size) == 3 and all(n > 0 and n % factor == 0 for n, factor in zip(size, compression, strict=True)):
        return None
    found = " x ".join(str(count) for count in size)
    expected = ", ".join(str(factor) for factor in compression)
    return (
        f"size {found} does not go into plan '{manifest.name}': expected voxels (x, y, z) in multiples of {expected}. "
        "Pad or crop the image"
    )
