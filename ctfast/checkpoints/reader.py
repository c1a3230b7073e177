"""Reads checkpoint files without running code from them and without loading what is not needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """One network's weights.

    ``state_dict`` holds memory-mapped tensors: pages are read when a tensor is. ``scale_factor`` is what the latent was
    multiplied by in training, None where the file has none. ``extras`` holds the file's other plain values (epoch,
    loss, config), never optimiser state.
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    scale_factor: float | None
    extras: Mapping[str, Any]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a torch zip checkpoint or a safetensors file, in any of the official layouts.

    Raises:
        CheckpointError: The file is missing, foreign, truncated, or asks for anything but tensors and plain values.
    """
    raise NotImplementedError
