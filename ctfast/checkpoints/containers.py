"""The two file formats of weights, memory-mapped: torch's zip archives and safetensors."""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctfast.checkpoints.pickled import TensorRef, read_pickle
from ctfast.errors import CheckpointError

#: Largest table of contents that is read (the official files' are below 1 MB).
MAX_CONTENTS = 64 << 20

_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

#: What zipfile raises for archives that are damaged, encrypted or compressed in unknown ways.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


def _view(storage: torch.UntypedStorage, ref_dtype: torch.dtype, offset: int, shape: Any, stride: Any) -> Tensor:
    """A tensor over a storage; the extent is checked here because torch would enlarge a storage that is too small."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if all(shape) and (last + 1) * ref_dtype.itemsize > storage.nbytes():
        raise CheckpointError("a tensor reaches beyond its storage; copy or download the file again")
    return torch.empty(0, dtype=ref_dtype).set_(storage, offset, shape, stride)


class MappedFile:
    """A file mapped into memory, privately: writing to a tensor never changes the file."""

    def __init__(self, path: Path) -> None:
        """Map all of ``path``; pages are read when they are touched."""
        self.size = path.stat().st_size
        self._storage = torch.UntypedStorage.from_file(str(path), False, self.size)

    def storage(self, start: int, size: int, alignment: int) -> torch.UntypedStorage:
        """``size`` bytes from ``start``: a view, or a copy where the address is no multiple of ``alignment``."""
        if start < 0 or size < 0 or start + size > self.size:
            raise CheckpointError("a tensor lies beyond the end of the file, which is truncated; download it again")
        part: torch.UntypedStorage = self._storage[start : start + size]
        return part if start % alignment == 0 else part.clone()


class TorchZip:
    """A checkpoint as torch.save has written it since 1.6: a zip archive of a pickle and one entry per storage."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` and read its table of contents, no tensor.

        Raises:
            CheckpointError: No readable archive of weights.
        """
        self._mapped = MappedFile(path)
        self._path = path
        self._cache: dict[str, torch.UntypedStorage] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                self._entries = {entry.filename: entry for entry in archive.infolist()}
                self._root = self._find_root()
                self.contents = read_pickle(self._small(archive, "data.pkl"))
                if f"{self._root}byteorder" in self._entries and self._small(archive, "byteorder") != b"little":
                    raise CheckpointError("it was written on a big-endian machine; save it again on another")
        except _DAMAGE as problem:
            raise CheckpointError(f"its archive is damaged or cut short ({problem}); download it again") from problem

    def tensor(self, ref: TensorRef) -> Tensor:
        """The tensor that ``ref`` stands for, mapped from the file."""
        name = f"{self._root}data/{ref.storage.key}"
        if name not in self._cache:
            self._cache[name] = self._storage(name, (ref.storage.dtype or ref.dtype).itemsize)
        count = ref.storage.count * (ref.storage.dtype.itemsize if ref.storage.dtype else 1)
        if self._cache[name].nbytes() < count:
            raise CheckpointError(f"the storage {name} is shorter than it should be; download the file again")
        return _view(self._cache[name], ref.dtype, ref.offset, ref.shape, ref.stride)

    def _find_root(self) -> str:
        roots = [name[: -len("data.pkl")] for name in self._entries if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise CheckpointError("it is a zip archive, but not one of weights; unpack it if they are inside")
        if any(name.startswith(f"{roots[0]}code/") for name in self._entries):
            raise CheckpointError("it is a TorchScript program, not weights; save the module's state dict instead")
        return roots[0]

    def _small(self, archive: zipfile.ZipFile, name: str) -> bytes:
        entry = self._entries[self._root + name]
        if entry.file_size > MAX_CONTENTS:
            raise CheckpointError(f"its {name} has {entry.file_size} bytes, more than any honest checkpoint's")
        return archive.read(entry)

    def _storage(self, name: str, alignment: int) -> torch.UntypedStorage:
        if name not in self._entries:
            raise CheckpointError(f"the storage {name} is not in the archive; download the file again")
        entry = self._entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:  # packed again by another tool
            try:
                with zipfile.ZipFile(self._path) as archive:
                    unpacked = bytearray(archive.read(entry))
            except _DAMAGE as problem:
                raise CheckpointError(f"the entry {name} of its archive is damaged ({problem})") from problem
            return torch.frombuffer(unpacked or bytearray(1), dtype=torch.uint8).untyped_storage()
        with self._path.open("rb") as file:
            file.seek(entry.header_offset)
            header = file.read(30)
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"the entry {name} of its archive is damaged; download it again")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = entry.header_offset + 30 + name_length + extra_length
        return self._mapped.storage(start, entry.file_size, alignment)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, mapped, and its metadata.

    Raises:
        CheckpointError: The header is damaged or a tensor lies outside the file.
    """
    mapped = MappedFile(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_CONTENTS, mapped.size - 8):
            raise CheckpointError("its header is damaged or cut short; download it again")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        tensors = {}
        for name, entry in header.items():
            dtype, (begin, end) = _SAFETENSORS[entry["dtype"]], entry["data_offsets"]
            shape = [int(n) for n in entry["shape"]]
            if begin < 0 or min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} has {end - begin} bytes for the shape {shape}")
            storage = mapped.storage(8 + length + begin, end - begin, dtype.itemsize)
            tensors[name] = _view(storage, dtype, 0, shape, [math.prod(shape[i + 1 :]) for i in range(len(shape))])
        return tensors, {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise CheckpointError(f"its header is damaged ({problem!r}); download it again") from problem
