"""A picture of several volumes side by side: rows are volumes, columns axial, coronal and sagittal planes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Level and width in HU: soft tissue with bone still told apart.
LEVEL, WIDTH = 100.0, 900.0
_MM_PER_PIXEL = 2.0
_GAP, _HEADER = 6, 20


def write_montage(path: Path, columns: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """Write a PNG: one block of columns per (title, volumes), one row per volume, through the volumes' centres.

    Radiological convention, as in ctfast's previews: right is left, front and head are up, front is left in sagittal.
    """
    from PIL import Image, ImageDraw

    def panes(volume: Any) -> list[Any]:
        return [_pixels(plane) for plane in _planes(volume)]

    blocks = [(title, [panes(volume) for volume in volumes]) for title, volumes in columns]
    width = sum(sum(pane.width + _GAP for pane in rows[0]) + _GAP for _, rows in blocks) + _GAP
    heights = [max(pane.height for _, rows in blocks for pane in rows[line]) for line in range(len(blocks[0][1]))]
    page = Image.new("L", (width, _HEADER + sum(height + _GAP for height in heights)), 16)
    draw = ImageDraw.Draw(page)
    left = _GAP
    for title, rows in blocks:
        draw.text((left, 4), title, fill=235)
        top = _HEADER
        for row, height in zip(rows, heights, strict=True):
            x = left
            for pane in row:
                page.paste(pane, (x, top + (height - pane.height) // 2))
                x += pane.width + _GAP
            top += height + _GAP
        left += sum(pane.width + _GAP for pane in rows[0]) + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True)


def _planes(volume: Any) -> list[tuple[NDArray[np.int16], tuple[float, float]]]:
    """Axial, coronal and sagittal plane as rows from the top, with mm per pixel (right, down)."""
    array, (x, y, z) = volume.array, volume.spacing
    i, j, k = (extent // 2 for extent in array.shape)
    return [
        (array[::-1, ::-1, k].T, (x, y)),
        (array[::-1, j, ::-1].T, (x, z)),
        (array[i, ::-1, ::-1].T, (y, z)),
    ]


def _pixels(plane: tuple[NDArray[np.int16], tuple[float, float]]) -> Any:
    from PIL import Image

    hu, (across, down) = plane
    grey = np.clip((hu - (LEVEL - WIDTH / 2)) / WIDTH, 0, 1) * 255
    height, width = hu.shape
    size = (round(width * across / _MM_PER_PIXEL), round(height * down / _MM_PER_PIXEL))
    return Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
