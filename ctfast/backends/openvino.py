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
        """bf16 needs instructions that not every processor has."""
        if precision == "bf16" and not self._native.build_info()["cpu"]["bf16"]:
            return "this processor has neither AVX512-BF16 nor AMX-BF16"
        return None

    def precision(self, network: str) -> str:
        """What a network is asked to compute in."""
        entry = self._source.manifest.networks.get(network)
        return self._source.precision or ("fp32" if entry is None else entry.precision)

    def ran_in(self, network: str, session: _native.Session) -> str:
        """As OpenVINO reports it."""
        reported: Any = getattr(session, "precision", self.precision(network))
        return str(reported)

    def element_bytes(self, network: str) -> int:
        """Tensors between stages are in the network's precision."""
        return 2 if self.precision(network) == "bf16" else 4

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.OpenVINOSession:
        """Open ``<network>/model.xml`` over ``<network>/model.bin``; see ``Backend``."""
        source = self._source
        session = self._native.OpenVINOSession(
            source.plan, network, self.precision(network), source.threads, list(drop), source.cache_dir
        )
        check_names(source.manifest, network, session, drop)
        return session

    def open_stage(self, network: str, stage: str, half_io: Sequence[str] = ()) -> _native.OpenVINOSession:
        """Open a stage's graph over ``<network>/model.bin``; see ``Backend``."""
        source = self._source
        return self._native.OpenVINOSession(
            source.plan,
            network,
            self.precision(network),
            source.threads,
            [],
            source.cache_dir,
            graph=stage_section(network, stage),
            half_io=list(half_io),
        )
