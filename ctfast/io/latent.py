"""Latents on disk: a NumPy archive with the latent, the affine of its image, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .atomic import OutputFiles
from .geometry import Affine, checked_affine
from .npz import read_npz, write_npz


@dataclass(frozen=True, eq=False)
class LatentFile:
    """``latent``: float32 (channels, x, y, z); ``affine``: that of the image in RAS+ mm, or None if unknown."""

    latent: NDArray[np.float32]
    affine: Affine | None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write an .npz atomically and return its SHA-256. RequestError: another suffix. OutputError: cannot write."""
        target = checked_name(path)
        arrays: dict[str, NDArray[Any]] = {"latent": self.latent}
        if self.affine is not None:
            arrays["affine"] = self.affine
        with OutputFiles() as files:
            return files.add(target, lambda file: write_npz(file, arrays, self.meta))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatentFile:
        """Read what ``save`` wrote; RequestError if the file is missing or something else."""
        source = Path(path)
        if not os.path.isfile(source):  # unlike Path.is_file, False for names that no file can have
            raise RequestError(f"there is no file '{source}'")
        arrays, meta = read_npz(source, "latent")
        affine = arrays.get("affine")
        what = f"'{source}'"
        return cls(arrays["latent"], None if affine is None else checked_affine(affine, what), meta)


def checked_name(path: str | os.PathLike[str]) -> Path:
    """A path that ends in .npz; RequestError otherwise."""
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise RequestError(f"'{target}': latents are saved as NumPy archives; use a name that ends in .npz")
    return target
