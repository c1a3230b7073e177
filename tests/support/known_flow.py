"""A flow whose solution is known: data of which every element is normal, so that noise e becomes MEAN + SD * e."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctfast import _native
from ctfast.errors import CancelledError
from ctfast.evaluate.subject import Setting
from ctfast.observer import Observer

MEAN, SD = 0.7, 0.5
SHAPE = (2, 4, 4, 4)
VOXELS = 64  # spatial positions of SHAPE
BASE_VOXELS = 8


class KnownFlow:
    """A Subject; ``calls`` counts those of the velocity, ``samples`` the settings that were sampled."""

    def __init__(self) -> None:
        self.calls = 0
        self.samples: list[Setting] = []

    def velocity(self, x: NDArray[np.float32], t: float) -> NDArray[np.float32]:
        self.calls += 1
        s = t / 1000
        spread = (1 - s) ** 2 * SD**2 + s**2
        return np.asarray(MEAN + ((1 - s) * SD**2 - s) / spread * (x - (1 - s) * MEAN), np.float32)

    def sample(self, seed: int, setting: Setting, observer: Observer) -> NDArray[np.float32]:
        self.samples.append(setting)
        if not observer("sample", 0, setting.steps):
            raise CancelledError("cancelled")
        if setting.times is None:
            t, dt = _native.rflow_time_grid(setting.steps, VOXELS, setting.time_grid, base_voxels=BASE_VOXELS)
        else:
            t, dt = _native.given_time_grid(setting.times, VOXELS, base_voxels=BASE_VOXELS)
        return _native.integrate(setting.solver, t, dt, self.velocity, noise(seed))

    def image(self, latent: NDArray[np.float32], observer: Observer) -> NDArray[Any]:
        return np.asarray(latent[0] * 1000 - 1000, np.float64)

    def limits(self) -> tuple[float | None, float | None]:
        return -1000.0, 1000.0

    def train_steps(self) -> int:
        return 1000

    def about(self) -> dict[str, Any]:
        return {"plan": {"name": "known"}, "unit": "HU"}


def noise(seed: int) -> NDArray[np.float32]:
    """What a seed starts from."""
    return _native.fill_normal(seed, 0, SHAPE)


def solution(seed: int) -> NDArray[np.float64]:
    """What it becomes."""
    return MEAN + SD * noise(seed).astype(np.float64)
