"""A stand-in for the part of CuPy that ctfast uses: device memory is the host's, streams do things at once.

It has the names and arguments of CuPy 13 and nothing else, so what CuPy does not have raises AttributeError here too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

NAME, CAPABILITY = "NVIDIA H200", "90"


class CUDARuntimeError(RuntimeError):
    pass


class Machine:
    """The GPUs of the machine that is played, what was allocated on them, and what is being captured."""

    def __init__(self, count: int = 1, name: str = NAME, capability: str = CAPABILITY, limit: int = 1 << 40) -> None:
        self.count, self.name, self.capability, self.limit = count, name, capability, limit
        self.current = 0
        self.capturing: list[Callable[[], None]] | None = None
        self.captures = self.launches = 0
        self.allocated: list[int] = []


class _Memory:
    __slots__ = ("_array", "ptr")

    def __init__(self, size: int) -> None:
        self._array = np.full(size, 0xA5, np.uint8)  # memory is not zero before somebody made it so
        self.ptr = self._array.ctypes.data

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        assert size <= self._array.nbytes
        ctypes.memmove(self.ptr, mem, size)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        assert size <= self._array.nbytes
        ctypes.memmove(mem, self.ptr, size)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        ctypes.memset(self.ptr, value, size)


class _Graph:
    __slots__ = ("_machine", "_work")

    def __init__(self, machine: Machine, work: list[Callable[[], None]]) -> None:
        self._machine, self._work = machine, work

    def launch(self, stream: Any = None) -> None:
        self._machine.launches += 1
        for step in self._work:
            step()


def modules(machine: Machine) -> dict[str, ModuleType]:
    """What goes into sys.modules: "cupy" and "cupy.cuda"."""

    class Device:
        def __init__(self, device: int) -> None:
            if not 0 <= device < machine.count:
                raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
            self._index, self._before = device, -1

        @property
        def compute_capability(self) -> str:
            return machine.capability

        def __enter__(self) -> Device:
            self._before, machine.current = machine.current, self._index
            return self

        def __exit__(self, *_: object) -> None:
            machine.current = self._before

    class Stream:
        __slots__ = ("ptr",)

        def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
            self.ptr = id(self)

        def synchronize(self) -> None:
            assert machine.capturing is None, "a stream that is being captured cannot be waited for"

        def begin_capture(self, mode: Any = None) -> None:
            machine.capturing = []

        def end_capture(self) -> _Graph:
            assert machine.capturing is not None
            work, machine.capturing = machine.capturing, None
            machine.captures += 1
            return _Graph(machine, work)

    def count() -> int:
        if machine.count == 0:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return machine.count

    def properties(device: int) -> dict[str, Any]:
        return {"name": machine.name.encode()}

    def alloc(size: int) -> _Memory:
        assert machine.capturing is None, "memory cannot be allocated while a stream is captured"
        if size > machine.limit:
            raise MemoryError(f"Out of memory allocating {size:,} bytes")
        machine.allocated.append(size)
        return _Memory(size)

    def alloc_pinned_memory(size: int) -> Any:
        return bytearray(size)

    cupy, cuda, runtime = (_module(name) for name in ("cupy", "cupy.cuda", "cupy.cuda.runtime"))
    runtime.CUDARuntimeError = CUDARuntimeError
    runtime.getDeviceCount, runtime.getDeviceProperties = count, properties
    cuda.runtime, cuda.Device, cuda.Stream = runtime, Device, Stream
    cuda.alloc, cuda.alloc_pinned_memory = alloc, alloc_pinned_memory
    cupy.cuda = cuda
    return {"cupy": cupy, "cupy.cuda": cuda}


def _module(name: str) -> Any:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module
