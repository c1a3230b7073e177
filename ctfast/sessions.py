"""The networks of a plan as sessions of the runtime: opened when first needed, kept, and given up for memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .backends import AUTO, Backend, Source, open_backend
from .errors import PlanError
from .manifest import PlanManifest
from .manifest_program import Size3, Stage
from .memory import free_bytes

if TYPE_CHECKING:
    from . import _native

#: Of a network's tensors; what an int8 network computes between its quantised convolutions is bf16.
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "int8": 2}


@dataclass(frozen=True)
class Use:
    """A network's part in a request: on how many voxels of its largest input or output it is called at a time."""

    network: str
    voxels: int
    dropped: bool = False


class Sessions:
    """Sessions by network, for one user at a time.

    A session keeps the memory of its activations between calls, so that the next request of the same size finds it.
    """

    def __init__(
        self,
        native: Any,
        plan: _native.Plan,
        manifest: PlanManifest,
        precision: str | None,
        threads: int,
        cache_dir: str,
        backend: str = AUTO,
        device: str = AUTO,
    ) -> None:
        """The arguments are those of ``Source`` and ``open_backend``, and so are the errors."""
        self._native = native
        self._manifest = manifest
        source = Source(plan, manifest, device, precision, threads, cache_dir)
        self.backend: Backend = open_backend(backend, source)
        self._open: dict[tuple[str, bool], _native.Session] = {}
        self._stages: dict[tuple[str, str], _native.Session] = {}
        self._workspaces: dict[str, _native.Workspace] = {}
        self._held: dict[tuple[str, int], int] = {}

    def get(self, network: str, dropped: bool = False) -> _native.Session:
        """A network's session. ``dropped``: without the inputs that an absent mask leaves zero."""
        key = (network, dropped)
        if key not in self._open:
            entry = self._manifest.networks.get(network)
            if entry is None:
                names = ", ".join(self._manifest.networks)
                raise PlanError(
                    f"plan '{self._manifest.name}' has no network '{network}', which this request needs; it has: "
                    f"{names}. Build one that has it with: ctfast build"
                )
            self._open[key] = self.backend.open(network, entry.drop_if_unused if dropped else ())
        return self._open[key]

    def stage(self, network: str, stage: Stage, source: str, target: str) -> _native.Session:
        """The session of one stage of a network's program. It stays open, and holds no memory between runs.

        In bf16 the tensors between stages are bf16 in memory too; the program's ``source`` and ``target`` are fp32.
        """
        key = (network, stage.name)
        if key in self._stages:
            return self._stages[key]
        half = []
        if self.element_bytes(network) == 2:
            half += ["x"] if stage.reads != source else []
            half += ["residual"] if stage.adds is not None and stage.adds != source else []
            half += ["y"] if stage.writes != target else []
        self._stages[key] = self.backend.open_stage(network, stage.name, half)
        return self._stages[key]

    def workspace(self, network: str) -> _native.Workspace:
        """Memory for the program of a network, kept from one run to the next."""
        if network not in self._workspaces:
            device = self.backend.on_device
            self._workspaces[network] = self._native.Workspace() if device is None else device.workspace()
        return self._workspaces[network]

    def kept_bytes(self) -> int:
        """What the workspaces keep."""
        return sum(workspace.kept_bytes for workspace in self._workspaces.values())

    def clear_workspaces(self) -> None:
        """Give what the workspaces keep to the system."""
        for workspace in self._workspaces.values():
            workspace.clear()

    def precision(self, network: str) -> str:
        """What a network computes in."""
        return self.backend.precision(network)

    def element_bytes(self, network: str) -> int:
        """Bytes per element of the tensors between two stages of a network."""
        return self.backend.element_bytes(network)

    def precisions(self, uses: Iterable[Use]) -> Mapping[str, str]:
        """The same of several networks, as the backend reports it for those that ran as a whole."""
        ran = {use.network: self._open.get((use.network, use.dropped)) for use in uses}
        return {
            name: self.precision(name) if session is None else self.backend.ran_in(name, session)
            for name, session in ran.items()
        }

    def activation_bytes(self, use: Use) -> int | None:
        """What a network's activations take when it is called as a whole; None if the plan does not tell."""
        return activation_bytes(self._manifest, use.network, use.voxels, self.precision(use.network))

    def note(self, use: Use) -> None:
        """Remember that a network was called as a whole: its activations stay in memory."""
        self._held[use.network, use.voxels] = self.activation_bytes(use) or 0

    def budget(self, memory: int | None, uses: Iterable[Use]) -> int | None:
        """Bytes that the activations of a request may take: ``memory``, or what is free once its networks are loaded.

        What the networks hold from an earlier call of the same size counts as free, since they use it again, and so
        does what their workspaces keep. None where nobody can tell.
        """
        free = self._free_bytes() if memory is None else None
        if free is None:
            return memory
        for use in uses:
            free += self._held.get((use.network, use.voxels), 0)
            if use.network in self._workspaces:
                free += self._workspaces[use.network].kept_bytes
            entry = self._manifest.networks.get(use.network)
            if (use.network, use.dropped) not in self._open and entry is not None and entry.footprint is not None:
                free -= entry.footprint.loaded_bytes
        return max(free, 0)

    def _free_bytes(self) -> int | None:
        device = self.backend.on_device
        free = None if device is None else device.free_bytes()
        return free_bytes() if free is None else free

    def release(self, networks: Iterable[str] | None = None) -> bool:
        """Give up some networks, or all, with the memory they hold; whether there were any."""
        held = {name for name, _ in self._open} | {name for name, _ in self._stages} | set(self._workspaces)
        names = held if networks is None else set(networks)
        self.release_whole(names)
        self._stages = {key: session for key, session in self._stages.items() if key[0] not in names}
        self._workspaces = {name: workspace for name, workspace in self._workspaces.items() if name not in names}
        return bool(names & held)

    def release_whole(self, networks: Iterable[str]) -> None:
        """Give up networks as a whole; their stages and workspaces stay."""
        names = set(networks)
        self._open = {key: session for key, session in self._open.items() if key[0] not in names}
        self._held = {key: held for key, held in self._held.items() if key[0] not in names}


def activation_bytes(manifest: PlanManifest, network: str, voxels: int, precision: str) -> int | None:
    """What a network's activations take on ``voxels`` voxels; None if the manifest has no footprint of it."""
    entry = manifest.networks.get(network)
    if entry is None or entry.footprint is None:
        return None
    ratio = ELEMENT_BYTES[precision] / ELEMENT_BYTES[entry.precision]
    return int(entry.footprint.bytes_per_voxel * ratio * voxels)


def voxels_of(size: Size3) -> int:
    """Voxels of a grid."""
    return math.prod(size)
