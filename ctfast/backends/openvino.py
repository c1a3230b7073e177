"""OpenVINO on the CPU, through the native runtime (csrc/sessions/openvino.cc)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DeviceError

if TYPE_CHECKING:
    from .. import _native

__all__ = ["can_use", "open_session"]


def can_use(precision: str = "fp32") -> str | None:
    """Why networks of this precision ("fp32" or "bf16") cannot run here, or None when they can."""
    try:
        from .. import _native
    except ImportError as error:
        return (
            f"the native extension does not load ({error}). Install ctfast and the openvino version it was built with "
            "into one environment: pip install --force-reinstall ctfast"
        )
    if precision == "bf16" and not _native.build_info()["cpu"]["bf16"]:
        return "this processor has neither AVX512-BF16 nor AMX-BF16"
    return None


def open_session(
    plan: _native.Plan,
    network: str,
    *,
    precision: str,
    threads: int = 0,
    drop: Sequence[str] = (),
    cache_dir: str = "",
) -> _native.OpenVINOSession:
    """Open ``<network>/model.xml`` and ``<network>/model.bin`` of a plan, whose memory is used in place.

    Inputs in ``drop`` stay zero and are compiled away. Raises DeviceError when ``can_use`` has a reason or OpenVINO
    refuses the network, PlanError when the plan has no such sections, RequestError for an unknown precision.
    """
    reason = can_use(precision)
    if reason is not None:
        raise DeviceError(f"network '{network}' cannot run in {precision}: {reason}")
    from .. import _native

    return _native.OpenVINOSession(plan, network, precision, threads, list(drop), cache_dir)
