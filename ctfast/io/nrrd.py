"""NRRD files as 3D Slicer writes them: gzip, and the grid in LPS millimetres."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .deflate import GzipStream
from .geometry import Affine
from .rows import contiguous

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPACES = {
    "left-posterior-superior": _RAS_TO_LPS,
    "lps": _RAS_TO_LPS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
}


def write_nrrd(file: BinaryIO, array: NDArray[Any], affine: Affine, fields: Mapping[str, str]) -> None:
    """Write an integer volume; ``fields`` become the file's key/value pairs. Format: teem.sourceforge.net/nrrd."""
    lps = _RAS_TO_LPS @ affine
    header = {
        "type": array.dtype.name,
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(count) for count in array.shape),
        "space directions": " ".join(_vector(column) for column in lps[:3, :3].T),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip",
        "space units": '"mm" "mm" "mm"',
        "space origin": _vector(lps[:3, 3]),
    }
    lines = ["NRRD0005", *(f"{key}: {value}" for key, value in header.items())]
    lines += [f"{key}:={value}" for key, value in fields.items()]
    file.write(("\n".join(lines) + "\n\n").encode("ascii", "replace"))
    stream = GzipStream(file)
    try:
        for block in contiguous(array.T.astype(array.dtype.newbyteorder("<"), copy=False)):
            stream.write(block)
    finally:
        stream.close()


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


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
