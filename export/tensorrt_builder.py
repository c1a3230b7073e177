"""TensorRT's builder: an ONNX file to an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctfast.backends.tensorrt_api import Api, BuilderConfig, load_cuda, logger_of
from ctfast.errors import CancelledError, DeviceError
from ctfast.export.tensorrt_profiles import Range
from ctfast.export.tensorrt_reasons import explained
from ctfast.observer import Observer

#: What engines can be built to run on, beside GPUs of the same model.
HARDWARE = ("none", "same_compute_capability", "ampere_plus")

_log = logging.getLogger("ctfast")


@dataclass(frozen=True)
class BuildSettings:
    """What all engines of a plan are built with; ``memory`` in bytes, None for no limit."""

    hardware: str
    version_compatible: bool
    weight_streaming: bool
    memory: int | None


class EngineBuilder:
    """Builds engines one after the other; ``cache`` is what was measured so far."""

    def __init__(self, api: Api, device: str, settings: BuildSettings, cache: bytes) -> None:
        self._api, self._settings = api, settings
        self._device = int(device.partition(":")[2] or 0)
        self._said: list[str] = []
        self._logger = logger_of(api, self._listen)
        self.cache = cache

    def build(
        self, graph: Path, ranges: Mapping[str, Range], refit: bool, path: Path, stage: str, watch: Observer
    ) -> None:
        """Build an engine of an ONNX file.

        Args:
            graph: The file; its weights are beside it.
            ranges: Shapes of its inputs.
            refit: Leave the weights out of the engine, to be put in when it is loaded.
            path: The file to write.
            stage: What the observer is told.
            watch: The observer, called in TensorRT's threads.

        Raises:
            DeviceError: TensorRT cannot build it; the message has TensorRT's last words.
            CancelledError: The observer wanted to stop.
        """
        api = self._api
        self._said.clear()
        with load_cuda().Device(self._device):
            builder = api.Builder(self._logger)
            network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            self._parse(network, graph, stage)
            config = builder.create_builder_config()
            self._configure(config, refit)
            profile = builder.create_optimization_profile()
            for name, each in ranges.items():
                profile.set_shape(name, each.low, each.usual, each.high)
            if config.add_optimization_profile(profile) < 0:
                raise DeviceError(f"TensorRT does not take the sizes of '{stage}': {self._reason()}")
            cache = config.create_timing_cache(self.cache)
            if cache is None or not config.set_timing_cache(cache, False):
                _log.warning("the timing cache was made with another GPU, driver or TensorRT; a new one is begun")
                cache = config.create_timing_cache(b"")
                if cache is not None:
                    config.set_timing_cache(cache, False)
            monitor = _monitor(api, stage, watch)
            config.progress_monitor = monitor
            engine = builder.build_serialized_network(network, config)
            monitor.raise_if_stopped()
            if engine is None:
                raise DeviceError(f"TensorRT could not build '{stage}': {self._reason()}")
            path.write_bytes(engine)
            if cache is not None:
                self.cache = bytes(cache.serialize())

    def _parse(self, network: Any, graph: Path, stage: str) -> None:
        parser = self._api.OnnxParser(network, self._logger)
        if parser.parse_from_file(str(graph)):
            return
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        told = "; ".join(f"{each.node_operator()} '{each.node_name()}': {each.desc()}" for each in errors[:3])
        raise DeviceError(
            f"TensorRT {self._api.__version__} cannot read the graph of '{stage}': {told or self._reason()}"
        )

    def _configure(self, config: BuilderConfig, refit: bool) -> None:
        flags, settings = self._api.BuilderFlag, self._settings
        config.clear_flag(flags.TF32)  # float32 means float32; it is bf16 and fp16 that are for speed
        if refit:
            config.set_flag(flags.REFIT)
            config.set_flag(flags.STRIP_PLAN)
        if settings.version_compatible:
            config.set_flag(flags.VERSION_COMPATIBLE)
        if settings.weight_streaming:
            config.set_flag(flags.WEIGHT_STREAMING)
        if settings.hardware != "none":
            level = getattr(self._api.HardwareCompatibilityLevel, settings.hardware.upper(), None)
            if level is None:
                raise DeviceError(
                    f"TensorRT {self._api.__version__} has no hardware compatibility '{settings.hardware}'. Update it, "
                    "or use 'ampere_plus'"
                )
            config.hardware_compatibility_level = level
        if settings.memory is not None:
            config.set_memory_pool_limit(self._api.MemoryPoolType.WORKSPACE, settings.memory)

    def _reason(self) -> str:
        """What was said last, and before it what that means, if it is one of the usual things."""
        return explained(" | ".join(self._said[-3:]) or "it gave no reason")

    def _listen(self, severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._said.append(message)
        _log.log(logging.INFO if severity == "WARNING" else logging.DEBUG, "TensorRT: %s", message)


def _monitor(api: Api, stage: str, watch: Observer) -> Any:
    """A progress monitor that asks an observer; no exception may leave it, as it is called from C++."""

    class Monitor(api.IProgressMonitor):  # type: ignore[name-defined, misc]  # a class of a module that is loaded late
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)  # as pybind11 wants it of subclasses
            self.steps: dict[str, int] = {}
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self.error is None:
                try:
                    told = f"{stage}: {phase_name}"
                    if not watch(told, step + 1, self.steps.get(phase_name, step + 1)):
                        self.error = CancelledError(f"cancelled while TensorRT built '{stage}'")
                except BaseException as error:
                    self.error = error
            return self.error is None

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def raise_if_stopped(self) -> None:
            if self.error is not None:
                raise self.error

    return Monitor()
