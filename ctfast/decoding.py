"""The ways to run a VAE's network on a volume within a budget of memory, and the choice among them.

The planning is done by the native runtime (csrc/core/planner.cc); this module gives it what the plan says of a network,
adds what the result itself takes, and says what to do where nothing fits. docs/memory.md explains the ways.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import MemoryBudgetError
from .manifest import PlanManifest
from .manifest_program import Program, Size3, Stage
from .memory import text_of
from .plan_weights import tensors
from .sessions import ELEMENT_BYTES, activation_bytes, voxels_of

if TYPE_CHECKING:
    from . import _native
    from .plan import Plan

WHOLE = "whole"
# Bytes per voxel that a network's result takes once it is what the caller gets: int16 intensities, float32 latents.
RESULT_BYTES = {"vae_decoder": 2, "vae_encoder": 4}

_UNLIMITED = 1 << 62
# The runtime's own copy of a whole network's result.
_COPY_BYTES = 4
_SCRATCH = "/var/tmp"
_WINDOWS = (80, 64, 48, 32, 16)  # edges in latent voxels, when looking for one that fits
_TRIED = 6  # sizes, when looking for one that fits
_SCALES = (0.85, 0.7, 0.6, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class Route:
    """One way to run a network on a volume, and what that is predicted to take.

    ``name`` is whole, in_place, spill or recompute. ``peak_bytes`` is beyond the loaded networks and includes the
    result; None where the plan does not tell. ``work`` is in multiply-adds of one plain pass, ``spilled_bytes`` what is
    written to scratch files and read from them, ``seconds`` a rough figure to compare with. ``strategy`` is what the
    runtime needs to go this way, None for the whole network in one call.
    """

    name: str
    peak_bytes: int | None
    work: float
    spilled_bytes: int
    seconds: float
    fits: bool
    strategy: _native.Strategy | None = None

    @property
    def scratch_bytes(self) -> int:
        """The most that it has on disk at a time."""
        return 0 if self.strategy is None else self.strategy.scratch_bytes

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "peak_bytes": self.peak_bytes,
            "work": round(self.work, 4),
            "spilled_bytes": self.spilled_bytes,
            "seconds": round(self.seconds, 3),
            "fits": self.fits,
        }


class Routes:
    """The ways to run one network of a plan, in one precision."""

    def __init__(
        self,
        native: Any,
        plan: Plan,
        network: str,
        precision: str,
        element_bytes: int | None = None,
        whole: bool = True,
    ) -> None:
        """``element_bytes`` of a tensor between two stages: 2 or 4; None: the precision's own.

        ``whole``: whether it may be called as a whole where it has a program.

        PlanError if the network's program does not fit together.
        """
        self.network = network
        self.precision = precision
        self.element_bytes = ELEMENT_BYTES[precision] if element_bytes is None else element_bytes
        self._native = native
        self._manifest = plan.manifest
        self._may_be_whole = whole
        entry = plan.manifest.networks.get(network)
        self.program: Program | None = None if entry is None else entry.program
        self.native_program: _native.Program | None = None
        if self.program is not None:
            self.native_program = _native_program(native, plan, network, self.program)

    def output_size(self, size: Size3) -> Size3:
        """Extents of the output for an input of ``size``, by the plan's compression."""
        if self.native_program is not None:
            return self.native_program.output_size(size)
        x, y, z = zip(size, self._manifest.latent.compression, strict=True)
        if self.network == "vae_decoder":
            return x[0] * x[1], y[0] * y[1], z[0] * z[1]
        return x[0] // x[1], y[0] // y[1], z[0] // z[1]

    def all(self, size: Size3, budget: int | None) -> list[Route]:
        """What there is for an input of ``size`` (x, y, z); ``budget`` in bytes beyond the networks, None: any.

        Without a program there is only the whole network.
        """
        output = voxels_of(self.output_size(size))
        channels = 1 if self.program is None else self.program.stages[-1].channels
        result = RESULT_BYTES[self.network] * output * channels
        left = _UNLIMITED if budget is None else budget - result
        activations = activation_bytes(self._manifest, self.network, max(voxels_of(size), output), self.precision)
        whole = None if activations is None else activations + _COPY_BYTES * output * channels
        if self.program is None or self.native_program is None:
            fits = whole is None or whole <= left
            return [Route(WHOLE, None if whole is None else whole + result, 1.0, 0, 0.0, fits)]
        strategies = self._native.strategies(
            self.native_program,
            size,
            element_bytes=self.element_bytes,
            budget=max(left, 0),
            whole_bytes=whole if self._may_be_whole else None,
        )
        return [
            Route(
                strategy.name,
                strategy.peak_bytes + result,
                strategy.work,
                strategy.spilled_bytes,
                strategy.seconds,
                strategy.fits and left >= 0,
                None if strategy.name == WHOLE else strategy,
            )
            for strategy in strategies
        ]

    def choose(self, size: Size3, budget: int | None) -> Route:
        """The quickest way that fits; MemoryBudgetError says what each one needs and what would fit."""
        routes = self.all(size, budget)
        folder, free = scratch_folder(), scratch_free()
        needs = {route.name: route.scratch_bytes for route in routes if route.spilled_bytes}
        chosen = quickest([route for route in routes if needs.get(route.name, 0) <= free])
        if chosen is not None:
            return chosen
        lacking = [
            f"; {_title(name)} also needs {text_of(need)} on the disk of '{folder}', which has {text_of(free)}"
            for name, need in needs.items()
            if need > free
        ]
        raise self._refusal(size, routes, budget or 0, "".join(lacking))

    def _refusal(self, size: Size3, routes: Sequence[Route], budget: int, lacking: str) -> MemoryBudgetError:
        decodes = self.network == "vae_decoder"
        image = self.output_size(size) if decodes else size
        needs = [(_title(route.name), route.peak_bytes) for route in routes if route.peak_bytes is not None]
        least = min(need for _, need in needs)
        listed = ", ".join(f"{name} {text_of(need)}" for name, need in needs)
        remedies = [f"memory='{_rounded_up(least)}' if there is that much"]
        smaller = self._smaller(image, budget)
        if smaller is not None:
            remedies.append(f"size {_by(smaller)}, which fits")
        window = self._window(size, budget) if decodes else None
        if window is not None:
            remedies.append(f"decode='windowed' with window=({window}, {window}, {window}), which is not exact")
        advice = ", or ".join(remedies)
        return MemoryBudgetError(
            f"{'decoding' if decodes else 'encoding'} {_by(image)} voxels needs at least {text_of(least)} of memory "
            f"beyond the networks ({listed}), and it may take {text_of(budget)}{lacking}. Ask for {advice}; or free "
            "memory"
        )

    def _smaller(self, image: Size3, budget: int) -> Size3 | None:
        """The largest of some smaller legal sizes that fits."""
        compression = self._manifest.latent.compression
        for size in _smaller_sizes(self._manifest, image):
            x, y, z = (count // factor for count, factor in zip(size, compression, strict=True))
            if quickest(self.all((x, y, z) if self.network == "vae_decoder" else size, budget)) is not None:
                return size
        return None

    def window_bytes(self, size: Size3, window: Size3) -> int | None:
        """What decoding a latent of ``size`` in windows takes: one window, and the image; None if the plan is silent.

        A latent that has no more voxels than a window is decoded whole.
        """
        cut = size if voxels_of(size) <= voxels_of(window) else _smaller_of(size, window)
        image, factor = voxels_of(self.output_size(size)), voxels_of(self._manifest.latent.compression)
        activations = activation_bytes(self._manifest, self.network, voxels_of(cut) * factor, self.precision)
        return None if activations is None else activations + (2 * _COPY_BYTES + RESULT_BYTES[self.network]) * image

    def check_window(self, size: Size3, window: Size3, budget: int | None) -> None:
        """MemoryBudgetError if decoding in windows does not fit; it names a window that does."""
        needed = self.window_bytes(size, window)
        if needed is None or budget is None or needed <= budget:
            return
        fitting = self._window(size, budget)
        advice = "decode='exact'" if fitting is None else f"window=({fitting}, {fitting}, {fitting}) or decode='exact'"
        raise MemoryBudgetError(
            f"decoding {_by(self.output_size(size))} voxels in windows of {_by(window)} latent voxels needs "
            f"{text_of(needed)} of memory beyond the networks, and it may take {text_of(budget)}. Ask for {advice}; or "
            "free memory"
        )

    def _window(self, size: Size3, budget: int) -> int | None:
        """Edge of the largest of some windows that fit."""
        for edge in _WINDOWS:
            needed = self.window_bytes(size, (edge, edge, edge))
            if needed is not None and needed <= budget and edge**3 < voxels_of(size):
                return edge
        return None


def quickest(routes: Sequence[Route]) -> Route | None:
    """The one to take of those that fit."""
    return min((route for route in routes if route.fits), key=lambda route: route.seconds, default=None)


def scratch_folder() -> str:
    """Where tensors are spilled to: TMPDIR, or a disk, unlike /tmp where that is memory."""
    return os.environ.get("TMPDIR") or _SCRATCH


def scratch_free() -> int:
    """Bytes that can be spilled there; 0 if there is no such folder."""
    try:
        return shutil.disk_usage(scratch_folder()).free
    except OSError:
        return 0


def _native_program(native: Any, plan: Plan, network: str, program: Program) -> _native.Program:
    keys = [key for stage in program.stages if stage.norm is not None for key in (stage.norm.weight, stage.norm.bias)]
    affine = tensors(plan, network, dict.fromkeys(keys))
    stages = [_native_stage(stage, affine.__getitem__) for stage in program.stages]
    made: _native.Program = native.Program(program.input, program.input_channels, program.output, stages)
    return made


def _native_stage(stage: Stage, tensor: Callable[[str], Any]) -> dict[str, Any]:
    norm, mask = stage.norm, stage.mask
    return {
        "name": stage.name,
        "reads": stage.reads,
        "writes": stage.writes,
        "adds": stage.adds,
        "channels": stage.channels,
        "up": stage.up,
        "down": stage.down,
        "halo": stage.halo,
        "skip": stage.skip,
        "groups": 0 if norm is None else norm.groups,
        "eps": 0.0 if norm is None else norm.eps,
        "gamma": None if norm is None else tensor(norm.weight),
        "beta": None if norm is None else tensor(norm.bias),
        "mask": None if mask is None else (mask.grid, mask.before, mask.after),
        "multiply_adds": stage.multiply_adds,
    }


def _smaller_sizes(manifest: PlanManifest, image: Size3) -> Iterator[Size3]:
    """Some legal sizes of fewer voxels, from the largest on."""
    rule = manifest.sizes.rule
    if rule.legal:
        listed = set(rule.legal)
    elif rule.xy and rule.z:
        listed = {(edge, edge, depth) for edge in rule.xy for depth in rule.z}
    else:
        listed = {rule.nearest((max(1, x), max(1, y), max(1, z))) for x, y, z in _scaled(image)}
    smaller = sorted((size for size in listed if voxels_of(size) < voxels_of(image)), key=voxels_of, reverse=True)
    step = max(1, -(-len(smaller) // _TRIED))
    yield from smaller[::step]


def _scaled(image: Size3) -> Iterator[Size3]:
    for scale in _SCALES:
        x, y, z = (round(count * scale) for count in image)
        yield x, y, z


def _rounded_up(count: int) -> str:
    """A value for ``memory`` that is enough: the next tenth of a GiB, or the next MiB."""
    if count >= 1 << 30:
        return f"{-(-count * 10 // (1 << 30)) / 10:.1f}GiB"
    return f"{-(-count // (1 << 20))}MiB"


def _smaller_of(size: Size3, window: Size3) -> Size3:
    x, y, z = (min(count, most) for count, most in zip(size, window, strict=True))
    return x, y, z


def _title(name: str) -> str:
    return name.replace("_", " ")


def _by(size: Size3) -> str:
    return " x ".join(str(count) for count in size)
