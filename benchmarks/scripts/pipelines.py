"""What both sides of a comparison are asked to do, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Size3 = tuple[int, int, int]

SPACING = (1.5, 1.5, 2.0)  # mm
MODALITY = 1  # CT
COMPRESSION = 4
LABEL_BITS = 8
#: Image values 0 to 1 are -1000 to 1000 HU.
HU_SCALE, HU_OFFSET = 2000.0, -1000.0


@dataclass(frozen=True)
class Request:
    """One volume: latent extent, steps, and the window (in latent voxels) of the official way of decoding."""

    latent: Size3
    steps: int
    control: bool
    window: Size3
    overlap: float

    @property
    def image(self) -> Size3:
        """Extent of the volume."""
        a, b, c = (COMPRESSION * extent for extent in self.latent)
        return a, b, c

    @property
    def windows_needed(self) -> bool:
        """Whether the official scripts decode this latent in windows: if one window holds fewer voxels."""
        return bool(np.prod(self.latent) > np.prod(self.window))


@dataclass(frozen=True)
class Timed:
    """A result and the seconds that it took."""

    array: Float32
    seconds: float


class Pipeline(Protocol):
    """One side: networks in memory, ready to be asked."""

    def load(self, folder: Path, dtype: str, threads: int) -> float:
        """Make ready to sample and decode; returns seconds."""

    def warm_up(self, request: Request, noise: Float32, labels: NDArray[np.uint16] | None) -> float:
        """Run each network once in the request's shapes, so that what happens once is not timed; returns seconds."""

    def sample(self, request: Request, noise: Float32, labels: NDArray[np.uint16] | None) -> Timed:
        """Noise (channels, x, y, z) to latent, the label map's condition included."""

    def decode(self, request: Request, latent: Float32, scale: float, windowed: bool) -> Timed:
        """Latent, divided by ``scale``, to image (x, y, z) as the network gives it; the time includes HU."""

    def about(self) -> dict[str, Any]:
        """What to keep with the figures, peak memory among it."""
