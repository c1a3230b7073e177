"""PyTorch, on the CPU or with CUDA: the plan's own OpenVINO graphs and weights, carried out by torch.

Needs the extra ``ctfast[torch]``; torch is imported when a plan is opened, or asked about, with this backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..manifest_program import stage_section
from ..sessions import ELEMENT_BYTES
from . import Source, ir
from .ir import check_names

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest
    from .torch_device import TorchDevice
    from .torch_graph import Graph

__all__ = ["Opened", "can_use", "lacking"]


def can_use(manifest: PlanManifest, device: str) -> str | None:
    """Why this plan cannot run here on ``device``, or None when it can."""
    if find_spec("torch") is None:
        return "torch is not installed. Install it with: pip install 'ctfast[torch]'"
    if device.startswith("cuda"):
        torch: Any = import_module("torch")
        if not torch.cuda.is_available():
            return (
                f"torch {torch.__version__} finds no CUDA device for '{device}'. Use device 'cpu', or install a driver "
                "and a build of torch for CUDA (pytorch.org)"
            )
        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            return f"there is no device '{device}': torch finds {count}, from cuda:0 on"
    return lacking(manifest)


def lacking(manifest: PlanManifest) -> str | None:
    """What a plan lacks for torch, or None."""
    quantised = [name for name, network in manifest.networks.items() if network.precision == "int8"]
    if quantised:
        return f"only OpenVINO runs int8 graphs ({', '.join(quantised)}). Build with: ctfast build --precision bf16"
    return ir.lacking(manifest)


class Opened:
    """A plan's networks through torch."""

    name = "torch"

    def __init__(self, source: Source) -> None:
        """The plan and how to run it; device "auto" is CUDA where torch has it."""
        from .. import _native

        self._torch: Any = import_module("torch")
        self._native = _native
        self._source = source
        found = "cuda" if self._torch.cuda.is_available() else "cpu"
        self.device = found if source.device == "auto" else source.device
        device: Any = import_module("ctfast.backends.torch_device")
        self.on_device: TorchDevice = device.TorchDevice(
            self._torch.device(self.device), source.threads or _native.build_info()["threads"]
        )

    @property
    def versions(self) -> Mapping[str, str]:
        """Torch's."""
        return {"torch": str(self._torch.__version__)}

    def lacks(self, precision: str) -> str | None:
        """bf16 needs instructions that not every processor or GPU has, and fp16 is for GPUs."""
        if precision == "fp16" and self.device == "cpu":
            return "torch computes fp16 on CUDA devices only"
        if precision != "bf16":
            return None
        if self.device == "cpu":
            return None if self._native.build_info()["cpu"]["bf16"] else "this processor has no instructions for bf16"
        with self._torch.cuda.device(self.device):
            return None if self._torch.cuda.is_bf16_supported() else f"device '{self.device}' has no bf16"

    def precision(self, network: str) -> str:
        """What a network computes in."""
        entry = self._source.manifest.networks.get(network)
        return self._source.precision or ("fp32" if entry is None else entry.precision)

    def ran_in(self, network: str, session: _native.Session) -> str:
        """As asked for."""
        return self.precision(network)

    def element_bytes(self, network: str) -> int:
        """Tensors between stages are what convolutions give."""
        return ELEMENT_BYTES[self.precision(network)]

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.Session:
        """Open ``<network>/model.xml`` over ``<network>/model.bin``; see ``Backend``."""
        entry = self._source.manifest.networks[network]
        graph = self._graph(network, f"{network}/model.xml", entry.inputs, entry.outputs, drop)
        session = self.on_device.session(graph)
        check_names(self._source.manifest, network, session, drop)
        return session

    def open_stage(self, network: str, stage: str, half_io: Sequence[str] = ()) -> _native.Session:
        """Open a stage's graph over ``<network>/model.bin``; see ``Backend``."""
        return self.on_device.stage(self._graph(network, stage_section(network, stage), (), ("y",), ()))

    def _graph(
        self, network: str, section: str, inputs: Sequence[str], outputs: Sequence[str], drop: Sequence[str]
    ) -> Graph:
        from .torch_graph import Graph

        plan, torch = self._source.plan, self._torch
        return Graph(
            f"'{section}' of plan '{self._source.manifest.name}'",
            bytes(plan.section(section)),
            plan.section(f"{network}/model.bin"),
            inputs,
            outputs,
            torch.device(self.device),
            {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision(network), torch.float32),
            drop,
        )
