"""A PNG that shows a volume at a glance: three planes in two windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .planes import BACKGROUND, BRIGHT, PLANES, Pixels, annotate, grey_pane, outline, pane_size, plane_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..volume import Volume

# Name, level and width in HU.
CT_WINDOWS = (("soft tissue", 40.0, 400.0), ("bone", 500.0, 2000.0))
_PANE = 320  # pixels of the longest side of the largest plane
_GAP = 8
_HEADER = 22


def write_preview(file: BinaryIO, volume: Volume) -> None:
    """Write the preview of ``volume`` as PNG; labels appear as outlines, the body's label as none."""
    render_preview(volume).save(file, format="PNG", optimize=False)


def render_preview(volume: Volume) -> Image:
    """The preview as a Pillow image: rows are windows, columns the axial, coronal and sagittal plane.

    The planes go through the centre of what is labelled, or of the volume where nothing is. Margins that are black in
    both windows are cut off.
    """
    from PIL import Image, ImageDraw

    windows = _windows(volume)
    box = _visible(volume.array, min(level - span / 2 for _, level, span in windows))
    array = volume.array[box]
    outlined = _outlined(volume)
    outlined = None if outlined is None else outlined[box]
    where = _centre(outlined, array.shape)
    extents = np.array(array.shape) * np.array(volume.spacing)
    scale = _PANE / float(extents.max())
    sides = [pane_size(extents, axis, scale) for _, axis, _, _ in PLANES]
    width = sum(w for w, _ in sides) + _GAP * (len(sides) + 1)
    row = max(h for _, h in sides) + _GAP
    page = Image.new("RGB", (width, _HEADER + row * len(windows)), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 5), _title(volume), fill=BRIGHT)
    for line, (window, level, span) in enumerate(windows):
        left = _GAP
        for (plane, axis, low, high), side in zip(PLANES, sides, strict=True):
            top = _HEADER + line * row
            pane = grey_pane(plane_of(array, axis, where[axis]), level, span, side)
            if outlined is not None:
                outline(pane, plane_of(outlined, axis, where[axis]))
            page.paste(pane, (left, top))
            annotate(draw, (left, top), side, f"{plane}, {window}", low, high)
            left += side[0] + _GAP
    return page


def _outlined(volume: Volume) -> NDArray[np.uint16] | None:
    if volume.labels is None:
        return None
    body = volume.meta.get("body_label")
    labels = volume.labels if body is None else np.where(volume.labels == body, 0, volume.labels).astype(np.uint16)
    return labels if labels.any() else volume.labels


def _visible(array: Pixels, black: float) -> tuple[slice, ...]:
    """The box of all voxels above ``black`` and a margin of two; everything if there are none."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (index,) = np.nonzero(array.max(axis=others) > black)
        box.append(slice(max(0, int(index[0]) - 2), int(index[-1]) + 3) if index.size else slice(None))
    return tuple(box)


def _centre(labels: NDArray[np.uint16] | None, size: tuple[int, ...]) -> list[int]:
    if labels is None or not labels.any():
        return [count // 2 for count in size]
    return [round(float(np.mean(index))) for index in np.nonzero(labels)]


def _windows(volume: Volume) -> tuple[tuple[str, float, float], ...]:
    if volume.meta.get("intensity", {}).get("kind", "ct") == "ct":
        return CT_WINDOWS
    low, middle, high = (float(value) for value in np.percentile(volume.array, (1, 90, 99.5)))
    return (
        ("full range", (low + high) / 2, max(high - low, 1.0)),
        ("dark tissue", (low + middle) / 2, max(middle - low, 1.0)),
    )


def _title(volume: Volume) -> str:
    meta = volume.meta
    size = " x ".join(str(count) for count in volume.size)
    spacing = " x ".join(f"{step:.3g}" for step in volume.spacing)
    words = ["SYNTHETIC, not for diagnostic use"] if meta.get("synthetic") else []
    if "plan" in meta:
        words.append(f"ctfast {meta['plan'].get('name', '')}")
    if "seed" in meta:
        words.append(f"seed {meta['seed']}" + (f" sample {meta['sample']}" if meta.get("sample") else ""))
    return "  |  ".join([*words, f"{size} voxels of {spacing} mm"])
