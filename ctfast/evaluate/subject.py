"""What a sweep asks of a plan: a latent for a seed and a way of sampling, and the image of a latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..observer import Observer

if TYPE_CHECKING:
    from ..engine import Engine

#: Network calls that a step takes, where it is not one.
CALLS_PER_STEP: Mapping[str, int] = {"heun": 2}


@dataclass(frozen=True)
class Setting:
    """A way of sampling: solver, number of steps, and the times at which they begin.

    ``time_grid`` is the name of a grid that ctfast knows; with ``times``, as ``Request.time_grid`` takes them, it is a
    name for those.
    """

    solver: str
    time_grid: str
    steps: int
    times: tuple[float, ...] | None = None

    @property
    def calls(self) -> int:
        """How often the denoiser is called; a guided call, which computes two predictions, counts once."""
        return self.steps * CALLS_PER_STEP.get(self.solver, 1)

    def __str__(self) -> str:
        """As tables show it."""
        return f"{self.solver} {self.steps} ({self.time_grid})"


class Subject(Protocol):
    """A flow whose solvers are compared."""

    def sample(self, seed: int, setting: Setting, observer: Observer) -> NDArray[np.float32]:
        """The latent of a seed."""

    def image(self, latent: NDArray[np.float32], observer: Observer) -> NDArray[Any]:
        """The image of a latent, in the unit in which distances are told."""

    def limits(self) -> tuple[float | None, float | None]:
        """The lowest and the highest intensity, where they are known."""

    def train_steps(self) -> int:
        """The time of pure noise."""

    def about(self) -> dict[str, Any]:
        """What is measured, JSON-ready; "unit" is that of the image."""


class EngineSubject:
    """A loaded plan of a rectified flow; ``request`` is what all its volumes have in common (size, modality, ...)."""

    def __init__(self, engine: Engine, request: Mapping[str, Any] | None = None) -> None:
        """RequestError if the plan's model is not a rectified flow."""
        kind = engine.manifest.schedule.kind
        if kind != "rflow":
            raise RequestError(
                f"plan '{engine.manifest.name}' samples by {kind}: expected a rectified flow, whose solvers take the "
                "same path in few steps or many. Give another plan with --engine"
            )
        self._engine = engine
        self._request = {key: value for key, value in (request or {}).items() if value is not None}

    def sample(self, seed: int, setting: Setting, observer: Observer) -> NDArray[np.float32]:
        """The latent of a seed."""
        return self._engine.sample_latent(
            **self._request,
            seed=seed,
            solver=setting.solver,
            steps=setting.steps,
            time_grid=setting.time_grid if setting.times is None else setting.times,
            progress=observer,
        )

    def image(self, latent: NDArray[np.float32], observer: Observer) -> NDArray[Any]:
        """The decoded volume."""
        return self._engine.decode(latent, spacing=self._request.get("spacing"), progress=observer).array

    def limits(self) -> tuple[float | None, float | None]:
        """Those of the plan's intensities."""
        intensity = self._engine.manifest.intensity
        return intensity.low, intensity.high

    def train_steps(self) -> int:
        """That of the plan's schedule."""
        return self._engine.manifest.schedule.train_steps

    def about(self) -> dict[str, Any]:
        """The plan and what computes it."""
        engine = self._engine
        networks = [name for name in ("denoiser", "vae_decoder") if name in engine.manifest.networks]
        return {
            "plan": {"name": engine.manifest.name, "variant": engine.manifest.variant, "sha256": engine.identity},
            "request": {
                "size": list(engine.manifest.sizes.default),
                **{key: _plain(value) for key, value in self._request.items()},
            },
            "backend": engine.backend,
            "device": engine.device,
            "precision": {name: engine.precision(name) for name in networks},
            "unit": engine.manifest.intensity.unit,
        }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
