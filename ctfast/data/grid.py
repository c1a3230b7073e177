"""Bringing a scan onto a regular grid: orientation, resampling, body envelope."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import SpatialImage
from scipy import ndimage

from ctfast.errors import DataError

T = TypeVar("T", bound=np.generic)
Volume = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

AIR = -1000.0


def read_canonical(path: Path) -> SpatialImage:
    """Read a NIfTI file and reorder its axes to RAS+. Refuses what is not a 3D image with axis-aligned geometry."""
    try:
        image: SpatialImage = nibabel.as_closest_canonical(nibabel.load(path))
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path}: expected a readable NIfTI file, found: {error}") from error
    if len(image.shape) != 3 or min(image.shape) < 8:
        raise DataError(f"{path}: expected a 3D volume of at least 8 voxels a side, found shape {image.shape}")
    axes = np.asarray(image.affine)[:3, :3]
    if not np.isfinite(axes).all() or not axes.any(axis=0).all():
        raise DataError(f"{path}: expected an affine that says how large voxels are, found {axes.tolist()}")
    spacing = np.linalg.norm(axes, axis=0)
    if np.abs(axes / spacing - np.eye(3)).max() > 0.02:
        raise DataError(f"{path}: expected axes along the body's, found an oblique affine; resample the image first")
    return image


def read_values(image: SpatialImage, path: Path) -> Volume:
    """The voxels of an image that :func:`read_canonical` opened. DataError if they are damaged or not finite."""
    try:
        values = np.asarray(image.dataobj, np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: expected a whole image, found it damaged or cut short: {error}") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path}: expected finite voxels, found NaN or infinity")
    return values


def resample(array: Volume, spacing: Sequence[float], target: Sequence[float], labels: bool) -> Volume:
    """Resample to ``target`` mm: linear behind an anti-aliasing Gaussian for intensities, nearest for labels."""
    factor = np.asarray(target, float) / np.asarray(spacing, float)
    data = np.asarray(array, np.float32)
    if not labels:
        # A Gaussian this wide turns the old sampling into the new one; finer grids than the target's stay untouched.
        sigma = 0.5 * np.sqrt(np.maximum(factor**2 - 1.0, 0.0))
        data = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    shape = tuple(int(np.floor((n - 1) / f + 1e-6)) + 1 for n, f in zip(data.shape, factor, strict=True))
    out: Volume = ndimage.affine_transform(data, factor, output_shape=shape, order=0 if labels else 1, mode="nearest")
    return out


def body_envelope(hu: Volume, threshold: float = -500.0) -> npt.NDArray[np.bool_]:
    """The patient with airways and sinuses: the largest piece above ``threshold`` HU, closed and filled by slice."""
    tissue = ndimage.binary_opening(hu > threshold, iterations=1)
    pieces, found = ndimage.label(tissue)
    if not found:
        return np.zeros(hu.shape, bool)
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    closed = ndimage.binary_closing(np.pad(largest, 3), iterations=2)[3:-3, 3:-3, 3:-3]
    return np.stack([ndimage.binary_fill_holes(closed[:, :, z]) for z in range(hu.shape[2])], axis=2)


def crop(array: npt.NDArray[T], start: Sequence[int], size: Sequence[int], fill: float) -> npt.NDArray[T]:
    """Cut ``size`` voxels from ``start`` (may be negative); what lies outside the array is ``fill``."""
    out = np.full(tuple(size), fill, array.dtype)
    source, target = [], []
    for first, extent, n in zip(start, size, array.shape, strict=True):
        lo, hi = max(first, 0), min(first + extent, n)
        if hi <= lo:
            return out
        source.append(slice(lo, hi))
        target.append(slice(lo - first, hi - first))
    out[tuple(target)] = array[tuple(source)]
    return out
