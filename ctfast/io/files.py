"""Images on disk: which format a name asks for, and the JSON that lies beside each image."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError, RequestError
from .atomic import OutputFiles, check_name, output_error
from .geometry import Affine
from .nifti import nifti_header, read_nifti, write_nifti
from .npz import read_npz, write_npz
from .nrrd import read_nrrd, write_nrrd

FORMATS = (".nii.gz", ".nii", ".nrrd", ".npz")
NOTICE = "Synthetic. Not for diagnostic use."


@dataclass(frozen=True)
class SavedFiles:
    """Where a saved image went; ``sha256`` is that of the image file."""

    image: Path
    json: Path
    sha256: str
    labels: Path | None = None
    preview: Path | None = None

    def as_dict(self) -> dict[str, str | None]:
        """JSON-ready: paths as text."""
        labels = None if self.labels is None else str(self.labels)
        preview = None if self.preview is None else str(self.preview)
        return {
            "image": str(self.image),
            "json": str(self.json),
            "sha256": self.sha256,
            "labels": labels,
            "preview": preview,
        }


def split_name(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """A path without its format's suffix, and the suffix; RequestError if the format is unknown."""
    path = Path(path)
    for suffix in FORMATS:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.with_name(path.name[: -len(suffix)]), suffix
    raise RequestError(f"'{path}': unknown image format. Use a name that ends in one of: {', '.join(FORMATS)}")


def check_preview(path: str | os.PathLike[str]) -> Path:
    """The name of a preview; RequestError unless it ends in .png."""
    preview = Path(path)
    if preview.suffix.lower() != ".png":
        raise RequestError(f"'{preview}': previews are PNG pictures; use a name that ends in .png")
    return preview


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise what saving to ``path`` would raise for a bad name or folder, before the time for computing is spent."""
    target = Path(path)
    check_name(target)
    if not target.parent.is_dir():
        raise output_error(target, OSError(errno.ENOENT, ""))
    if not os.access(target.parent, os.W_OK):
        raise output_error(target, OSError(errno.EACCES, ""))
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write '{target}': it is a device or pipe. Give the name of a regular file.")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents unless it is there; OutputError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{folder}': {error.strerror}. Choose another") from error


def description_of(meta: Mapping[str, Any]) -> str:
    """The short text that travels inside the file."""
    if not meta.get("synthetic"):
        return f"ctfast {meta.get('ctfast', '')}".strip()
    text = f"SYNTHETIC ctfast {meta.get('ctfast', '')} {meta.get('plan', {}).get('name', '')}"
    if "seed" in meta:
        text += f" seed {meta['seed']}/{meta.get('sample', 0)}"
    return " ".join(text.split()) + ", not for diagnosis"


def display_range(meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """Lowest and highest intensity that the plan can give, or None where it sets no limits.

    From the metadata rather than from the voxels, since a file's header is written before its voxels are known.
    """
    intensity = meta.get("intensity", {})
    low, high = intensity.get("low"), intensity.get("high")
    return None if low is None or high is None else (float(low), float(high))


def write_image(
    files: OutputFiles, path: Path, array: NDArray[Any], affine: Affine, meta: Mapping[str, Any], labels: bool = False
) -> str:
    """Add an integer volume to a group of files in the format that its name asks for; returns the file's SHA-256."""
    _, suffix = split_name(path)
    description = description_of(meta)

    def write(file: BinaryIO) -> None:
        if suffix == ".npz":
            write_npz(file, {"array": array, "affine": affine}, meta)
        elif suffix == ".nrrd":
            fields = {"description": description, "synthetic": "true" if meta.get("synthetic") else "false"}
            write_nrrd(file, array, affine, fields)
        else:
            window = None if labels else display_range(meta)
            header = nifti_header(
                array.shape, array.dtype, affine, description=description, labels=labels, window=window
            )
            write_nifti(file, array, header, compress=suffix == ".nii.gz")

    return files.add(path, write)


def write_json(files: OutputFiles, path: Path, content: Mapping[str, Any]) -> None:
    """Add a JSON file to a group of files; NumPy scalars and arrays become plain numbers and lists."""
    text = json.dumps(content, indent=2, default=_plain) + "\n"
    files.add_text(path, text)


def sidecar(meta: Mapping[str, Any], image: Path, sha256: str, **others: str) -> dict[str, Any]:
    """What the JSON beside an image holds; ``others`` maps kinds of further files to their names."""
    head: dict[str, Any] = {"file": image.name, "sha256": sha256, **others, "synthetic": bool(meta.get("synthetic"))}
    if head["synthetic"]:
        head["notice"] = NOTICE
    return {**head, **{key: value for key, value in meta.items() if key != "synthetic"}}


def read_image(path: Path) -> tuple[NDArray[Any], Affine]:
    """Array (x, y, z) and RAS+ affine of an image file; RequestError if it is missing or cannot be read."""
    if not os.path.exists(path):  # unlike Path.exists, False for names that no file can have
        raise RequestError(f"there is no file '{path}'")
    if os.path.isdir(path):
        raise RequestError(f"'{path}' is a folder; expected an image file ({', '.join(FORMATS)})")
    _, suffix = split_name(path)
    if suffix == ".npz":
        arrays, _ = read_npz(path, "array")
        if "affine" not in arrays:
            raise RequestError(f"'{path}' has no array 'affine'; expected what ctfast saves")
        return arrays["array"], np.asarray(arrays["affine"], dtype=np.float64)
    return read_nrrd(path) if suffix == ".nrrd" else read_nifti(path)


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside an image, or an empty dict if there is none that can be read."""
    stem, _ = split_name(path)
    beside = stem.with_name(stem.name + ".json")
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON")
