"""ONNX Runtime, on the CPU or with CUDA: the plan's ONNX graphs over the plan's weights, in fp32.

Needs the extra ``ctfast[onnxruntime]``, and for CUDA onnxruntime-gpu in the place of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from ..manifest_program import onnx_section
from . import Source
from .ir import check_names
from .onnx_graph import OnnxGraph, read_graph

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest

__all__ = ["Opened", "can_use", "lacking"]

_CUDA = "CUDAExecutionProvider"


def can_use(manifest: PlanManifest, device: str) -> str | None:
    """Why this plan cannot run here on ``device``, or None when it can."""
    for module in ("onnxruntime", "onnx"):
        if find_spec(module) is None:
            return f"{module} is not installed. Install it with: pip install 'ctfast[onnxruntime]'"
    if device.startswith("cuda"):
        runtime: Any = import_module("onnxruntime")
        if _CUDA not in runtime.get_available_providers():
            return (
                f"onnxruntime {runtime.__version__} is built without CUDA, and the device asked for is '{device}'. Use "
                "device 'cpu', or install the other build with: pip uninstall onnxruntime; pip install onnxruntime-gpu"
            )
    return lacking(manifest)


def lacking(manifest: PlanManifest) -> str | None:
    """What a plan lacks for its networks to be read, or None."""
    others = [name for name, network in manifest.networks.items() if network.onnx is None]
    if not others:
        return None
    return f"the plan has no ONNX graph of {', '.join(others)}. Build it again with: ctfast build"


class Opened:
    """A plan's networks through ONNX Runtime."""

    name = "onnxruntime"
    on_device = None

    def __init__(self, source: Source) -> None:
        """The plan and how to run it; device "auto" is the CPU."""
        from .. import _native

        self._runtime: Any = import_module("onnxruntime")
        self._native = _native
        self._source = source
        self.device = "cpu" if source.device == "auto" else source.device
        self._threads = source.threads or _native.build_info()["threads"]

    @property
    def versions(self) -> Mapping[str, str]:
        """ONNX Runtime's."""
        return {"onnxruntime": str(self._runtime.__version__)}

    def lacks(self, precision: str) -> str | None:
        """Everything but fp32, which the plan's ONNX graphs are written in."""
        return None if precision == "fp32" else "onnxruntime carries out the plan's ONNX graphs, which are in fp32"

    def precision(self, network: str) -> str:
        """Always fp32."""
        return "fp32"

    def ran_in(self, network: str, session: _native.Session) -> str:
        """Always fp32."""
        return "fp32"

    def element_bytes(self, network: str) -> int:
        """Tensors between stages are float32."""
        return 4

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.Session:
        """Open ``<network>/model.onnx`` over ``<network>/model.bin``; see ``Backend``."""
        session = self._session(network, onnx_section(network), drop)
        check_names(self._source.manifest, network, session, drop)
        return session

    def open_stage(self, network: str, stage: str, half_io: Sequence[str] = ()) -> _native.Session:
        """Open a stage's graph over ``<network>/model.bin``; see ``Backend``."""
        return self._session(network, onnx_section(network, stage), ())

    def _session(self, network: str, section: str, drop: Sequence[str]) -> _native.Session:
        plan = self._source.plan
        where = f"'{section}' of plan '{self._source.manifest.name}'"
        graph = read_graph(where, bytes(plan.section(section)), plan.section(f"{network}/model.bin"), drop)
        try:
            bound = _Bound(self._runtime, graph, self.device, self._options())
        except Exception as error:  # ONNX Runtime's own kinds, of which none is public
            raise DeviceError(f"onnxruntime cannot open {where} on device '{self.device}': {error}") from error
        return self._native.CallableSession(list(graph.inputs), list(graph.outputs), bound.run)

    def _options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        # An arena keeps what the largest run so far took, and grows by doubling. The runtime plans by what a network
        # needs, and other networks want the memory too.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Threads that wait for work must leave the processor to the runtime's own, which work between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


class _Bound:
    """A session with its weights bound once; each run binds what it is given."""

    def __init__(self, runtime: Any, graph: OnnxGraph, device: str, options: Any) -> None:
        kind, _, index = device.partition(":")
        self._place = (kind, int(index or 0))
        provider: Any = "CPUExecutionProvider"
        if kind == "cuda":
            provider = (_CUDA, {"device_id": self._place[1], "arena_extend_strategy": "kSameAsRequested"})
        self._runtime = runtime
        self._graph = graph  # a bound value does not keep the array whose memory it is
        self._session = runtime.InferenceSession(graph.model, options, providers=[provider])
        self._binding = self._session.io_binding()
        self._weights = {name: self._value(array) for name, array in graph.weights.items()}
        for name, value in self._weights.items():
            self._binding.bind_ortvalue_input(name, value)

    def run(self, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """The outputs by name."""
        values = {name: self._value(np.ascontiguousarray(array)) for name, array in given.items()}
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._graph.outputs:
            self._binding.bind_output(name, *self._place)
        self._session.run_with_iobinding(self._binding)
        results = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        return {name: value.numpy() for name, value in zip(self._graph.outputs, results, strict=True)}

    def _value(self, array: NDArray[Any]) -> Any:
        """An array where the session runs; on the CPU its memory is used as it is."""
        return self._runtime.OrtValue.ortvalue_from_numpy(array, *self._place)
