"""Maps of integer labels: reading, checking and writing them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .io.atomic import OutputFiles
from .io.files import SavedFiles, read_image, read_sidecar, sidecar, split_name, write_image, write_json
from .io.geometry import Affine, spacing_of, straight_image


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Integer labels on a grid: ``array`` uint16 (x, y, z), ``affine`` to RAS+ mm; goes wherever a mask is taken."""

    array: NDArray[np.uint16]
    affine: Affine
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along x, y and z."""
        return spacing_of(self.affine)

    def save(self, path: str | os.PathLike[str]) -> SavedFiles:
        """Write the labels (uint8 where they fit) and a JSON beside them; formats and errors as in ``Volume.save``."""
        image = Path(path)
        stem, _ = split_name(image)
        json_path = stem.with_name(stem.name + ".json")
        with OutputFiles() as files:
            sha256 = write_image(files, image, compact_labels(self.array), self.affine, self.meta, labels=True)
            write_json(files, json_path, sidecar(self.meta, image, sha256))
        return SavedFiles(image, json_path, sha256)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelMap:
        """Read a label map, reoriented to RAS+; RequestError also for values that are no labels."""
        path = Path(path)
        array, affine = straight_image(*read_image(path), f"'{path}'")
        return cls(as_labels(array, f"'{path}'"), affine, read_sidecar(path))


def as_labels(array: NDArray[Any], what: str) -> NDArray[np.uint16]:
    """Values as uint16 labels; RequestError says how many are NaN, fractional, negative or too large, and which."""
    if array.dtype.kind not in "biuf":
        raise RequestError(f"{what}: expected integer labels, found data of type {array.dtype}")
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            raise RequestError(
                f"{what}: {int((~finite).sum())} voxels are NaN or infinite; labels are integers from 0 on"
            )
        whole = array == np.rint(array)
        if not whole.all():
            raise RequestError(
                f"{what}: {int((~whole).sum())} voxels are not integers, for instance {float(array[~whole][0]):g}; "
                "labels are integers from 0 on: resample label maps with nearest neighbours"
            )
    if array.dtype.kind in "if" and array.min() < 0:
        raise RequestError(
            f"{what}: {int((array < 0).sum())} voxels are negative, down to {array.min():g}; labels start at 0"
        )
    if array.dtype.kind != "b" and array.max() > np.iinfo(np.uint16).max:
        raise RequestError(f"{what}: the largest value is {array.max():g}; labels must be below 65536")
    return np.ascontiguousarray(array, dtype=np.uint16)


def label_counts(labels: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many voxels have each label from 0 to 65535."""
    counts = np.zeros(1 << 16, np.int64)
    for slab in labels:  # one at a time, since bincount makes eight bytes of every voxel
        counts += np.bincount(slab.ravel(), minlength=counts.size)
    return counts


def compact_labels(labels: NDArray[np.uint16]) -> NDArray[Any]:
    """Labels as uint8 where they fit: half the file, and more readers know it."""
    return labels.astype(np.uint8) if labels.size == 0 or labels.max() <= 255 else labels
