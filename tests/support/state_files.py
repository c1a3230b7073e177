"""A state dict in a file, as a plan holds it, without a network around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctfast.manifest import TensorEntry


def stored(state: Mapping[str, Any], folder: Path, dtype: str = "float32") -> tuple[Path, dict[str, TensorEntry]]:
    """Write all tensors of ``state`` one after the other; the file, and where each tensor lies in it."""
    path, table = folder / "weights.bin", dict[str, TensorEntry]()
    with path.open("wb") as file:
        for key, tensor in state.items():
            table[key] = TensorEntry(file.tell(), tuple(tensor.shape), dtype)
            file.write(np.ascontiguousarray(tensor.numpy().astype(dtype)).tobytes())
    return path, table
