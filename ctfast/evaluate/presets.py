"""How papers prepare volumes for a feature network, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import RequestError

PLANES = ("xy", "yz", "zx")
AIR = -1000.0


@dataclass(frozen=True)
class Preset:
    """What happens to a volume in HU before it is cut into slices.

    ``spacing``: what it is resampled to in mm, None to leave it. ``size``: what it is padded with air or cut to about
    its centre, None to leave it. ``windows``: (low, high) in HU to clip to, by name; each gives figures of its own.
    ``centre_share``: the middle part of a plane's slices that is kept. ``published``: whether a paper works so, that is
    whether figures may be compared with one.
    """

    name: str
    spacing: tuple[float, float, float] | None
    size: tuple[int, int, int] | None
    windows: Mapping[str, tuple[float, float]]
    centre_share: float
    published: bool
    about: str


def _level_width(level: float, width: float) -> tuple[float, float]:
    return level - width / 2, level + width / 2


_FULL = {"full": (-1000.0, 1000.0)}

PRESETS = {
    preset.name: preset
    for preset in (
        Preset("native", None, None, _FULL, 0.5, False, "the grid as it is, the middle half of the slices"),
        Preset(
            "maisi-v2",
            (1.0, 1.0, 1.0),
            (512, 512, 512),
            _FULL,
            0.5,
            True,
            "1 mm, 512 x 512 x 512 with air around, the middle half of the slices",
        ),
        Preset("jade", None, (256, 256, 256), _FULL, 1.0, True, "256 x 256 x 256 with air around, all slices"),
        Preset(
            "medsyn2",
            (0.7, 0.7, 0.7),
            (448, 448, 448),
            {
                "lung": _level_width(-600, 1500),
                "vessel": _level_width(100, 700),
                "soft": _level_width(50, 350),
                "bone": _level_width(300, 2000),
            },
            1.0,
            True,
            "0.7 mm, 448 x 448 x 448 with air around, four display windows, all slices",
        ),
        Preset(
            "foundation-vae",
            None,
            (512, 512, 128),
            _FULL,
            1.0,
            True,
            "512 x 512 x 128 with air around, all slices",
        ),
    )
}


def preset_of(name: str) -> Preset:
    """The preset of a name; RequestError lists those there are."""
    if name not in PRESETS:
        raise RequestError(f"preset: expected one of {', '.join(PRESETS)}, found '{name}'")
    return PRESETS[name]
