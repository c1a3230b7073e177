"""Folders of tiny labelled volumes, a dense and a thin blob in tissue, that a small network learns in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SIZE = (16, 16, 16)
DENSE, THIN = 3, 5
_AFFINE = np.diag([4.0, 4.0, 3.0, 1.0])


def volume(seed: int) -> tuple[Any, Any]:
    """HU int16 and labels uint8; where the blobs are depends on the seed."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(count) for count in SIZE), indexing="ij")
    labels = np.zeros(SIZE, np.uint8)
    for label, low, high in ((DENSE, 3, 6), (THIN, 9, 12)):
        centre = (random.uniform(low, high), *random.uniform(5, 11, 2))
        away = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
        labels[away < 10] = label
    hu = np.select([labels == DENSE, labels == THIN], [700, -700], 0) + random.normal(0, 20, SIZE)
    return np.rint(hu).astype(np.int16), labels


def save(folder: Path, name: str, hu: Any, labels: Any, affine: Any = _AFFINE) -> None:
    """Write one volume of a set, without label map if ``labels`` is None."""
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(hu, affine), folder / f"{name}_ct.nii.gz")
    if labels is not None:
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / f"{name}_seg.nii.gz")


def write(folder: Path, seeds: Iterable[int], wrong: bool = False) -> Path:
    """A set whose volumes are named by their seeds; ``wrong`` gives each blob the other's label."""
    for seed in seeds:
        hu, labels = volume(seed)
        if wrong:
            labels = np.select([labels == DENSE, labels == THIN], [THIN, DENSE], 0).astype(np.uint8)
        save(folder, f"p{seed:03d}", hu, labels)
    return folder
