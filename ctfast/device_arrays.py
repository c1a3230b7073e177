"""Arrays of other libraries on a CUDA device (torch, CuPy), as pointers: DLPack, or else the CUDA array interface."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

# Devices of DLPack whose memory a CUDA kernel reads: CUDA, and CUDA's managed memory.
CUDA_DEVICES = frozenset({2, 13})

_DLPACK_TYPES = {
    (0, 16): "i16", (0, 32): "i32", (0, 64): "i64", (1, 8): "u8", (1, 16): "u16", (1, 32): "u32", (1, 64): "u64",
    (2, 32): "f32", (2, 64): "f64", (4, 16): "bf16", (6, 8): "u8",
}  # fmt: skip
_INTERFACE_TYPES = {
    "<i2": "i16", "<i4": "i32", "<i8": "i64", "|u1": "u8", "<u2": "u16", "<u4": "u32", "<u8": "u64",
    "<f4": "f32", "<f8": "f64", "|b1": "u8",
}  # fmt: skip


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """DLTensor, of which DLPack's managed tensor is the beginning."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class DeviceArray:
    """Memory that somebody else owns; strides count elements, ``device`` is None where the array does not say."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int | None

    @property
    def size(self) -> int:
        """How many elements it has."""
        return _product(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether elements lie one behind the other, the last axis closest."""
        return self.size == 0 or all(
            extent == 1 or stride == wanted
            for extent, stride, wanted in zip(self.shape, self.strides, row_major(self.shape), strict=True)
        )


def device_array(what: str, value: Any) -> DeviceArray:
    """Where an array lies; it has to outlive what is done there.

    Nothing is waited for: work goes into the stream that the array was made in.

    Args:
        what: Its name in messages.
        value: A torch tensor, a CuPy array, or anything with ``__dlpack__`` or ``__cuda_array_interface__``.

    Raises:
        ValueError: It is not on a CUDA device, or has a type that no kernel takes.
    """
    if hasattr(value, "__dlpack__"):
        kind, index = value.__dlpack_device__()
        if int(kind) not in CUDA_DEVICES:
            raise ValueError(f"{what}: expected an array on a CUDA device, found one on DLPack device {int(kind)}")
        return _from_dlpack(what, value, int(index))
    if hasattr(value, "__cuda_array_interface__"):
        return _from_interface(what, value.__cuda_array_interface__)
    raise ValueError(f"{what}: expected a torch tensor or a CuPy array, found {type(value).__name__}")


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array."""
    return tuple(_product(shape[axis + 1 :]) for axis in range(len(shape)))


def _from_dlpack(what: str, value: Any, index: int) -> DeviceArray:
    # -1: no synchronisation. The capsule is not taken over, and lets go of the array at the end of this function.
    capsule = value.__dlpack__(stream=-1)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(get_pointer(capsule, b"dltensor"))
    key = (tensor.dtype.code, tensor.dtype.bits)
    if key not in _DLPACK_TYPES or tensor.dtype.lanes != 1:
        raise ValueError(f"{what}: no kernel takes elements of DLPack type {key[0]} with {key[1]} bits")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else row_major(shape)
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, strides, _DLPACK_TYPES[key], index)


def _from_interface(what: str, about: dict[str, Any]) -> DeviceArray:
    if about["typestr"] not in _INTERFACE_TYPES:
        raise ValueError(f"{what}: no kernel takes elements of type {about['typestr']}")
    shape = tuple(about["shape"])
    width = int(about["typestr"][2:])
    steps = about.get("strides")
    strides = row_major(shape) if steps is None else tuple(step // width for step in steps)
    return DeviceArray(int(about["data"][0]), shape, strides, _INTERFACE_TYPES[about["typestr"]], None)


def _product(extents: tuple[int, ...]) -> int:
    result = 1
    for extent in extents:
        result *= extent
    return result
