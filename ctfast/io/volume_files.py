"""The files of one volume, which may be written while the volume is still being computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..labels import compact_labels
from .atomic import OutputFiles, PartFile
from .files import (
    SavedFiles,
    check_preview,
    description_of,
    display_range,
    sidecar,
    split_name,
    write_image,
    write_json,
)
from .geometry import Affine
from .nifti import NiftiStream, nifti_header
from .rows import BackgroundRows

if TYPE_CHECKING:
    from ..volume import Volume


class VolumeFiles:
    """Image, JSON, labels if there are any, and a preview if asked for: all of them appear together, or none does.

    A context manager: ``begin`` when the volume's grid is known, ``put`` rows as they become final, ``finish``. Leaving
    the block without ``finish`` leaves nothing behind. Formats other than NIfTI are written in ``finish``.
    """

    def __init__(self, path: str | os.PathLike[str], preview: str | os.PathLike[str] | None = None) -> None:
        """RequestError: a name without a known format's end."""
        self._image = Path(path)
        self._stem, self._suffix = split_name(self._image)
        self._preview = None if preview is None else check_preview(preview)
        self._files = OutputFiles()
        self._part: PartFile | None = None
        self._rows: BackgroundRows | None = None

    def __enter__(self) -> VolumeFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def begin(self, size: tuple[int, int, int], affine: Affine, meta: Mapping[str, Any]) -> None:
        """Start the image's file, if its format can be written row by row. Of ``meta`` it holds the short account.

        OutputError: no permission, no such folder.
        """
        if self._suffix not in (".nii", ".nii.gz"):
            return
        header = nifti_header(size, np.int16, affine, description=description_of(meta), window=display_range(meta))
        part, compress = self._files.begin(self._image), self._suffix == ".nii.gz"
        self._part, self._rows = part, BackgroundRows(lambda: NiftiStream(part, header, compress=compress))

    def put(self, rows: NDArray[np.int16]) -> None:
        """Hand over the next rows (z, y, x), which must not change any more. OutputError: earlier ones did not fit."""
        if self._rows is not None:
            self._rows.put(rows)

    def finish(self, volume: Volume) -> SavedFiles:
        """Write what is not written yet and put all files in place.

        OutputError: no space, no permission; nothing is left behind.
        """
        with self._files as files:
            return self._write(files, volume)

    def abandon(self) -> None:
        """Stop writing and leave nothing behind; after ``finish`` there is nothing to stop."""
        if self._rows is not None:
            self._rows.abandon()
        self._files.discard()

    def _write(self, files: OutputFiles, volume: Volume) -> SavedFiles:
        others: dict[str, str] = {}
        labels_path = None
        if volume.labels is not None:
            labels_path = self._stem.with_name(f"{self._stem.name}_labels{self._suffix}")
            others["labels_sha256"] = write_image(
                files, labels_path, compact_labels(volume.labels), volume.affine, volume.meta, labels=True
            )
            others["labels"] = labels_path.name
        if self._preview is not None:
            from .preview import write_preview

            files.add(self._preview, lambda file: write_preview(file, volume))
        if self._rows is not None and self._part is not None:
            self._rows.finish()
            sha256 = self._part.finish()
        else:
            sha256 = write_image(files, self._image, volume.array, volume.affine, volume.meta)
        json_path = self._stem.with_name(self._stem.name + ".json")
        write_json(files, json_path, sidecar(volume.meta, self._image, sha256, **others))
        return SavedFiles(self._image, json_path, sha256, labels_path, self._preview)
