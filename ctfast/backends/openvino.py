"""OpenVINO on the CPU, through the native runtime (csrc/sessions/openvino.cc)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..manifest_program import stage_section
from . import Source
from .ir import check_names, lacking

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest

__all__ = ["Opened", "can_use", "lacking"]


def can_use(manifest: PlanManifest, device: str) -> str | None:
    """Why this plan cannot run here on ``device``, or None when it can."""
    if device not in ("auto", "cpu"):
        return f"it runs on the CPU only, and the device asked for is '{device}'. Use device 'cpu'"
    for module in ("ctfast._native", "openvino"):  # neither is loaded for this
        if find_spec(module) is None:
            return (
                f"'{module}' is not installed. Install ctfast and the openvino version it was built with into one "
                "environment: pip install --force-reinstall ctfast"
            )
    return lacking(manifest)


class Opened:
    """A plan's networks through OpenVINO, which uses the weights where they lie in the plan's memory."""

    name = "openvino"
    on_device = None
    device = "cpu"

    def __init__(self, source: Source) -> None:
        """The plan and how to run it."""
        from .. import _native

        self._native = _native
        self._source = source

    @property
    def versions(self) -> Mapping[str, str]:
        """OpenVINO's."""
        return {"openvino": self._native.build_info()["openvino"]}

    def lacks(self, precision: str) -> str | None:
        """bf16 and fp16 need instructions that not every processor has."""
        cpu = self._native.build_info()["cpu"]
        if precision == "bf16" and not cpu["bf16"]:
            return "this processor has neither AVX512-BF16 nor AMX-BF16"
        if precision == "fp16" and not cpu["fp16"]:
            return "this processor has no AVX512-FP16"
        return None

    def precision(self, network: str) -> str:
        """What a network is asked to compute in."""
        entry = self._source.manifest.networks.get(network)
        if entry is not None and entry.precision == "int8":
            return "int8"
        return self._source.precision or ("fp32" if entry is None else entry.precision)

    def ran_in(self, network: str, session: _native.Session) -> str:
        """As OpenVINO reports it; what was quantised is so in the graph itself."""
        asked = self.precision(network)
        reported: Any = getattr(session, "precision", asked)
        return asked if asked == "int8" else str(reported)

    def element_bytes(self, network: str) -> int:
        """Tensors between stages are bfloat16 in a bf16 run; the runtime has no float16 of its own."""
        return 2 if self.precision(network) == "bf16" else 4

    def _session_precision(self, network: str) -> str:
        """What a session is opened with: of an int8 network, what it computes in where nothing was quantised."""
        asked = self.precision(network)
        if asked != "int8":
            return asked
        return self._source.precision or ("fp32" if self.lacks("bf16") else "bf16")

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.OpenVINOSession:
        """Open ``<network>/model.xml`` over ``<network>/model.bin``; see ``Backend``."""
        source = self._source
        session = self._native.OpenVINOSession(
            source.plan, network, self._session_precision(network), source.threads, list(drop), source.cache_dir
        )
        check_names(source.manifest, network, session, drop)
        return session

    def open_stage(self, network: str, stage: str, half_io: Sequence[str] = ()) -> _native.OpenVINOSession:
        """Open a stage's graph over ``<network>/model.bin``; see ``Backend``."""
        source = self._source
        return self._native.OpenVINOSession(
            source.plan,
            network,
            self._session_precision(network),
            source.threads,
            [],
            source.cache_dir,
            graph=stage_section(network, stage),
            half_io=list(half_io),
        )
