"""What the official MAISI variants take and give: the parts of a plan's manifest that no checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ..manifest import Conditioning, Intensity, Labels, Modality, Schedule, SizeRule, Sizes, SpacingRange
from .maisi_vocabulary import BRAIN_MODALITIES, CT_LABELS, CT_MODALITIES, MR_MODALITIES


@dataclass(frozen=True)
class Profile:
    """The request side of a variant."""

    sizes: Sizes
    intensity: Intensity
    modality: Modality
    schedule: Schedule
    conditioning: Conditioning
    labels: Labels | None


_CT_RULE = SizeRule(xy=(256, 384, 512), z=(128, 256, 384, 512, 640, 768), multiple=128)
_MR_RULE = SizeRule(
    legal=(
        *((side, side, 128) for side in (128, 256, 384, 512)),
        *((x, y, 256) for x, y in product((128, 256), repeat=2) if (x, y) != (128, 128)),
    ),
    multiple=128,
)
_CT = Intensity(kind="ct", unit="HU", scale=2000.0, offset=-1000.0, low=-1000.0, high=1000.0, air=-1000.0)
# MR intensities have no unit and, in the official scripts, no upper limit.
_MR = Intensity(kind="mr", unit="arbitrary", scale=1000.0, offset=0.0, low=0.0, high=None, air=0.0)
_FLOW = Schedule(
    kind="rflow", train_steps=1000, base_voxels=32768, transform=True, steps=30, solver="euler", time_grid="monai"
)
_DDPM = Schedule(
    kind="ddpm",
    train_steps=1000,
    base_voxels=32768,
    transform=False,
    steps=1000,
    solver="ddpm",
    time_grid="monai",
    beta_start=0.0015,
    beta_end=0.0195,
)
_MR_LOW, _MR_HIGH = (0.4, 0.4, 0.4), (5.0, 5.0, 5.0)
_CT_LOW, _CT_HIGH = (0.5, 0.5, 0.5), (3.0, 3.0, 5.0)

PROFILES: dict[str, Profile] = {
    "ddpm-ct": Profile(
        sizes=Sizes((256, 256, 128), _CT_RULE, SpacingRange((1.0, 1.0, 0.75), _CT_LOW, _CT_HIGH)),
        intensity=_CT,
        modality=Modality(None, {}),
        schedule=_DDPM,
        conditioning=Conditioning(spacing=True, region=True, class_label=False, controlnet=True),
        labels=CT_LABELS,
    ),
    "rflow-ct": Profile(
        sizes=Sizes((256, 256, 128), _CT_RULE, SpacingRange((1.7, 1.7, 2.0), _CT_LOW, _CT_HIGH)),
        intensity=_CT,
        modality=Modality(1, CT_MODALITIES),
        schedule=_FLOW,
        conditioning=Conditioning(spacing=True, region=False, class_label=True, controlnet=True),
        labels=CT_LABELS,
    ),
    "rflow-mr": Profile(
        sizes=Sizes((128, 256, 256), _MR_RULE, SpacingRange((1.25, 1.0, 1.0), _MR_LOW, _MR_HIGH)),
        intensity=_MR,
        modality=Modality(9, MR_MODALITIES),
        schedule=_FLOW,
        conditioning=Conditioning(spacing=True, region=False, class_label=True, controlnet=False),
        labels=None,
    ),
    "rflow-mr-brain": Profile(
        sizes=Sizes((256, 256, 128), _MR_RULE, SpacingRange((0.94, 0.94, 1.36), _MR_LOW, _MR_HIGH)),
        intensity=_MR,
        modality=Modality(9, BRAIN_MODALITIES),
        schedule=_FLOW,
        conditioning=Conditioning(spacing=True, region=False, class_label=True, controlnet=False),
        labels=None,
    ),
}
