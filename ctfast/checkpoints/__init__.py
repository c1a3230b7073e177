"""Safe readers of checkpoint files and folders. Imported by export and training only: inference never loads torch."""

from __future__ import annotations

from ctfast.checkpoints.folder import find_folder, sha256_of
from ctfast.checkpoints.layouts import detect, load_into, networks_of
from ctfast.checkpoints.reader import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "detect", "find_folder", "load_into", "networks_of", "read_checkpoint", "sha256_of"]
