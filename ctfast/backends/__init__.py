"""Backends make sessions out of a plan's networks.

Each backend module has ``can_use(precision)``, which answers with the reason why it cannot be used here (None: it
can), and ``open_session``, which raises. Only the dispatcher in this file falls back, and it logs once what it chose
and why.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from ..errors import DeviceError, PlanError

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest

__all__ = ["choose_precision", "open_session"]

_log = logging.getLogger("ctfast")


def open_session(
    plan: _native.Plan,
    manifest: PlanManifest,
    network: str,
    *,
    precision: str | None = None,
    threads: int = 0,
    residuals: bool = True,
    cache_dir: str = "",
) -> _native.Session:
    """Open ``network`` of ``plan`` with the backend that the manifest names.

    ``precision``: "bf16", "fp32", or None for the plan's own; bf16 becomes fp32 on a processor without it. ``threads``
    0 means all that this process may use. ``residuals`` False drops the inputs that a denoiser only needs with a
    ControlNet. ``cache_dir``: where compiled networks are kept between processes, "" for nowhere.

    Raises PlanError when the plan has no such network, names an unknown backend, or holds a network other than its
    manifest says; DeviceError when the backend cannot be used or cannot run the network.
    """
    entry = manifest.networks.get(network)
    if entry is None:
        have = ", ".join(sorted(manifest.networks))
        raise PlanError(f"plan '{manifest.name}' has no network '{network}'; it has: {have}")
    if entry.backend != "openvino":
        raise PlanError(
            f"network '{network}' of plan '{manifest.name}' is for backend '{entry.backend}', and this ctfast has: "
            "openvino. Build the plan again with backend='openvino', or use a newer ctfast."
        )
    from . import openvino as backend

    drop = () if residuals else entry.drop_if_unused
    chosen = choose_precision(precision or entry.precision)
    session = backend.open_session(plan, network, precision=chosen, threads=threads, drop=drop, cache_dir=cache_dir)
    expected = set(entry.inputs) - set(drop)
    if set(session.inputs) != expected or set(session.outputs) != set(entry.outputs):
        raise PlanError(
            f"network '{network}' of plan '{manifest.name}' has inputs {sorted(session.inputs)} and outputs "
            f"{sorted(session.outputs)}, but the manifest says {sorted(expected)} and {sorted(entry.outputs)}. "
            "Build the plan again."
        )
    return session


def choose_precision(asked: str) -> str:
    """The precision that this machine can run for the one asked for; logs once where they differ.

    Raises DeviceError when it can run neither.
    """
    from . import openvino as backend

    reason = backend.can_use(asked)
    if reason is None:
        return asked
    if asked != "bf16":
        raise DeviceError(reason)
    if (without := backend.can_use("fp32")) is not None:
        raise DeviceError(without)
    _say_once(f"using fp32 instead of bf16: {reason}")
    return "fp32"


@cache
def _say_once(message: str) -> None:
    _log.warning(message)
