"""Model families: what a request means to the networks of each. One file per family."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..manifest import PlanManifest

Region = tuple[float, float, float, float]


class Family(Protocol):
    """What the engine asks a family; ``maisi`` is the first."""

    def default_guidance(self, manifest: PlanManifest) -> float:
        """Guidance scale when the request names none."""

    def guidance_kind(self, manifest: PlanManifest, masked: bool) -> str | None:
        """ "modality" or "tumour", or None if such a request cannot be guided."""

    def region_names(self) -> tuple[str, ...]:
        """Names of the body regions, from head to foot."""

    def regions(self, names: tuple[str, str] | None, labels: NDArray[np.uint16] | None) -> tuple[Region, Region]:
        """Top and bottom region as one-hots: the named ones, else those of the label map, else the family's default."""

    def condition_maps(
        self, manifest: PlanManifest, labels: NDArray[np.uint16], guidance_kind: str
    ) -> tuple[NDArray[np.uint16], ...]:
        """The label maps that the ControlNet is shown: the mask and, under tumour guidance, one without tumours."""


def family_of(manifest: PlanManifest) -> Family:
    """The family that a plan names; PlanError if this ctfast does not know it."""
    from . import maisi

    known: dict[str, Family] = dict.fromkeys(maisi.FAMILIES, maisi)
    if manifest.family not in known:
        names = ", ".join(sorted(known))
        raise PlanError(
            f"plan '{manifest.name}' is of family '{manifest.family}'; this ctfast knows {names}. Install a newer one"
        )
    return known[manifest.family]
