"""Whether generated volumes are copies of the training set: how near its nearest member is, beside real volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HU = NDArray[np.float32]
# Volumes are compared as means over this many blocks a side, which noise and small shifts leave alike.
SIDE = 24
# Nearer than this part of the real volumes counts as suspiciously near.
_QUANTILE = 0.05


def coarse(hu: HU) -> NDArray[np.float32]:
    """A volume as SIDE^3 block means of HU clipped to ±1000, flat."""
    import torch
    from torch.nn.functional import adaptive_avg_pool3d

    volume = torch.from_numpy(np.clip(hu, -1000, 1000))[None, None]
    flat: NDArray[np.float32] = adaptive_avg_pool3d(volume, SIDE).numpy().ravel()
    return flat


@dataclass(frozen=True)
class Neighbours:
    """For each volume the nearest of the training set by number, and how far it is, RMS in HU."""

    nearest: NDArray[np.intp]
    distance: NDArray[np.float64]


def nearest(volumes: Sequence[HU], training: Sequence[HU]) -> Neighbours:
    """The nearest training volume of each volume, both as ``coarse`` gives them."""
    library = np.stack(training)
    found = [np.sqrt(np.square(library - volume).mean(1, dtype=np.float64)) for volume in volumes]
    indices = np.array([int(row.argmin()) for row in found], np.intp)
    return Neighbours(indices, np.array([row.min() for row in found]))


def too_near(generated: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which generated volumes are nearer to the training set than the nearest twentieth of unseen real volumes."""
    near: NDArray[np.bool_] = generated < np.quantile(real, _QUANTILE)
    return near


def share_too_near(generated: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """Part of the generated volumes nearer to the training set than the nearest twentieth of unseen real volumes.

    About 0.05 if they keep the distance that real ones do, 1 if they are copies.
    """
    return float(too_near(generated, real).mean())


def chance_nearer(generated: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """How probable it is that a generated volume is nearer than a real one: 0.5 if neither tends to be."""
    less = (generated[:, None] < real).mean()
    equal = (generated[:, None] == real).mean()
    return float(less + equal / 2)
