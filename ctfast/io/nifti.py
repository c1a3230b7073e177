"""NIfTI-1 files: int16 intensities or integer labels, without scaling, on a RAS+ grid in mm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .deflate import write_gzip
from .geometry import Affine

_CODE_SCANNER = 1
_DATA_OFFSET = 352  # of a .nii: 348 bytes of header and 4 that say whether extensions follow


def write_nifti(
    file: BinaryIO, array: NDArray[Any], affine: Affine, *, compress: bool, description: str, labels: bool
) -> None:
    """Write an integer volume as NIfTI-1: qform and sform with code 1, mm, no scale factor.

    ``description`` (at most 79 characters are kept) goes to ``descrip``; ``labels`` marks a label map (intent 1002).
    The bytes depend on nothing else: no time stamp, no file name.
    """
    image = nifti_image(array, affine)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    if labels:
        image.header.set_intent("label")
    elif array.size:
        image.header["cal_min"], image.header["cal_max"] = float(array.min()), float(array.max())
    # Header, an empty list of extensions, and the voxels, x fastest.
    image.header["vox_offset"] = _DATA_OFFSET
    parts = [image.header.binaryblock, bytes(_DATA_OFFSET - len(image.header.binaryblock)), array.tobytes(order="F")]
    if compress:
        write_gzip(file, parts)
    else:
        file.writelines(parts)


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
