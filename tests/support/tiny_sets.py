"""Folders of small CT-like volumes: an ellipsoid of soft tissue with a denser label in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SIZE = (24, 20, 16)
SPACING = (4.0, 4.0, 3.0)
BONE, BODY = 7, 200


def volume(seed: int, bone: float = 600.0, noise: float = 20.0, size: tuple[int, int, int] = SIZE) -> tuple[Any, Any]:
    """HU int16 and labels uint8 of a body whose form and place depend on the seed."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, count) for count in size), indexing="ij")
    centre, radius = random.uniform(-0.1, 0.1, 3), random.uniform(0.6, 0.85, 3)
    away = sum(((axis - middle) / reach) ** 2 for axis, middle, reach in zip(axes, centre, radius, strict=True))
    labels = np.where(away < 1, BODY, 0).astype(np.uint8)
    labels[away < 0.2] = BONE
    hu = np.where(labels == BONE, bone, np.where(labels == BODY, 40.0, -1000.0))
    hu = hu + np.where(labels > 0, random.normal(0, noise, size), 0)
    return np.clip(np.rint(hu), -1000, 1000).astype(np.int16), labels


def save(path: Path, array: Any) -> None:
    """Write an array as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*SPACING, 1.0])), path)


def write(folder: Path, seeds: Iterable[int], labels: bool = True, **options: Any) -> Path:
    """A set as ``ctfast data prepare`` writes it; volumes are named by their seeds."""
    for seed in seeds:
        hu, mask = volume(seed, **options)
        save(folder / f"v{seed:02d}_ct.nii.gz", hu)
        if labels:
            save(folder / f"v{seed:02d}_seg.nii.gz", mask)
    return folder
