"""An engine that runs: device memory and a stream of CuPy, one execution context, and a CUDA graph of its work."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, RequestError
from .tensorrt_api import Api, Cuda, CudaEngine, Graph, Memory
from .tensorrt_table import Table


class EngineSession:
    """A network or a stage on a GPU; it takes and gives NumPy arrays, and is for one thread at a time.

    A captured graph holds the context's shapes and addresses, and TensorRT forbids to change the context below it. So
    memory and graph are those of the latest shapes, and a run with others makes them anew: the first run with a shape
    is an ordinary one, the second is captured, and later ones replay that.
    """

    def __init__(
        self, api: Api, cuda: Cuda, device: int, engine: CudaEngine, table: Table, drop: Sequence[str], graphs: bool
    ) -> None:
        """``drop``: inputs that stay zero. ``graphs``: whether to capture. DeviceError: no context could be made."""
        self._cuda, self._device, self._table, self._graphs = cuda, device, table, graphs
        self._engine = engine  # the context lives on it
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        taken = [name for name in names if engine.get_tensor_mode(name) == api.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in taken]
        self.inputs = [name for name in taken if name not in drop]
        self._zero = [name for name in taken if name in drop]
        context = engine.create_execution_context(api.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise DeviceError("TensorRT could not make a context to run the engine in; see the log")
        self._context = context
        self._stream = cuda.Stream(non_blocking=True)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._memory: dict[str, Memory] = {}
        self._host: dict[str, NDArray[Any]] = {}
        self._graph: Graph | None = None
        self._warm = False

    def run(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """The outputs by name.

        RequestError: a shape the engine was not built for. DeviceError: the GPU has too little memory, or it failed.
        """
        try:
            with self._cuda.Device(self._device):
                return self._run(given)
        except MemoryError as error:
            self._forget()
            raise DeviceError(f"the GPU has too little memory for shapes {_shown(given)}: {error}") from error
        except self._cuda.runtime.CUDARuntimeError as error:
            self._forget()
            raise DeviceError(f"the GPU failed: {error}") from error

    def _run(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        shapes = {name: tuple(given[name].shape) for name in self.inputs}
        if shapes != self._shapes:
            self._prepare(shapes, {name: given[name].dtype for name in self.inputs})
        for name in self.inputs:
            np.copyto(self._host[name], given[name])
            self._memory[name].copy_from_host_async(*_span(self._host[name]), self._stream)
        self._execute()
        for name in self.outputs:
            self._memory[name].copy_to_host_async(*_span(self._host[name]), self._stream)
        self._stream.synchronize()
        return {name: self._host[name].copy() for name in self.outputs}

    def _execute(self) -> None:
        if self._graph is not None:
            self._graph.launch(self._stream)
        elif self._warm and self._graphs:
            self._stream.begin_capture()
            try:
                self._enqueue()
            finally:
                graph = self._stream.end_capture()
            self._graph = graph
            graph.launch(self._stream)
        else:
            self._enqueue()  # also does what TensorRT puts off until the first run with a shape
            self._warm = True

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.ptr):
            raise DeviceError("TensorRT could not start the engine; see the log")

    def _prepare(self, shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, np.dtype[Any]]) -> None:
        """Memory for these shapes, bound to the context."""
        problem = self._table.problem(shapes)
        if problem is not None:
            raise RequestError(f"{problem}. Ask for a size within that, or build the engines again with a plan of it")
        self._forget()
        every = {**shapes, **{name: self._table.shape(name, shapes) for name in self._zero}}
        for name, shape in every.items():
            if not self._context.set_input_shape(name, shape):
                raise DeviceError(f"TensorRT does not take shape {list(shape)} of input '{name}'; see the log")
        for name in self.outputs:
            every[name] = tuple(self._context.get_tensor_shape(name))
        for name, shape in every.items():
            dtype = types.get(name, np.dtype(np.float32))
            size = math.prod(shape) * dtype.itemsize
            memory = self._memory[name] = self._cuda.alloc(size)
            if name in self._zero:
                memory.memset_async(0, size, self._stream)
            else:
                pinned = self._cuda.alloc_pinned_memory(size)
                self._host[name] = np.frombuffer(pinned, dtype, math.prod(shape)).reshape(shape)
            if not self._context.set_tensor_address(name, memory.ptr):
                raise DeviceError(f"TensorRT does not take memory for '{name}'; see the log")
        scratch = self._context.update_device_memory_size_for_shapes()
        if scratch:
            memory = self._memory[""] = self._cuda.alloc(scratch)
            self._context.set_device_memory(memory.ptr, scratch)
        self._shapes = dict(shapes)

    def _forget(self) -> None:
        """Give up memory and graph; the next run makes them again."""
        self._shapes, self._memory, self._host, self._graph, self._warm = {}, {}, {}, None, False


def _span(array: NDArray[Any]) -> tuple[ctypes.c_void_p, int]:
    return ctypes.c_void_p(array.ctypes.data), array.nbytes


def _shown(given: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in given.items())
