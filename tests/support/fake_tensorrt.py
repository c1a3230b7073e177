"""A stand-in for TensorRT: the names and arguments that ctfast uses, as the bindings of 10.16 and 11.4 have them.

Anything else raises AttributeError, reading and writing. An engine is its ONNX graph, computed by ONNX Runtime, with
what the flags make of it: no weights after STRIP_PLAN until all are given, a version and a GPU it was built for, a
profile. bfloat16, which ONNX Runtime has not on a CPU, is played by float32 with rounded weights.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import json
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from support.fake_cupy import Machine

PHASES = (("Building engine", None, 2), ("Tactic selection", "Building engine", 3))
VERSIONS = ("10.16.1.11", "11.4.0.106")


class _Strict:
    """An object with the public attributes of its class and no others."""

    _settable: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in self._settable:
            raise AttributeError(f"{type(self).__name__} has no settable attribute {name!r}")
        object.__setattr__(self, name, value)


class BuilderFlag(enum.Enum):
    REFIT, STRIP_PLAN, TF32, VERSION_COMPATIBLE, WEIGHT_STREAMING, REFIT_IDENTICAL = range(6)


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT64, INT32, BOOL = range(6)


class HardwareCompatibilityLevel(enum.Enum):
    NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = range(3)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class Weights(_Strict):
    def __init__(self, type: DataType, ptr: int, count: int) -> None:
        size = {DataType.FLOAT: 4, DataType.HALF: 2, DataType.BF16: 2, DataType.INT64: 8, DataType.INT32: 4}.get(
            type, 1
        )
        self._type, self._count, self._ptr, self._bytes = type, count, ptr, size * count

    def _read(self) -> bytes:
        return ctypes.string_at(self._ptr, self._bytes)


_TYPES = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.BFLOAT16: DataType.BF16,
    TensorProto.INT64: DataType.INT64,
    TensorProto.INT32: DataType.INT32,
    TensorProto.BOOL: DataType.BOOL,
}


class _Profile(_Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]


class _Cache(_Strict):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> memoryview:
        return memoryview(self._data)


class _Config(_Strict):
    _settable = frozenset({"progress_monitor", "hardware_compatibility_level"})

    def __init__(self, key: bytes) -> None:
        self.progress_monitor: Any = None
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self._key, self._flags = key, {BuilderFlag.TF32}
        self._profiles: list[_Profile] = []
        self._pools: dict[MemoryPoolType, int] = {}
        self._cache: _Cache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(BuilderFlag(flag))

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(BuilderFlag(flag))

    def add_optimization_profile(self, profile: _Profile) -> int:
        ordered = all(a <= b <= c for each in profile._shapes.values() for a, b, c in zip(*each, strict=True))
        self._profiles.append(profile)
        return len(self._profiles) - 1 if ordered else -1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> _Cache | None:
        return _Cache(bytes(serialized_timing_cache) or self._key)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        if not cache._data.startswith(self._key) and not ignore_mismatch:
            return False
        self._cache = cache
        return True


class _Error(_Strict):
    def __init__(self, text: str, name: str, operator: str) -> None:
        self._told = text, name, operator

    def desc(self) -> str:
        return self._told[0]

    def node_name(self) -> str:
        return self._told[1]

    def node_operator(self) -> str:
        return self._told[2]


class _Network(_Strict):
    def __init__(self, strongly_typed: bool) -> None:
        self._typed = strongly_typed
        self._model: onnx.ModelProto | None = None


class _Parser(_Strict):
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network, self._errors = network, list[_Error]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> _Error:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        loaded = onnx.load(model)
        onnx.checker.check_model(loaded, full_check=True)
        types = {value.name: value.type.tensor_type.elem_type for value in _inferred(loaded)}
        for node in loaded.graph.node:
            if node.op_type == "Resize" and types[node.input[0]] == TensorProto.BFLOAT16:
                self._errors.append(_Error("no BF16 Resize", node.name, node.op_type))
            if node.op_type == "NonZero":
                self._errors.append(_Error("not supported", node.name, node.op_type))
        self._network._model = loaded
        return not self._errors


def _inferred(model: onnx.ModelProto) -> list[Any]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return [*graph.input, *graph.value_info, *graph.output]


class _Engine(_Strict):
    _settable = frozenset({"weight_streaming_budget_v2"})

    def __init__(self, machine: Machine, told: dict[str, Any], model: onnx.ModelProto) -> None:
        self._machine, self._told, self._model = machine, told, model
        self._filled = set() if told["stripped"] else {tensor.name for tensor in model.graph.initializer}
        self._session: Any = None
        weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
        self._streamable = weights if told["streaming"] else 0
        self.weight_streaming_budget_v2 = self._streamable

    @property
    def streamable_weights_size(self) -> int:
        return self._streamable

    @property
    def num_io_tensors(self) -> int:
        return len(self._model.graph.input) + len(self._model.graph.output)

    def get_tensor_name(self, index: int) -> str:
        return [value.name for value in (*self._model.graph.input, *self._model.graph.output)][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if any(v.name == name for v in self._model.graph.input) else TensorIOMode.OUTPUT

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> _Context | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        missing = {tensor.name for tensor in self._model.graph.initializer} - self._filled
        assert not missing, f"a stripped engine is run without {missing}"
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                _without_bfloat16(self._model).SerializeToString(), options, ["CPUExecutionProvider"]
            )
        return _Context(self)


def _without_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index, tensor in enumerate(copy.graph.initializer):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            copy.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    return copy


class _Context(_Strict):
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._at: dict[str, int] = {}
        self._scratch, self._state = 0, 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine._told["profile"][name]
        self._state += 1  # graphs captured before are of no use any more
        self._shapes[name] = tuple(shape)
        return len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        given = {value.name for value in self._engine._model.graph.input}
        if name in given:
            return self._shapes[name]
        inputs = {
            value.name: np.ones(self._shapes[value.name], _dtype(value)) for value in self._engine._model.graph.input
        }
        return tuple(self._engine._session.run([name], inputs)[0].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._state += 1
        self._at[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return 4096

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = size

    def execute_async_v3(self, stream_handle: int) -> bool:
        machine, state = self._engine._machine, self._state

        def work() -> None:
            assert state == self._state, "a graph is launched whose context was changed"
            self._compute()

        if machine.capturing is not None:
            machine.capturing.append(work)
        else:
            work()
        return True

    def _compute(self) -> None:
        assert self._scratch >= 4096, "no memory was given for activations"
        graph = self._engine._model.graph
        inputs = {value.name: self._array(value) for value in graph.input}
        for value, result in zip(graph.output, self._engine._session.run(None, inputs), strict=True):
            data = np.ascontiguousarray(result)
            ctypes.memmove(self._at[value.name], data.ctypes.data, data.nbytes)

    def _array(self, value: Any) -> Any:
        shape, dtype = self._shapes[value.name], _dtype(value)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(self._at[value.name], size), dtype).reshape(shape)


def _dtype(value: Any) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


class _Refitter(_Strict):
    def __init__(self, engine: _Engine, logger: ILogger) -> None:
        assert engine._told["refit"], "the engine was not built to be refitted"
        self._engine = engine
        self._given: dict[str, Weights] = {}

    def get_all_weights(self) -> list[str]:
        return [tensor.name for tensor in self._engine._model.graph.initializer]

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.get_all_weights() if name not in {*self._given, *self._engine._filled}]

    def set_named_weights(self, name: str, weights: Weights) -> bool:
        tensor = next((each for each in self._engine._model.graph.initializer if each.name == name), None)
        if tensor is None or _TYPES[tensor.data_type] is not weights._type or np.prod(tensor.dims) != weights._count:
            return False
        self._given[name] = weights
        return True

    def refit_cuda_engine(self) -> bool:
        for tensor in self._engine._model.graph.initializer:
            if tensor.name in self._given:
                tensor.raw_data = self._given[tensor.name]._read()  # only now: what was pointed to must still be there
        self._engine._filled |= self._given.keys()
        self._engine._session = None
        return True


def module(machine: Machine, version: str = VERSIONS[0], failure: str | None = None) -> ModuleType:
    """A tensorrt for sys.modules; with ``failure`` every build fails and says that."""
    key = f"cache {version} {machine.name}:".encode()

    class Builder(_Strict):
        def __init__(self, logger: ILogger) -> None:
            assert logger._made, "ILogger.__init__ was not called"
            self._logger = logger

        def create_network(self, flags: int = 0) -> _Network:
            return _Network(
                bool(flags & (1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)) or version.startswith("11")
            )

        def create_builder_config(self) -> _Config:
            return _Config(key)

        def create_optimization_profile(self) -> _Profile:
            return _Profile()

        def build_serialized_network(self, network: _Network, config: _Config) -> memoryview | None:
            if failure is not None:
                self._logger.log(Severity.ERROR, failure)
                return None
            monitor = config.progress_monitor
            assert monitor._made, "IProgressMonitor.__init__ was not called"
            for phase, parent, steps in PHASES:
                monitor.phase_start(phase, parent, steps)
                for step in range(steps):
                    if not monitor.step_complete(phase, step):
                        return None
                monitor.phase_finish(phase)
            assert network._typed
            assert network._model is not None
            if config._cache is not None:
                config._cache._data += b"."
            return memoryview(_serialised(network._model, config, machine, version))

    class Runtime(_Strict):
        _settable = frozenset({"engine_host_code_allowed"})

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine: Any) -> _Engine | None:
            try:
                told = json.loads(bytes(serialized_engine))
            except ValueError:
                self._logger.log(Severity.ERROR, "Serialization assertion magicTag failed")
                return None
            assert told["compatible"] <= self.engine_host_code_allowed
            if told["version"] != version and not told["compatible"]:
                self._logger.log(Severity.ERROR, "Version tag does not match")
                return None
            model = onnx.ModelProto.FromString(base64.b64decode(told["model"]))
            return _Engine(machine, told, model)

    made = ModuleType("tensorrt")
    made.__spec__ = ModuleSpec("tensorrt", None)
    names: dict[str, Any] = {
        **{each.__name__: each for each in (BuilderFlag, DataType, HardwareCompatibilityLevel, MemoryPoolType)},
        **{
            each.__name__: each
            for each in (TensorIOMode, ExecutionContextAllocationStrategy, ILogger, IProgressMonitor)
        },
        **{each.__name__: each for each in (NetworkDefinitionCreationFlag, Builder, Runtime, Weights)},
        **{"OnnxParser": _Parser, "Refitter": _Refitter, "__version__": version},
    }
    vars(made).update(names)
    return made


def _serialised(model: onnx.ModelProto, config: _Config, machine: Machine, version: str) -> bytes:
    flags = config._flags
    stripped = BuilderFlag.STRIP_PLAN in flags
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    for tensor in kept.graph.initializer:
        data = numpy_helper.to_array(tensor).tobytes()
        for field in ("float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
        tensor.raw_data = bytes(len(data)) if stripped else data
    told = {
        "model": base64.b64encode(kept.SerializeToString()).decode(),
        "version": version,
        "machine": machine.name,
        "stripped": stripped,
        "refit": BuilderFlag.REFIT in flags,
        "compatible": BuilderFlag.VERSION_COMPATIBLE in flags,
        "streaming": BuilderFlag.WEIGHT_STREAMING in flags,
        "tf32": BuilderFlag.TF32 in flags,
        "hardware": config.hardware_compatibility_level.name,
        "workspace": config._pools.get(MemoryPoolType.WORKSPACE),
        "profile": config._profiles[0]._shapes,
    }
    return json.dumps(told).encode()


def modelopt(calls: list[str]) -> ModuleType:
    """ModelOpt's quantisation, which leaves the graph as it is; the arguments are those of 0.47 that ctfast gives."""

    def quantize(
        onnx_path: str,
        quantize_mode: str = "int8",
        calibration_data: Any = None,
        calibration_method: str | None = None,
        use_external_data_format: bool = False,
        output_path: str | None = None,
        high_precision_dtype: str = "fp16",
    ) -> None:
        model = onnx.load(onnx_path)
        assert quantize_mode == "fp8"
        assert output_path is not None
        for value in model.graph.input:
            assert calibration_data[value.name].dtype == _dtype(value)
            assert calibration_data[value.name].ndim == len(value.type.tensor_type.shape.dim)
        calls.append(onnx_path)
        onnx.save_model(model, output_path)

    made = ModuleType("modelopt.onnx.quantization")
    vars(made)["quantize"] = quantize
    return made
