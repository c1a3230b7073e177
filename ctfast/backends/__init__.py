"""Backends run a plan's networks: one file each, behind one interface.

A backend's module has ``can_use(manifest, device)``, which answers with the reason why it cannot run a plan here (None:
it can), ``lacking(manifest)``, which says what the plan lacks for it, and ``Opened``, a class that makes a ``Backend``
of a ``Source``. None of these falls back: only the dispatcher in this file does, and it logs once what it chose and
why. A module is imported when it is asked for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DeviceError, RequestError

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest
    from .torch_device import TorchDevice

__all__ = ["AUTO", "BACKENDS", "Backend", "Source", "checked_backend", "checked_device", "open_backend", "survey"]

AUTO = "auto"
#: All there are; the first one that can be used is taken where none is named, so they are ordered by speed.
BACKENDS = ("tensorrt", "openvino", "torch", "onnxruntime")

_log = logging.getLogger("ctfast")


@dataclass(frozen=True)
class Source:
    """What a backend runs, and how.

    ``device``: "auto" (the backend's own choice), "cpu", "cuda" or "cuda:N". ``precision``: "bf16", "fp16", "fp32", or
    None for each network's own. Networks that were quantised to int8 stay so: ``precision`` is then that of what around
    them was not. ``threads`` 0: all that this process may use. ``cache_dir``: where compiled networks are kept
    between processes, "" for nowhere.
    """

    plan: _native.Plan
    manifest: PlanManifest
    device: str = AUTO
    precision: str | None = None
    threads: int = 0
    cache_dir: str = ""


class Backend(Protocol):
    """A plan's networks on a device."""

    @property
    def on_device(self) -> TorchDevice | None:
        """What samples and runs programs without this computer's memory in between; None: the runtime's own loops."""

    @property
    def name(self) -> str:
        """One of BACKENDS."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "cuda:N"."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that results may depend on, by name."""

    def lacks(self, precision: str) -> str | None:
        """Why the device does not run "bf16", "fp16" or "fp32" well, or None where it does."""

    def precision(self, network: str) -> str:
        """What a network computes in."""

    def ran_in(self, network: str, session: _native.Session) -> str:
        """The same of a session that has run, as the library tells it if it does."""

    def element_bytes(self, network: str) -> int:
        """Bytes per element of the tensors between two stages of the network's program: 2 or 4."""

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.Session:
        """A network's session; inputs in ``drop`` stay zero. PlanError: it is not as the manifest says."""

    def open_stage(self, network: str, stage: str, half_io: Sequence[str] = ()) -> _native.Session:
        """The session of a stage; what is in ``half_io`` is bfloat16 in memory, where elements have 2 bytes."""


def open_backend(name: str, source: Source) -> Backend:
    """The backend of that name for a plan; "auto": the first that can be used.

    bf16 or fp16 that a plan wants and the device lacks becomes fp32. DeviceError: it cannot be used here, or not in the
    precision asked for. RequestError: there is no such backend.
    """
    backend: Backend = _module(_choose(checked_backend(name), source)).Opened(source)
    networks = source.manifest.networks
    if source.precision is not None:
        quantised = ", ".join(name for name, network in networks.items() if network.precision == "int8")
        if quantised:
            raise DeviceError(
                f"precision '{source.precision}' is not available: plan '{source.manifest.name}' has {quantised} "
                "quantised to int8. Leave precision out, or build the plan with that precision"
            )
        reason = backend.lacks(source.precision)
        if reason is not None:
            raise DeviceError(f"precision '{source.precision}' is not available: {reason}. Use 'fp32'")
        return backend
    # What of an int8 network was not quantised runs as the others do.
    wanted = sorted({network.precision for network in networks.values()} - {"int8"})
    lacking = [(precision, reason) for precision in wanted if (reason := backend.lacks(precision)) is not None]
    if lacking:
        precision, reason = lacking[0]
        _say_once(logging.WARNING, f"using fp32 instead of {precision}: {reason}")
        backend = _module(backend.name).Opened(replace(source, precision="fp32"))
    return backend


def survey(manifest: PlanManifest) -> list[dict[str, Any]]:
    """What each backend says of a plan on this machine, JSON-ready.

    "name", "usable", "reason" (None where it is usable) and "in_plan", whether the plan has what the backend needs
    (None where the backend itself is missing).
    """
    rows = []
    for name in BACKENDS:
        reason = _reason(name, manifest, AUTO)
        rows.append({"name": name, "usable": reason is None, "reason": reason, "in_plan": _in_plan(name, manifest)})
    return rows


def checked_backend(name: object) -> str:
    """The name of a backend, or "auto"; RequestError tells which there are."""
    if name not in (AUTO, *BACKENDS):
        raise RequestError(f"backend: expected one of {', '.join((AUTO, *BACKENDS))}, found {name!r}")
    return str(name)


def checked_device(device: object) -> str:
    """The name of a device; RequestError for what is none."""
    if isinstance(device, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        return device
    raise RequestError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', found {device!r}")


def _choose(name: str, source: Source) -> str:
    if name != AUTO:
        reason = _reason(name, source.manifest, source.device)
        if reason is not None:
            raise DeviceError(f"backend '{name}' cannot be used: {reason}")
        return name
    reasons: dict[str, str] = {}
    for chosen, reason in _reasons(source):
        if reason is None:
            # What the plan was not built for is no news; what it was built for, and is not used, is.
            missed = [f"{each}: {why}" for each, why in reasons.items() if _in_plan(each, source.manifest) is not False]
            if missed:
                _say_once(logging.WARNING, f"using backend '{chosen}': {'; '.join(missed)}")
            return chosen
        reasons[chosen] = reason
    where = "" if source.device == AUTO else f" on device '{source.device}'"
    told = "; ".join(f"{each}: {why}" for each, why in reasons.items())
    raise DeviceError(f"no backend can run plan '{source.manifest.name}'{where}: {told}")


def _reasons(source: Source) -> Iterator[tuple[str, str | None]]:
    for name in BACKENDS:
        yield name, _reason(name, source.manifest, source.device)


def _reason(name: str, manifest: PlanManifest, device: str) -> str | None:
    try:
        module = _module(name)
    except ModuleNotFoundError as error:
        return f"its module is missing from this installation ({error}). Install ctfast again"
    reason: str | None = module.can_use(manifest, device)
    return reason


def _in_plan(name: str, manifest: PlanManifest) -> bool | None:
    """Whether a plan has what a backend needs; None where the backend itself is missing."""
    try:
        return _module(name).lacking(manifest) is None
    except ModuleNotFoundError:
        return None


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


@cache
def _say_once(level: int, message: str) -> None:
    _log.log(level, message)
