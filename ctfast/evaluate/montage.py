"""Pictures of volumes for a report: three planes through the centre, in radiologists' windows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RequestError
from ..io.planes import BACKGROUND, PLANES, annotate, grey_pane, outline, pane_size, plane_of
from .volumes import Item, Scan, load_scan

_PANE = 200  # pixels of the longest side of the largest plane
_GAP = 4
_QUALITY = 82


@dataclass(frozen=True)
class Window:
    """Which HU become black and white: ``level`` is the middle, ``width`` how far they are apart."""

    name: str
    width: float
    level: float

    @property
    def title(self) -> str:
        """As in "bone W1800 L400"."""
        return f"{self.name} W{self.width:g} L{self.level:g}"


WINDOWS = {
    "soft": Window("soft tissue", 400.0, 40.0),
    "bone": Window("bone", 1800.0, 400.0),
    "lung": Window("lung", 1500.0, -600.0),
    "brain": Window("brain", 80.0, 40.0),
}
DEFAULT_WINDOWS = ("soft", "bone", "lung")


@dataclass(frozen=True)
class Picture:
    """A JPEG, its size in pixels, and what it shows in words."""

    jpeg: bytes
    width: int
    height: int
    about: str


def windows_of(names: Sequence[str] | None) -> tuple[Window, ...]:
    """The windows of some names, the default ones for None; RequestError for a name that there is not."""
    chosen = tuple(DEFAULT_WINDOWS if names is None else names)
    unknown = [name for name in chosen if name not in WINDOWS]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise RequestError(f"windows: expected different ones of {', '.join(WINDOWS)}; found '{','.join(chosen)}'")
    return tuple(WINDOWS[name] for name in chosen)


def picture_of(item: Item, windows: Sequence[Window]) -> Picture:
    """A volume's picture; it is read, and let go again. RequestError if it cannot be read."""
    return render(load_scan(item), windows)


def render(scan: Scan, windows: Sequence[Window]) -> Picture:
    """Columns are windows, rows the axial, coronal and sagittal plane through the centre of the volume.

    Where there are labels, a last column shows the first window with their outlines. Pixels are square in mm.
    """
    from PIL import Image, ImageDraw

    extents = np.array(scan.hu.shape) * np.array(scan.spacing)
    scale = _PANE / float(extents.max())
    sides = [pane_size(extents, axis, scale) for _, axis, _, _ in PLANES]
    columns = [(window, False) for window in windows] + ([(windows[0], True)] if scan.labels is not None else [])
    step = max(width for width, _ in sides) + _GAP
    size = (step * len(columns) - _GAP, sum(height for _, height in sides) + _GAP * (len(sides) - 1))
    page = Image.new("RGB", size, (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(page)
    top = 0
    for (plane, axis, low, high), side in zip(PLANES, sides, strict=True):
        index = scan.hu.shape[axis] // 2
        for column, (window, outlined) in enumerate(columns):
            pane = grey_pane(plane_of(scan.hu, axis, index), window.level, window.width, side)
            if outlined and scan.labels is not None:
                outline(pane, plane_of(scan.labels, axis, index))
            corner = (column * step, top)
            page.paste(pane, corner)
            name = plane if column == 0 else ""
            annotate(draw, corner, side, name, low, high)
        top += side[1] + _GAP
    stream = io.BytesIO()
    page.save(stream, format="JPEG", quality=_QUALITY, optimize=True, subsampling=0)
    shown = ", ".join(window.title for window in windows)
    about = f"axial, coronal and sagittal plane; from left to right {shown}"
    if scan.labels is not None:
        about += f", and {windows[0].name} with labels outlined"
    return Picture(stream.getvalue(), *size, about)
