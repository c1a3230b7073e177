"""How far volumes sampled in few network calls are from the same seeds' volumes sampled in many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.atomic import output_error
from ..observer import Observer
from .subject import Setting, Subject

#: Above this part of the intensities' range a voxel is body: -900 on [-1000, 1000] HU.
BODY_LEVEL = 0.05


@dataclass(frozen=True)
class Distance:
    """One volume's distance from its reference: RMS of the latent, and of the image inside the reference's body."""

    seed: int
    latent_rms: float
    image_rms: float


@dataclass(frozen=True)
class Row:
    """The distances of one setting; every seed weighs the same, whatever the size of its body."""

    setting: Setting
    distances: tuple[Distance, ...]

    @property
    def latent_rms(self) -> float:
        """Root of the mean square over the seeds."""
        return _rms([distance.latent_rms for distance in self.distances])

    @property
    def image_rms(self) -> float:
        """Root of the mean square over the seeds."""
        return _rms([distance.image_rms for distance in self.distances])

    def within(self, other: Row) -> int:
        """For how many seeds this image is at most as far from the reference as the other's is."""
        far = {distance.seed: distance.image_rms for distance in other.distances}
        return sum(distance.image_rms <= far[distance.seed] for distance in self.distances)

    def psnr(self, span: float) -> float | None:
        """PSNR in dB for intensities that span ``span``; None where there is no difference."""
        return 20 * math.log10(span / self.image_rms) if self.image_rms > 0 else None

    def as_dict(self, span: float) -> dict[str, Any]:
        """JSON-ready; times in full only where they have no name."""
        setting = self.setting
        psnr = self.psnr(span)
        return {
            "solver": setting.solver,
            "time_grid": setting.time_grid,
            **({} if setting.times is None else {"times": list(setting.times)}),
            "steps": setting.steps,
            "calls": setting.calls,
            "latent_rms": self.latent_rms,
            "image_rms": self.image_rms,
            "psnr_db": None if psnr is None else round(psnr, 3),
            "per_seed": [vars(distance) for distance in self.distances],
        }


class References:
    """The reference latents and images of some seeds, in files of ``folder``: one pair is in memory at a time.

    ``span`` is that of the intensities: the subject's, or the references' own where it does not say.
    """

    def __init__(
        self, subject: Subject, setting: Setting, seeds: Sequence[int], folder: Path, observer: Observer
    ) -> None:
        """Sample and decode the references."""
        self.setting = setting
        self.seeds = tuple(seeds)
        self._subject = subject
        self._folder = folder
        low, high = math.inf, -math.inf
        for seed in self.seeds:
            latent = subject.sample(seed, setting, observer)
            image = subject.image(latent, observer)
            low, high = min(low, float(image.min())), max(high, float(image.max()))
            self._keep(seed, "latent", latent)
            self._keep(seed, "image", image)
        known = subject.limits()
        self._low = low if known[0] is None else known[0]
        self.span = max((high if known[1] is None else known[1]) - self._low, 1e-9)

    def row(self, setting: Setting, observer: Observer) -> Row:
        """The distances of a setting, in latent and image."""
        return Row(setting, tuple(self._distance(seed, setting, observer) for seed in self.seeds))

    def latent_rms(self, setting: Setting, observer: Observer) -> float:
        """The latents' distance alone, which needs no decoding."""
        found = [
            _difference(self._subject.sample(seed, setting, observer), self._load(seed, "latent"))
            for seed in self.seeds
        ]
        return _rms(found)

    def _distance(self, seed: int, setting: Setting, observer: Observer) -> Distance:
        latent = self._subject.sample(seed, setting, observer)
        image = self._subject.image(latent, observer)
        level = self._low + BODY_LEVEL * self.span
        return Distance(
            seed,
            _difference(latent, self._load(seed, "latent")),
            _difference_inside(image, self._load(seed, "image"), level),
        )

    def _keep(self, seed: int, what: str, array: NDArray[Any]) -> None:
        path = self._file(seed, what)
        try:
            np.save(path, array)
        except OSError as error:
            raise output_error(path, error) from error

    def _file(self, seed: int, what: str) -> Path:
        return self._folder / f"{seed}_{what}.npy"

    def _load(self, seed: int, what: str) -> NDArray[Any]:
        loaded: NDArray[Any] = np.load(self._file(seed, what), mmap_mode="r")
        return loaded


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))


def _difference_inside(image: NDArray[Any], wanted: NDArray[Any], level: float) -> float:
    """The difference where ``wanted`` lies above the level, or everywhere if it does nowhere.

    Plane by plane: images may be large, and squares need eight bytes a voxel.
    """
    inside, voxels, whole = 0.0, 0, 0.0
    for ours, theirs in zip(image, wanted, strict=True):
        squares = np.square(ours.astype(np.float64) - theirs)
        body = theirs > level
        inside += float(squares[body].sum())
        voxels += int(body.sum())
        whole += float(squares.sum())
    return math.sqrt(inside / voxels) if voxels else math.sqrt(whole / wanted.size)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))
