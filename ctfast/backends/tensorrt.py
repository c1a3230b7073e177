"""TensorRT on an NVIDIA GPU: the plan's engines, whose weights come from the plan's own ``model.bin``.

Needs the extra ``ctfast[tensorrt]``. docs/tensorrt.md says how engines are made; none of this has run on a GPU yet, and
docs/support_matrix.md says what was checked instead.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError, PlanError
from ..manifest_program import engine_section
from . import Source
from .ir import check_names
from .tensorrt_api import Api, CudaEngine, load_api, load_cuda, logger_of
from .tensorrt_fit import mismatch, numbers
from .tensorrt_session import EngineSession
from .tensorrt_table import TYPES, Table

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest, TensorRT

__all__ = ["BUDGET", "OLDEST", "Opened", "can_use", "gpu", "lacking"]

#: Engines are built and run with this version or a later one.
OLDEST = (10, 3)
#: Environment variable: bytes of weights that stay on the GPU, for engines built with weight streaming.
BUDGET = "CTFAST_TENSORRT_WEIGHT_BUDGET"

_AGAIN = "Build the engines again on this machine: ctfast build PLAN --backend tensorrt -o NEW_PLAN"
_INSTALL = "Install them with: pip install 'ctfast[tensorrt]'"

_log = logging.getLogger("ctfast")


def lacking(manifest: PlanManifest) -> str | None:
    """What a plan lacks for its networks to be run, or None."""
    others = [name for name, network in manifest.networks.items() if network.tensorrt is None]
    if not others:
        return None
    return (
        f"the plan has no TensorRT engine of {', '.join(others)}. Make them on the machine with the GPU: "
        "pip install 'ctfast[export,tensorrt]' and ctfast build PLAN --backend tensorrt -o NEW_PLAN"
    )


def can_use(manifest: PlanManifest, device: str) -> str | None:
    """Why this plan cannot run here on ``device``, or None when it can."""
    if device == "cpu":
        return "it runs on NVIDIA GPUs only, and the device asked for is 'cpu'. Use device 'cuda'"
    missing = lacking(manifest)
    if missing is not None:
        return missing
    reason = gpu_problem(device)
    if reason is not None:
        return reason
    version, (name, capability) = load_api().__version__, gpu(device)
    for network, entry in manifest.networks.items():
        assert entry.tensorrt is not None  # lacking() saw to it
        problem = mismatch(entry.tensorrt, version, name, capability)
        if problem is not None:
            return f"the engine of '{network}' {problem}. {_AGAIN}"
    return None


def gpu_problem(device: str) -> str | None:
    """Why there is no TensorRT, or no such GPU, or None; nothing of a plan is asked."""
    absent = [name for name in ("tensorrt", "cupy") if find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed. {_INSTALL}"
    try:
        api, cuda = load_api(), load_cuda()
    except (ImportError, OSError) as error:
        return f"TensorRT or CuPy is installed and cannot be loaded: {error}. {_INSTALL}"
    if numbers(api.__version__) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"TensorRT {api.__version__} is too old: {oldest} or later is needed. pip install -U 'ctfast[tensorrt]'"
    try:
        count = cuda.runtime.getDeviceCount()
    except cuda.runtime.CUDARuntimeError as error:
        return f"CUDA finds no GPU: {error}. Install NVIDIA's driver, or use device 'cpu'"
    if _index(device) >= count:
        return f"there is no device '{device}': CUDA finds {count}, from cuda:0 on"
    return None


def gpu(device: str) -> tuple[str, str]:
    """Name and compute capability, like "9.0", of a GPU that is there."""
    cuda, index = load_cuda(), _index(device)
    name = cuda.runtime.getDeviceProperties(index)["name"]
    digits = cuda.Device(index).compute_capability
    return (name.decode() if isinstance(name, bytes) else str(name)), f"{digits[:-1]}.{digits[-1]}"


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


class Opened:
    """A plan's networks through TensorRT."""

    name = "tensorrt"
    on_device = None

    def __init__(self, source: Source) -> None:
        """The plan and how to run it; device "auto" is the first GPU."""
        from .. import _native

        self._native, self._source = _native, source
        self._api: Api = load_api()
        self._cuda = load_cuda()
        self._index = _index(source.device)
        self.device = f"cuda:{self._index}"
        self._said: list[str] = []
        self._logger = logger_of(self._api, self._listen)

    @property
    def versions(self) -> Mapping[str, str]:
        """TensorRT's."""
        return {"tensorrt": self._api.__version__}

    def lacks(self, precision: str) -> str | None:
        """An engine has one precision, with which it was built."""
        if self._source.precision is None:
            return None  # each network as it was built
        found = sorted({self.precision(name) for name in self._source.manifest.networks})
        if found == [precision]:
            return None
        return f"the plan's engines compute in {' and '.join(found)}, as they were built. Leave the precision out"

    def precision(self, network: str) -> str:
        """What a network was built to compute in."""
        entry = self._source.manifest.networks.get(network)
        return "fp32" if entry is None or entry.tensorrt is None else entry.tensorrt.precision

    def ran_in(self, network: str, session: _native.Session) -> str:
        """As it was built."""
        return self.precision(network)

    def element_bytes(self, network: str) -> int:
        """Inputs and outputs of engines are float32, whatever they compute in."""
        return 4

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.Session:
        """Open ``<network>/model.engine``; see ``Backend``."""
        session = self._session(network, engine_section(network), drop)
        check_names(self._source.manifest, network, session, drop)
        return session

    def open_stage(self, network: str, stage: str, half_io: Sequence[str] = ()) -> _native.Session:
        """Open a stage's engine; see ``Backend``."""
        return self._session(network, engine_section(network, stage), ())

    def _session(self, network: str, section: str, drop: Sequence[str]) -> _native.Session:
        plan, entry = self._source.plan, self._source.manifest.networks[network]
        where = f"'{section}' of plan '{self._source.manifest.name}'"
        assert entry.tensorrt is not None  # can_use() saw to it
        try:
            table = Table.from_json(bytes(plan.section(f"{section}.json")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"the table of {where} cannot be read ({error!r}). {_AGAIN}") from error
        self._said.clear()
        with self._cuda.Device(self._index):
            engine = self._engine(plan.section(section), entry.tensorrt, where)
            if entry.tensorrt.refit:
                self._refit(engine, table, plan.section(f"{network}/model.bin"), where)
            streamed = self._stream_weights(engine)
            # What is streamed is copied anew in every run, by the host, which a graph does not replay.
            session = EngineSession(self._api, self._cuda, self._index, engine, table, drop, graphs=not streamed)
        return self._native.CallableSession(session.inputs, session.outputs, session.run)

    def _engine(self, data: Any, built: TensorRT, where: str) -> CudaEngine:
        runtime = self._api.Runtime(self._logger)
        if built.version_compatible:
            runtime.engine_host_code_allowed = True  # such an engine brings its runtime, which is code
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise DeviceError(f"TensorRT cannot read {where}: {self._last()}. {_AGAIN}")
        return engine

    def _refit(self, engine: CudaEngine, table: Table, weights: Any, where: str) -> None:
        """Give the engine its weights out of the plan."""
        api, refitter = self._api, self._api.Refitter(engine, self._logger)
        types = {kind: getattr(api.DataType, name) for kind, name in TYPES.items()}
        arrays = []  # what a refitter was given must live until it is done
        for name in refitter.get_all_weights():
            try:
                kind, array = table.values(name, weights)
            except (KeyError, ValueError) as error:
                raise PlanError(f"weights '{name}' of {where} are not in the plan ({error!r}). {_AGAIN}") from error
            arrays.append(array)
            if not refitter.set_named_weights(name, api.Weights(types[kind], array.ctypes.data, array.size)):
                raise PlanError(f"{where} does not take the plan's weights '{name}': {self._last()}. {_AGAIN}")
        missing = refitter.get_missing_weights()
        if missing:
            raise PlanError(f"the plan has no weights {', '.join(missing[:3])} for {where}. {_AGAIN}")
        if not refitter.refit_cuda_engine():
            raise DeviceError(f"TensorRT could not put the weights into {where}: {self._last()}")

    def _stream_weights(self, engine: CudaEngine) -> bool:
        """Keep as many bytes of weights on the GPU as the user says; whether others are streamed."""
        text = os.environ.get(BUDGET, "")
        if not text or not engine.streamable_weights_size:
            return False
        if not text.isdigit():
            raise DeviceError(f"{BUDGET}: expected a number of bytes, found {text!r}")
        engine.weight_streaming_budget_v2 = min(int(text), engine.streamable_weights_size)
        return int(text) < engine.streamable_weights_size

    def _last(self) -> str:
        return self._said[-1] if self._said else "it gave no reason"

    def _listen(self, severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._said.append(message)
        level = {"ERROR": logging.WARNING, "INTERNAL_ERROR": logging.WARNING, "WARNING": logging.INFO}
        _log.log(level.get(severity, logging.DEBUG), "TensorRT: %s", message)
