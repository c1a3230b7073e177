"""Reads checkpoint files without running code from them and without loading what is not needed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ctfast.checkpoints.containers import TorchZip, read_safetensors
from ctfast.checkpoints.pickled import TensorRef
from ctfast.errors import CheckpointError
from ctfast.file_kind import FILE_KIND_BYTES, file_kind

#: Keys under which the official files, and ctfast's own training, keep a network's weights.
WRAPPERS = ("unet_state_dict", "controlnet_state_dict", "state_dict")

_LEGACY = (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02")


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

    The weights may be the file's only content, or lie under one of WRAPPERS beside a scale factor and training state;
    of the latter only plain values are read.

    Raises:
        CheckpointError: The file is missing, foreign, truncated, or asks for anything but tensors and plain values.
    """
    path = Path(path)
    try:
        return _read(path)
    except CheckpointError as problem:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {problem}") from problem.__cause__
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror or problem}") from problem


def _read(path: Path) -> Checkpoint:
    if path.is_dir():
        raise CheckpointError("it is a folder; name one of the files in it, or give the folder with a variant's name")
    with path.open("rb") as file:
        head = file.read(FILE_KIND_BYTES)
    if head.startswith(b"PK\x03\x04"):
        archive = TorchZip(path)
        return _unwrap(path, archive.contents, archive.tensor)
    if head[4:9] == b"\0\0\0\0{":
        tensors, metadata = read_safetensors(path)
        values = {key: _parsed(value) for key, value in metadata.items()}
        return _unwrap(path, {**values, **tensors}, lambda tensor: tensor)
    if head.startswith(_LEGACY):
        raise CheckpointError(
            "it has torch's format from before 1.6, which cannot be read safely; load it with torch where it was made "
            "and save it again: torch.save(torch.load(file), file)"
        )
    kind = file_kind(head)
    raise CheckpointError(
        f"expected a file that torch.save or safetensors wrote, found {kind.looks_like if kind else 'something else'}"
    )


def _parsed(text: str) -> Any:
    """Safetensors metadata are strings: those that are JSON become what they describe."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unwrap(path: Path, contents: object, tensor: Callable[[Any], Tensor]) -> Checkpoint:
    """Find the weights in a file's contents."""
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"expected a dictionary of tensors, found {type(contents).__name__}")
    wrappers = [key for key in WRAPPERS if key in contents]
    if len(wrappers) > 1:
        raise CheckpointError(f"it holds several networks ({', '.join(wrappers)}); save each to a file of its own")
    weights = contents[wrappers[0]] if wrappers else contents
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"expected a dictionary of tensors under {wrappers[0]}, found {type(weights).__name__}")
    state = {key: value for key, value in weights.items() if _is_tensor(value) and (wrappers or key != "scale_factor")}
    if not state:
        found = ", ".join(map(str, list(contents)[:8])) or "nothing"
        raise CheckpointError(f"expected weights, bare or under {' or '.join(WRAPPERS)}, found {found}")
    if not all(isinstance(key, str) for key in state):
        raise CheckpointError("the names of its tensors are not all strings")
    if wrappers and len(state) != len(weights):
        odd = [str(key) for key in weights if key not in state]
        raise CheckpointError(f"{wrappers[0]} holds other things than tensors: {', '.join(odd[:4])}")
    rest = {key: value for key, value in contents.items() if isinstance(key, str) and key not in wrappers}
    if not wrappers:
        rest = {key: value for key, value in rest.items() if key not in state}
    scale_factor = _scale_factor(rest.pop("scale_factor", None), tensor)
    numbers = {key: _number(value, tensor) for key, value in rest.items() if not key.endswith("_state_dict")}
    # Data-parallel training puts "module." before every name.
    prefix = len("module.") if all(key.startswith("module.") for key in state) else 0
    return Checkpoint(
        path=path,
        state_dict={key[prefix:]: tensor(value) for key, value in state.items()},
        scale_factor=scale_factor,
        extras={key: value for key, value in numbers.items() if _is_plain(value)},
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, (TensorRef, Tensor))


def _number(value: Any, tensor: Callable[[Any], Tensor]) -> Any:
    """A tensor of one element as a number; anything else as it is."""
    return tensor(value).item() if _is_tensor(value) and math.prod(value.shape) == 1 else value


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, (str, int)) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _scale_factor(value: Any, tensor: Callable[[Any], Tensor]) -> float | None:
    if value is None:
        return None
    value = _number(value, tensor)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise CheckpointError(f"expected scale_factor to be one positive number, found {value!r}")
    return float(value)
