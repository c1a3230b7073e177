"""What ctfast uses of TensorRT 10 and 11 and of CuPy, as types: neither is imported until it is needed.

The names and arguments are those of TensorRT's Python API in 10.3 and later and in 11; what only one of the two has is
not used. Calls that a type checker passes here are calls that the library has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, cast


class Flags(Protocol):
    """tensorrt.BuilderFlag."""

    REFIT: Any
    STRIP_PLAN: Any
    TF32: Any
    VERSION_COMPATIBLE: Any
    WEIGHT_STREAMING: Any


class Profile(Protocol):
    """tensorrt.IOptimizationProfile."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """The shapes that an input may have, and the one to be fast at."""


class TimingCache(Protocol):
    """tensorrt.ITimingCache."""

    def serialize(self) -> Any:
        """An IHostMemory, which is a buffer."""


class BuilderConfig(Protocol):
    """tensorrt.IBuilderConfig."""

    progress_monitor: Any
    hardware_compatibility_level: Any

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Bytes that the pool may take."""

    def set_flag(self, flag: Any) -> None:
        """Switch a BuilderFlag on."""

    def clear_flag(self, flag: Any) -> None:
        """Switch a BuilderFlag off."""

    def add_optimization_profile(self, profile: Profile) -> int:
        """The profile's index, -1 if it is wrong."""

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        """A cache; of no bytes an empty one."""

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """Whether the cache is of this GPU, driver and version."""


class ParserError(Protocol):
    """tensorrt.ParserError."""

    def desc(self) -> str:
        """What is wrong."""

    def node_name(self) -> str:
        """With which node."""

    def node_operator(self) -> str:
        """The node's type."""


class OnnxParser(Protocol):
    """tensorrt.OnnxParser."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool:
        """Read a file; external weights are looked for beside it."""

    def get_error(self, index: int) -> ParserError:
        """One of the errors."""


class Builder(Protocol):
    """tensorrt.Builder."""

    def create_network(self, flags: int = 0) -> Any:
        """An empty INetworkDefinition."""

    def create_builder_config(self) -> BuilderConfig:
        """How to build."""

    def create_optimization_profile(self) -> Profile:
        """An empty profile."""

    def build_serialized_network(self, network: Any, config: BuilderConfig) -> Any:
        """The engine as an IHostMemory, or None if there is none; then the log says why."""


class Context(Protocol):
    """tensorrt.IExecutionContext."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the shape fits the profile."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """The shape with the inputs' shapes that were set."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies on the device."""

    def update_device_memory_size_for_shapes(self) -> int:
        """Bytes that the activations take with the inputs' shapes that were set."""

    def set_device_memory(self, memory: int, size: int) -> None:
        """Where the activations go."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Start; False if it could not be."""


class CudaEngine(Protocol):
    """tensorrt.ICudaEngine."""

    num_io_tensors: int
    streamable_weights_size: int
    weight_streaming_budget_v2: int

    def get_tensor_name(self, index: int) -> str:
        """An input or output."""

    def get_tensor_mode(self, name: str) -> Any:
        """Which of the two: a TensorIOMode."""

    def create_execution_context(self, strategy: Any) -> Context | None:
        """A context; the log says why there is none."""


class Refitter(Protocol):
    """tensorrt.Refitter."""

    def get_all_weights(self) -> list[str]:
        """Names of all that can be given."""

    def get_missing_weights(self) -> list[str]:
        """Names of those that must be given, and were not."""

    def set_named_weights(self, name: str, weights: Any) -> bool:
        """Whether there is such, of that type and size. What they point to must live until the next call."""

    def refit_cuda_engine(self) -> bool:
        """Put the weights into the engine."""


class Runtime(Protocol):
    """tensorrt.Runtime."""

    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, serialized_engine: Any) -> CudaEngine | None:
        """The engine, or None; then the log says why."""


class Api(Protocol):
    """The module tensorrt."""

    __version__: str
    BuilderFlag: Flags
    DataType: Any
    ExecutionContextAllocationStrategy: Any
    HardwareCompatibilityLevel: Any
    ILogger: Any
    IProgressMonitor: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    TensorIOMode: Any
    Builder: Callable[[Any], Builder]
    OnnxParser: Callable[[Any, Any], OnnxParser]
    Refitter: Callable[[CudaEngine, Any], Refitter]
    Runtime: Callable[[Any], Runtime]
    Weights: Callable[[Any, int, int], Any]


class Memory(Protocol):
    """cupy.cuda.MemoryPointer; PinnedMemoryPointer has ``ptr`` too, and is a buffer."""

    ptr: int

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """``mem`` is a ctypes.c_void_p."""

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """``mem`` is a ctypes.c_void_p."""

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        """``value`` is a byte."""


class Graph(Protocol):
    """cupy.cuda.graph.Graph."""

    def launch(self, stream: Any = None) -> None:
        """Start what was captured."""


class Stream(Protocol):
    """cupy.cuda.Stream."""

    ptr: int

    def synchronize(self) -> None:
        """Wait for all of it."""

    def begin_capture(self, mode: Any = None) -> None:
        """Take down what follows, and do not do it."""

    def end_capture(self) -> Graph:
        """What was taken down."""


class Device(AbstractContextManager[Any], Protocol):
    """cupy.cuda.Device."""

    compute_capability: str


class CudaRuntime(Protocol):
    """cupy.cuda.runtime."""

    CUDARuntimeError: type[Exception]

    def getDeviceCount(self) -> int:
        """How many GPUs there are; CUDARuntimeError without a driver."""

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        """With "name" as bytes."""


class Cuda(Protocol):
    """The module cupy.cuda."""

    runtime: CudaRuntime
    Device: Callable[[int], Device]
    Stream: Any

    def alloc(self, size: int) -> Memory:
        """Memory on the current device; MemoryError if there is none."""

    def alloc_pinned_memory(self, size: int) -> Any:
        """Memory of the host that a device can copy to and from."""


def load_api() -> Api:
    """The installed TensorRT."""
    return cast(Api, import_module("tensorrt"))


def load_cuda() -> Cuda:
    """The installed CuPy's CUDA."""
    return cast(Cuda, import_module("cupy.cuda"))


def logger_of(api: Api, sink: Callable[[str, str], None]) -> Any:
    """A TensorRT logger that gives the name of the severity and the message to ``sink``."""

    class Logger(api.ILogger):  # type: ignore[name-defined, misc]  # a class of a module that is loaded late
        def __init__(self) -> None:
            api.ILogger.__init__(self)  # as pybind11 wants it of subclasses

        def log(self, severity: Any, msg: str) -> None:
            sink(str(severity.name), msg)

    return Logger()
