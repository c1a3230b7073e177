"""Where each tensor of a state dict lies in a network's ``model.bin``."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctfast.export.openvino import fingerprint
from ctfast.manifest import TensorEntry

#: Appended tensors start at multiples of this many bytes, as OpenVINO's own constants do.
ALIGNMENT = 64

_ELEMENTS = {"f16": "float16", "f32": "float32", "i64": "int64"}


def fingerprints(state: Mapping[str, Tensor]) -> set[bytes]:
    """Fingerprints of all tensors as float32, also of the transposes that a converter may have made."""
    return {fingerprint(form) for tensor in state.values() for form, _ in _forms(_float32(tensor))}


def fits_half(state: Mapping[str, Tensor]) -> bool:
    """Whether every weight is within float16's range."""
    limit = float(np.finfo(np.float16).max)
    return all(bool((tensor.abs() <= limit).all()) for tensor in state.values() if tensor.is_floating_point())


def locate(xml: Path, weights: Path, state: Mapping[str, Tensor], *, half: bool) -> dict[str, TensorEntry]:
    """The table of a network's tensors; those that are no constants of the graph are appended to ``weights``.

    A tensor is found by its bytes: as float32 or rounded to float16, as it is or (with two axes) transposed, in
    whatever shape the graph has it. A converter may also have folded it into another constant, or dropped one that no
    output depends on; then it is appended, as float16 if ``half``.
    """
    places = dict(_constants(xml, weights))
    table: dict[str, TensorEntry] = {}
    with weights.open("ab") as file:
        for key, tensor in state.items():
            entry = next(_matches(tensor, places), None)
            if entry is None:
                entry = _append(file, tensor, half)
            table[key] = entry
    return table


def _constants(xml: Path, weights: Path) -> Iterator[tuple[tuple[str, bytes], int]]:
    """Offset of every constant of the graph by element type and fingerprint."""
    data = np.memmap(weights, np.uint8, "r") if weights.stat().st_size else np.zeros(0, np.uint8)
    seen: set[tuple[str, int, int]] = set()
    for layer in ET.parse(xml).iter("layer"):
        attributes = layer.find("data")
        if layer.get("type") != "Const" or attributes is None:
            continue
        kind = _ELEMENTS.get(attributes.get("element_type", ""))
        offset, size = int(attributes.get("offset", 0)), int(attributes.get("size", 0))
        if kind is not None and (kind, offset, size) not in seen:
            seen.add((kind, offset, size))
            yield (kind, fingerprint(data[offset : offset + size])), offset


def _matches(tensor: Tensor, places: Mapping[tuple[str, bytes], int]) -> Iterator[TensorEntry]:
    for values in _stored(tensor):
        for form, transposed in _forms(values):
            offset = places.get((values.dtype.name, fingerprint(form)))
            if offset is not None:
                yield TensorEntry(offset, tuple(tensor.shape), values.dtype.name, transposed)


def _append(file: Any, tensor: Tensor, half: bool) -> TensorEntry:
    *_, values = _stored(tensor) if half else [next(iter(_stored(tensor)))]
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset = file.tell()
    file.write(np.ascontiguousarray(values).data)
    return TensorEntry(offset, tuple(tensor.shape), values.dtype.name)


def _stored(tensor: Tensor) -> Iterable[NDArray[Any]]:
    """The forms in which a tensor may be stored: float32, then float16; whole numbers as they are."""
    if not tensor.is_floating_point():
        return [tensor.detach().cpu().numpy().astype(np.int64)]
    values = _float32(tensor)
    with np.errstate(over="ignore"):
        return [values, values.astype(np.float16)]


def _forms(values: NDArray[Any]) -> Iterator[tuple[NDArray[Any], bool]]:
    yield values, False
    if values.ndim == 2 and min(values.shape) > 1:
        yield values.T, True


def _float32(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().float().numpy()


def stored_bytes(table: Iterable[TensorEntry]) -> int:
    """Bytes of all tensors of a table, each counted once."""
    sizes = {(entry.offset, math.prod(entry.shape) * np.dtype(entry.dtype).itemsize) for entry in table}
    return sum(size for _, size in sizes)
