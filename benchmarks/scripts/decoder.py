"""A plan's decoder run in a chosen way, beneath the Engine, which would choose by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctfast import _native
from ctfast.decoding import WHOLE, Route, Routes
from ctfast.plan import Plan
from ctfast.sessions import Sessions

Size3 = tuple[int, int, int]
Float32 = NDArray[np.float32]
NETWORK = "vae_decoder"


@dataclass
class Decoded:
    """An image (x, y, z) as the network gives it, seconds, and the first row of every slab but the first."""

    image: Float32
    seconds: float
    borders: list[int] = field(default_factory=list)


class Decoder:
    """The decoder of a plan: whole, in windows, and by each of the planner's ways."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        plan = Plan.open(path)
        if plan.manifest.networks[NETWORK].program is None:
            raise SystemExit(f"{path}: the plan has no program of its decoder; build it again with: ctfast build")
        self.manifest = plan.manifest
        self.precision, self.threads = precision, threads
        self.scratch = os.environ.get("TMPDIR") or "/var/tmp"
        self._sessions = Sessions(_native, _native.Plan(str(path)), plan.manifest, precision, threads, "")
        self._routes = Routes(_native, plan, NETWORK, precision)
        self._program: Any = self._routes.native_program

    def routes(self, latent: Size3, budget: int | None = None) -> dict[str, Route]:
        """The planner's ways for a latent (x, y, z) and bytes beyond the networks (None: any), by name."""
        return {route.name: route for route in self._routes.all(latent, budget)}

    def strategies(self, latent: Size3, **options: Any) -> list[Any]:
        """The runtime's own planning, for other machines than this one."""
        return list(_native.strategies(self._program, latent, **options))

    def whole_bytes(self, latent: Size3) -> int:
        """What the whole network is predicted to take beyond its weights and the result."""
        route = self.routes(latent).get(WHOLE)
        voxels = float(np.prod(self._routes.output_size(latent)))
        footprint = self.manifest.networks[NETWORK].footprint
        if route is None or route.peak_bytes is None:
            assert footprint is not None
            return int(footprint.bytes_per_voxel * voxels)
        return route.peak_bytes

    def output_size(self, latent: Size3) -> Size3:
        """Extents of the image."""
        return self._routes.output_size(latent)

    def run(self, latent: Float32, route: Route, take: Callable[[int, Float32], None] | None = None) -> Decoded:
        """Decode a latent (channels, x, y, z). ``take`` is given first row and rows (z, y, x, 1), and no image kept."""
        if route.name == WHOLE:
            return self.windowed(latent, None, 0.0)
        x, y, z = self.output_size(_extents(latent))
        image = np.empty((z, y, x) if take is None else (0, 0, 0), np.float32)
        borders: list[int] = []

        def sink(first: int, rows: Float32) -> None:
            if first:
                borders.append(first)
            if take is None:
                image[first : first + len(rows)] = rows[..., 0]
            else:
                take(first, rows)

        program = self.manifest.networks[NETWORK].program
        assert program is not None
        assert route.strategy is not None
        stages = {stage.name: stage for stage in program.stages}
        rows = np.ascontiguousarray(latent.transpose(3, 2, 1, 0)) / np.float32(self.manifest.latent.scale_factor)
        start = time.perf_counter()
        _native.run_program(
            self._program,
            lambda name: self._sessions.stage(NETWORK, stages[name], program.input, program.output),
            rows,
            route.strategy,
            sink=sink,
            element_bytes=self._routes.element_bytes,
            threads=self.threads,
            scratch=self.scratch,
            workspace=self._sessions.workspace(NETWORK),
        )
        return Decoded(image.T, time.perf_counter() - start, borders)

    def windowed(self, latent: Float32, window: Sequence[int] | None, overlap: float) -> Decoded:
        """Decode through the whole network: in one call, or in overlapping windows of latent voxels."""
        settings = self.manifest.latent
        session = self._sessions.get(NETWORK)
        start = time.perf_counter()
        image = _native.decode(session, latent, settings.scale_factor, settings.compression, window, overlap)
        return Decoded(image, time.perf_counter() - start)


def _extents(latent: Float32) -> Size3:
    x, y, z = latent.shape[1:]
    return x, y, z
