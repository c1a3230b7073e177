"""NRRD files as 3D Slicer writes them: gzip, and the grid in LPS millimetres."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .geometry import Affine
from .nifti import GZIP_LEVEL

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPACES = {
    "left-posterior-superior": _RAS_TO_LPS,
    "lps": _RAS_TO_LPS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
}


def write_nrrd(file: BinaryIO, array: NDArray[Any], affine: Affine, fields: Mapping[str, str]) -> None:
    """Write an integer volume; ``fields`` become the file's key/value pairs."""
    import nrrd

    lps = _RAS_TO_LPS @ affine
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "space units": ["mm"] * 3,
        "encoding": "gzip",
        **fields,
    }
    nrrd.write(file, array, header, compression_level=GZIP_LEVEL)


def read_nrrd(path: Path) -> tuple[NDArray[Any], Affine]:
    """Array (x, y, z) and RAS+ affine; RequestError if the file cannot be read or does not say where it is."""
    import nrrd

    try:
        array, header = nrrd.read(str(path))
    except (nrrd.NRRDError, OSError, EOFError, ValueError) as error:
        raise RequestError(f"cannot read '{path}': {error}") from error
    space = str(header.get("space", "")).lower()
    if space not in _SPACES or header.get("space directions") is None:
        raise RequestError(
            f"'{path}' has space '{space or 'none'}' and no usable directions; expected a space of "
            "left-posterior-superior or right-anterior-superior: save it again from 3D Slicer"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], dtype=np.float64).T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    return np.asarray(array), _SPACES[space] @ affine
