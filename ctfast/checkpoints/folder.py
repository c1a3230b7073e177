"""Finds a variant's files in the folders that users have."""

from __future__ import annotations

import os
from pathlib import Path


def find_folder(path: str | os.PathLike[str], variant: str) -> dict[str, Path]:
    """A variant's files by role (see ctfast.networks.variants.ROLES) in a NV-Generate checkout, its ``models/`` folder,
    or a MONAI bundle folder. ControlNet and mask generator are left out where the folder lacks them.

    Raises:
        CheckpointError: The autoencoder or the denoiser is missing; what was looked for is named.
    """
    raise NotImplementedError


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    raise NotImplementedError
