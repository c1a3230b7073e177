"""What a plan's networks meet while it generates: the data that quantisation is calibrated on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ctfast import _native
from ctfast.backends import Backend
from ctfast.engine import Engine
from ctfast.manifest import PlanManifest, Size3
from ctfast.observer import Observer
from ctfast.request import DDPM_SOLVERS, Request, RequestWarning, check

#: The largest extent of a volume that is sampled: what a call takes must not grow with the sizes that a plan is for.
LARGEST = 128
#: Of a schedule with more steps only so many, evenly spread, are taken.
STEPS = 30
#: Seeds from here on, so that no volume that is looked at later starts from the same noise.
FIRST_SEED = 1 << 48

#: Inputs of one call by name.
Call = Mapping[str, NDArray[Any]]


def recorded(plan: Path, networks: Collection[str], count: int, watch: Observer) -> dict[str, list[Call]]:
    """Inputs of about ``count`` calls of each network, spread over whole samplings of ``plan``.

    A plan with a ControlNet samples half of its volumes with a mask, of ellipsoids of its labels. Inputs that a call
    without a mask lacks are given as zeros. CancelledError: the observer asked to stop.
    """
    engine = _Recording(plan, networks)
    manifest = engine.manifest
    size = _bounded(manifest)
    ddpm = manifest.schedule.kind == "ddpm"
    steps = min(manifest.schedule.steps, STEPS)
    kinds = (True, False) if manifest.conditioning.controlnet else (False,)
    runs = len(kinds) * max(1, math.ceil(count / (steps * len(kinds))))
    engine.stride = max(1, steps * runs // count)
    for run in range(runs):
        seed = FIRST_SEED + run
        mask = _ellipsoids(manifest, size, seed) if kinds[run % len(kinds)] else None
        solver = DDPM_SOLVERS[1] if ddpm else None
        engine.sample(Request(size=size, steps=steps, solver=solver, seed=seed, mask=mask), watch)
    return {name: _complete(calls) for name, calls in engine.calls.items()}


class _Recording(Engine):
    """An engine that samples, and keeps what some networks are called with."""

    def __init__(self, plan: Path, networks: Collection[str]) -> None:
        super().__init__(plan, device="cpu", backend="openvino")
        self.calls: dict[str, list[Call]] = {name: [] for name in networks}
        self.stride = 1
        self._sessions.backend = cast(Backend, _Wrapped(self._sessions.backend, self))

    def sample(self, request: Request, watch: Observer) -> None:
        """Sample a latent of any size that the networks can be called with."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RequestWarning)
            job = check(request, self.manifest, any_grid=True)
        self._sample(job, {}, watch)

    def watched(self, network: str, session: _native.Session) -> _native.Session:
        """The same session, of whose calls every ``stride``-th is kept."""
        seen = 0

        def run(given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            nonlocal seen
            if seen % self.stride == 0:
                self.calls[network].append({name: np.array(values) for name, values in given.items()})
            seen += 1
            return session.run(given)

        return _native.CallableSession(session.inputs, session.outputs, run)


class _Wrapped:
    """A backend whose sessions an engine watches."""

    def __init__(self, backend: Backend, engine: _Recording) -> None:
        self._backend, self._engine = backend, engine

    def open(self, network: str, drop: Sequence[str] = ()) -> _native.Session:
        session = self._backend.open(network, drop)
        return self._engine.watched(network, session) if network in self._engine.calls else session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _bounded(manifest: PlanManifest) -> Size3:
    """The plan's default size, or less along axes that are longer than LARGEST."""
    multiple = manifest.sizes.rule.multiple
    x, y, z = (min(extent, max(LARGEST // multiple, 1) * multiple) for extent in manifest.sizes.default)
    return x, y, z


def _ellipsoids(manifest: PlanManifest, size: Size3, seed: int) -> NDArray[np.uint16]:
    """A label map with every label of the plan's that has room, in an ellipsoid of its body where it names one."""
    assert manifest.labels is not None
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, extent) for extent in size), indexing="ij"))
    labels = np.zeros(size, np.uint16)

    def draw(label: int, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> None:
        shifted = (grid - centre.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
        labels[(shifted**2).sum(0) <= 1] = label

    body = manifest.labels.body
    named = [label for label in sorted(manifest.labels.names) if label != body]
    draw(named[0] if body is None else body, np.zeros(3), np.full(3, 0.9))
    for label in named:
        draw(label, rng.uniform(-0.6, 0.6, 3), rng.uniform(0.1, 0.3, 3))
    return labels


def _complete(calls: Sequence[Call]) -> list[Call]:
    """The calls, all with the same inputs: zeros stand for those that only calls with a mask have."""
    fullest = max(calls, key=len)
    zeros = {name: np.zeros_like(values) for name, values in fullest.items()}
    return [{name: call.get(name, zero) for name, zero in zeros.items()} for call in calls]
