"""Reads the pickle inside a torch checkpoint as plain data: nothing that it names is imported, nothing runs.

Tensors come back as references into the file's storages; the few other globals that honest checkpoints hold are mapped
to harmless stand-ins, and any other is refused by name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ctfast.errors import CheckpointError


@dataclass(frozen=True)
class StorageRef:
    """A storage of the archive: the entry ``data/<key>``, its element type (None: bytes) and its number of elements."""

    key: str
    dtype: torch.dtype | None
    count: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor of the file, not yet read: a view of a storage. Offset and strides count elements of ``dtype``."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Opaque:
    """Stands for a value that carries nothing a network needs: metadata of images, enums, arrays in metadata."""

    def __init__(self, *args: object) -> None:
        """Take and forget whatever the file hands over."""

    def __setstate__(self, state: object) -> None:
        """Forget the state too."""


class ElementType(Opaque):
    """A NumPy element type by its code, such as "f4"."""

    def __init__(self, code: object = None, *flags: object) -> None:
        """Keep the code; byte order is checked where a value is read."""
        self.code = code


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": None,
}


@dataclass(frozen=True)
class StorageType:
    """A storage class that the file names."""

    dtype: torch.dtype | None


def _whole(*values: object) -> tuple[int, ...]:
    for value in values:
        if type(value) is not int or value < 0:
            raise ValueError(f"expected a whole number, found {value!r}")
    return tuple(value for value in values if isinstance(value, int))


def _tensor(storage: object, offset: object, shape: Any, stride: Any, *ignored: object) -> TensorRef:
    """What ``torch._utils._rebuild_tensor_v2`` would make."""
    if not isinstance(storage, StorageRef) or storage.dtype is None:
        raise ValueError("a tensor without a typed storage")
    return TensorRef(storage, storage.dtype, _whole(offset)[0], _whole(*shape), _whole(*stride))


def _typed_tensor(
    storage: object, offset: object, shape: Any, stride: Any, grad: object, hooks: object, dtype: object, *more: object
) -> TensorRef:
    """What ``torch._utils._rebuild_tensor_v3`` would make."""
    if not isinstance(storage, StorageRef) or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor without storage or element type")
    return TensorRef(storage, dtype, _whole(offset)[0], _whole(*shape), _whole(*stride))


def _parameter(data: object, *ignored: object) -> object:
    """A parameter is its tensor."""
    return data


def _subclass(rebuild: Callable[..., object], kind: object, args: Any, state: object) -> object:
    """A tensor of a subclass (MONAI's MetaTensor) is its plain tensor."""
    if rebuild not in (_tensor, _typed_tensor):
        raise ValueError("an unknown way to rebuild a tensor")
    return rebuild(*args)


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _scalar(kind: object, data: object = b"") -> float | int | bool:
    """A NumPy number as Python's."""
    if not isinstance(kind, ElementType) or kind.code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"):
        raise ValueError("a NumPy value that is no number")
    value: float | int | bool = np.frombuffer(data, dtype="<" + kind.code)[0].item()  # type: ignore[call-overload]
    return value


def _texts(*parts: object) -> str:
    """A device, for which nobody asks."""
    return ":".join(map(str, parts))


def _member(*given: object) -> Opaque:
    """A member of an enum as the first releases of Python 3.11 write it, getattr(class, name). No attribute is read."""
    if len(given) != 2 or given[0] is not Opaque or not isinstance(given[1], str):
        raise _refusal("builtins", "getattr")
    return Opaque()


def _refusal(module: str, name: str) -> CheckpointError:
    module = module.replace("__builtin__", "builtins")  # protocol 2 uses the old name
    return CheckpointError(
        f"it asks for {module}.{name}, which is not needed to hold weights and is never loaded; if you trust the file, "
        "load it with torch where it was made and save the state dict alone"
    )


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "getattr"): _member,
    ("__builtin__", "getattr"): _member,
    ("_codecs", "encode"): _encoded,
    ("torch", "Size"): tuple,
    ("torch", "device"): _texts,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    ("monai.data.meta_tensor", "MetaTensor"): Opaque,
    ("numpy", "dtype"): ElementType,
    ("numpy", "ndarray"): Opaque,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Opaque for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global; no module is ever imported."""
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return StorageType(_STORAGES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "monai.utils.enums":
            return Opaque
        raise _refusal(module, name)

    def persistent_load(self, pid: Any) -> StorageRef:
        """A reference to one of the archive's storages."""
        tag, kind, key, _location, count = pid
        if tag != "storage" or not isinstance(kind, StorageType) or not isinstance(key, str):
            raise ValueError("an unknown kind of storage")
        return StorageRef(key, kind.dtype, _whole(count)[0])


def read_pickle(data: bytes) -> object:
    """The object a checkpoint's ``data.pkl`` describes, made of plain values, TensorRef and Opaque.

    Raises:
        CheckpointError: The pickle is damaged or asks for anything beyond tensors and plain values.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # Python's reader makes its memo as long as the largest index says: 32 GB for a few altered bytes.
            if "PUT" in opcode.name and int(argument or 0) > len(data):
                raise CheckpointError("its table of contents is damaged; copy or download it again")
        return _Unpickler(io.BytesIO(data)).load()
    except CheckpointError:
        raise
    except Exception as problem:  # whatever a damaged pickle makes Python's reader or a stand-in stumble over
        raise CheckpointError(f"its table of contents is damaged ({problem}); copy or download it again") from problem
