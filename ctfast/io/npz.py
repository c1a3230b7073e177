"""NumPy archives: volumes and latents with their affine and metadata."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

# Of zlib's: intensities hardly shrink further, and higher levels take several times as long.
_LEVEL = 1


def write_npz(file: BinaryIO, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write named arrays and ``meta`` (as JSON text under the name "meta") without pickling anything.

    What numpy.savez_compressed writes, but at the fastest level and without time stamps.
    """
    text = np.array(json.dumps(meta, sort_keys=True))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name, array in {**arrays, "meta": text}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def read_npz(path: Path, required: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the metadata; RequestError if the file is no such archive or lacks the array ``required``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"cannot read '{path}': {error}") from error
    except AttributeError:  # a lone .npy array has no names
        raise RequestError(f"'{path}' is a single array; expected an archive (.npz) with '{required}'") from None
    if required not in arrays:
        names = ", ".join(arrays) or "none"
        raise RequestError(f"'{path}' has no array '{required}'; it has: {names}")
    text = arrays.pop("meta", None)
    try:
        meta = {} if text is None else json.loads(str(text))
    except ValueError as error:
        raise RequestError(f"'{path}': its metadata is not JSON: {error}") from error
    return arrays, meta if isinstance(meta, dict) else {}
