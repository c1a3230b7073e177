"""What generation gives: a volume of intensities, or a map of labels, on a grid in the patient's space."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .io.files import SavedFiles, read_image, read_sidecar, split_name
from .io.geometry import Affine, checked_affine, spacing_of, straight_image
from .io.volume_files import VolumeFiles
from .labels import LabelMap

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT or MR volume.

    ``array`` is int16 of shape (x, y, z), Hounsfield units for CT. ``affine`` takes voxel indices to RAS+ millimetres;
    unless a mask says otherwise the centre of a generated volume is at (0, 0, 0). ``labels`` is a uint16 label map on
    the same grid or None. ``meta`` says how the volume came to be and is JSON-ready. ``saved`` tells which files it was
    written to while it was made, if it was.
    """

    array: NDArray[np.int16]
    affine: Affine
    labels: NDArray[np.uint16] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    saved: SavedFiles | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.dtype != np.int16:
            raise RequestError(f"a volume's array should be int16 (x, y, z), not {self.array.dtype} {self.array.shape}")
        if self.labels is not None and (self.labels.shape != self.array.shape or self.labels.dtype != np.uint16):
            raise RequestError(
                f"labels should be uint16 {self.array.shape} and are {self.labels.dtype} {self.labels.shape}"
            )
        object.__setattr__(self, "affine", checked_affine(self.affine, "volume"))

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along x, y and z."""
        return spacing_of(self.affine)

    def save(self, path: PathLike, preview: PathLike | None = None) -> SavedFiles:
        """Write the volume, a JSON beside it, its labels if it has any, and a PNG preview if asked for.

        The name's end chooses the format: .nii.gz, .nii, .nrrd or .npz. For ``ct.nii.gz`` the JSON is ``ct.json`` (the
        metadata and the file's SHA-256) and the labels ``ct_labels.nii.gz``. All files appear together or none does.
        RequestError: unknown format. OutputError: no space, no permission; nothing is left behind.
        """
        with VolumeFiles(path, preview) as files:
            files.begin(self.size, self.affine, self.meta)
            files.put(self.array.T)
            return files.finish(self)

    def to_nibabel(self) -> Any:
        """The intensities as a nibabel.Nifti1Image in mm, qform and sform set."""
        from .io.nifti import nifti_image

        return nifti_image(self.array, self.affine)

    @classmethod
    def load(cls, path: PathLike) -> Volume:
        """Read an image (.nii, .nii.gz, .nrrd, .npz), reoriented to RAS+, with what ``save`` put beside it.

        Intensities are rounded to int16. RequestError: missing, unreadable, not three-dimensional or oblique.
        """
        path = Path(path)
        array, affine = read_image(path)
        meta = read_sidecar(path)
        labels = None
        stem, suffix = split_name(path)
        labels_path = stem.with_name(f"{stem.name}_labels{suffix}")
        if meta.get("labels") == labels_path.name and labels_path.exists():
            labels = LabelMap.load(labels_path).array
        for key in ("file", "sha256", "labels", "labels_sha256", "notice"):
            meta.pop(key, None)
        return cls._reoriented(array, affine, labels, meta, f"'{path}'")

    @classmethod
    def from_nifti(cls, image: Any) -> Volume:
        """Take a nibabel image or the path of an image, as ``load`` but without looking for files beside it."""
        from .io.nifti import image_of_nibabel

        if isinstance(image, str | os.PathLike):
            array, affine = read_image(Path(image))
            return cls._reoriented(array, affine, None, {}, f"'{os.fspath(image)}'")
        array, affine = image_of_nibabel(image, "the image")
        return cls._reoriented(array, affine, None, {}, "the image")

    @classmethod
    def _reoriented(
        cls, array: NDArray[Any], affine: Affine, labels: NDArray[np.uint16] | None, meta: Mapping[str, Any], what: str
    ) -> Volume:
        intensities, affine = straight_image(array, affine, what)
        limits = np.iinfo(np.int16)
        if intensities.dtype != np.int16:
            if not np.isfinite(intensities).all():
                raise RequestError(f"{what}: {int((~np.isfinite(intensities)).sum())} voxels are NaN or infinite")
            intensities = np.clip(np.rint(intensities), limits.min, limits.max).astype(np.int16)
        return cls(intensities, affine, labels, meta)
