"""Planes of a volume as grey pictures, in radiological convention.

The patient's right is on the left of axial and coronal views, the front is up in axial and on the left in sagittal
views, the head is up. Arrays are (x, y, z) in RAS+.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Pixels = NDArray[Any]

BACKGROUND = 16
BRIGHT = (235, 235, 235)
DIM = (150, 150, 150)
# Colours that stay apart on grey for readers with the usual kinds of colour blindness (Okabe and Ito, 2008).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
# Name, the axis that it is perpendicular to, and what is on its left and right.
PLANES = (("axial", 2, "R", "L"), ("coronal", 1, "R", "L"), ("sagittal", 0, "A", "P"))


def plane_of(array: Pixels, axis: int, index: int) -> Pixels:
    """One plane as rows (top first) and columns (left first)."""
    plane = np.take(array, index, axis=axis).T
    # Axial and coronal: x falls, so that the right is on the left. Sagittal: y falls, so that the front is on the left.
    return np.asarray(plane[::-1, ::-1])


def pane_size(extents: Sequence[float] | NDArray[np.float64], axis: int, scale: float) -> tuple[int, int]:
    """Width and height in pixels of a plane of a volume of ``extents`` mm, at ``scale`` pixels a mm."""
    across, down = (extent for other, extent in enumerate(extents) if other != axis)
    return max(1, round(float(across) * scale)), max(1, round(float(down) * scale))


def grey_pane(plane: Pixels, level: float, width: float, side: tuple[int, int]) -> Image:
    """A plane of ``plane_of`` in a window of HU as an RGB picture of ``side`` (width, height) pixels."""
    from PIL import Image

    grey = np.clip((plane.astype(np.float32) - (level - width / 2)) / width * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).resize(side, Image.Resampling.BICUBIC).convert("RGB")


def outline(pane: Image, labels: Pixels) -> None:
    """Colour the inner edge of every label of a plane of ``plane_of``, one pixel wide."""
    from PIL import Image

    height, width = pane.height, pane.width
    rows = (np.arange(height) * labels.shape[0]) // height
    columns = (np.arange(width) * labels.shape[1]) // width
    large = np.pad(labels[np.ix_(rows, columns)], 1, mode="edge")
    here = large[1:-1, 1:-1]
    neighbours = (large[:-2, 1:-1], large[2:, 1:-1], large[1:-1, :-2], large[1:-1, 2:])
    same = np.logical_and.reduce([here == neighbour for neighbour in neighbours])
    edge = (here > 0) & ~same
    pixels = np.array(pane)
    pixels[edge] = np.array(COLOURS, dtype=np.uint8)[here[edge] % len(COLOURS)]
    pane.paste(Image.fromarray(pixels))


def annotate(draw: ImageDraw, corner: tuple[int, int], side: tuple[int, int], name: str, low: str, high: str) -> None:
    """Write a pane's name into its upper left corner, and what lies on its left and right to its sides."""
    left, top = corner
    middle = top + side[1] // 2 - 6
    for x, y, text in ((left + 4, top + 3, name), (left + 4, middle, low), (left + side[0] - 10, middle, high)):
        draw.text((x, y), text, fill=DIM, stroke_width=1, stroke_fill=(0, 0, 0))
