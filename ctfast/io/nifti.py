"""NIfTI-1 files: int16 intensities or integer labels, without scaling, on a RAS+ grid in mm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import RequestError
from .deflate import GzipStream, Sink
from .geometry import Affine
from .rows import contiguous

_CODE_SCANNER = 1
_DATA_OFFSET = 352  # of a .nii: 348 bytes of header and 4 that say whether extensions follow


class NiftiStream:
    """A NIfTI-1 file that is written row by row; a row is all voxels of one z.

    The bytes depend on the header and the voxels alone, not on how many rows come at a time.
    """

    def __init__(self, file: Sink, header: bytes, *, compress: bool) -> None:
        """Write ``header`` (see ``nifti_header``) to ``file``, which stays open; ``compress`` makes it a gzip."""
        self._gzip = GzipStream(file) if compress else None
        self._write = file.write if self._gzip is None else self._gzip.write
        self._write(header)

    def write(self, rows: NDArray[Any]) -> None:
        """Write rows (z, y, x) of the header's type, those that follow the ones before."""
        for block in contiguous(rows):
            self._write(block)

    def close(self) -> None:
        """Write what is left. To be called in any case, since it ends the threads that compress."""
        if self._gzip is not None:
            self._gzip.close()


def write_nifti(file: BinaryIO, array: NDArray[Any], header: bytes, *, compress: bool) -> None:
    """Write an integer volume (x, y, z) behind its header."""
    stream = NiftiStream(file, header, compress=compress)
    try:
        stream.write(array.T)
    finally:
        stream.close()


def nifti_header(
    size: Sequence[int],
    dtype: DTypeLike,
    affine: Affine,
    *,
    description: str,
    labels: bool = False,
    window: tuple[float, float] | None = None,
) -> bytes:
    """Everything in front of the voxels: qform and sform with code 1, mm, no scale factor, no extensions.

    ``description`` (at most 79 characters are kept) goes to ``descrip``, ``window`` (the range to display) to
    ``cal_min`` and ``cal_max``; ``labels`` marks a label map (intent 1002). There is no time stamp and no file name.
    """
    voxels: NDArray[Any] = np.broadcast_to(np.zeros((), dtype), tuple(size))
    header = nifti_image(voxels, affine).header
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["vox_offset"] = _DATA_OFFSET
    if labels:
        header.set_intent("label")
    if window is not None:
        header["cal_min"], header["cal_max"] = window
    block: bytes = header.binaryblock
    return block + bytes(_DATA_OFFSET - len(block))


def nifti_image(array: NDArray[Any], affine: Affine) -> Any:
    """A nibabel.Nifti1Image of the array's own type in mm, qform and sform with code 1."""
    import nibabel

    make: Any = nibabel.Nifti1Image
    image: Any = make(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, _CODE_SCANNER)
    image.set_sform(affine, _CODE_SCANNER)
    return image


def read_nifti(path: Path) -> tuple[NDArray[Any], Affine]:
    """Array and RAS+ affine of an image file that nibabel reads; RequestError if it cannot be read."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise RequestError(f"cannot read '{path}': {error}. Expected NIfTI (.nii, .nii.gz)") from error
    return image_of_nibabel(image, f"'{path}'")


def image_of_nibabel(image: Any, what: str) -> tuple[NDArray[Any], Affine]:
    """Array (x, y, z) and affine of a nibabel image, integers kept as such; RequestError if the data cannot be read."""
    try:
        stored = image.dataobj
        slope, intercept = getattr(stored, "slope", 1.0), getattr(stored, "inter", 0.0)
        plain = slope == 1.0 and intercept == 0.0 and hasattr(stored, "get_unscaled")
        array = np.asarray(stored.get_unscaled() if plain else stored)
    except (OSError, EOFError, ValueError) as error:
        raise RequestError(f"cannot read {what}: {error}. The file may be cut short: copy it again") from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return array, cast(Affine, np.asarray(image.affine, dtype=np.float64))
