"""A PNG that shows a volume at a glance: three planes in two windows.

Radiological convention: the patient's right is on the left of axial and coronal views, the front is up in axial and on
the left in sagittal views, the head is up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from ..volume import Volume

Pixels = NDArray[Any]

# Name, level and width in HU.
CT_WINDOWS = (("soft tissue", 40.0, 400.0), ("bone", 500.0, 2000.0))
_PANE = 320  # pixels of the longest side of the largest plane
_GAP = 8
_HEADER = 22
_BACKGROUND = 16
_TEXT = (235, 235, 235)
_DIM = (150, 150, 150)
# Colours that stay apart on grey for readers with the usual kinds of colour blindness (Okabe and Ito, 2008).
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_PLANES = (("axial", 2, "R", "L"), ("coronal", 1, "R", "L"), ("sagittal", 0, "A", "P"))


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
    sides = [_pane_size(extents, axis, scale) for _, axis, _, _ in _PLANES]
    width = sum(w for w, _ in sides) + _GAP * (len(sides) + 1)
    row = max(h for _, h in sides) + _GAP
    page = Image.new("RGB", (width, _HEADER + row * len(windows)), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 5), _title(volume), fill=_TEXT)
    for line, (window, level, span) in enumerate(windows):
        left = _GAP
        for (plane, axis, low, high), side in zip(_PLANES, sides, strict=True):
            top = _HEADER + line * row
            pane = _pane(array, axis, where[axis], level, span, side)
            if outlined is not None:
                _outline(pane, _slice(outlined, axis, where[axis]))
            page.paste(pane, (left, top))
            _annotate(draw, (left, top), side, f"{plane}, {window}", low, high)
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


def _slice(array: Pixels, axis: int, index: int) -> Pixels:
    """One plane as rows (top first) and columns (left first) in radiological convention."""
    plane = np.take(array, index, axis=axis).T
    # Axial and coronal: x falls, so that the right is on the left. Sagittal: y falls, so that the front is on the left.
    return np.asarray(plane[::-1, ::-1])


def _pane_size(extents: NDArray[np.float64], axis: int, scale: float) -> tuple[int, int]:
    across, down = (extent for other, extent in enumerate(extents) if other != axis)
    return max(1, round(float(across) * scale)), max(1, round(float(down) * scale))


def _pane(array: Pixels, axis: int, index: int, level: float, span: float, side: tuple[int, int]) -> Image:
    from PIL import Image

    plane = _slice(array, axis, index).astype(np.float32)
    grey = np.clip((plane - (level - span / 2)) / span * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).resize(side, Image.Resampling.BICUBIC).convert("RGB")


def _outline(pane: Image, labels: Pixels) -> None:
    """Colour the inner edge of every label, one pixel wide."""
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
    pixels[edge] = np.array(_COLOURS, dtype=np.uint8)[here[edge] % len(_COLOURS)]
    pane.paste(Image.fromarray(pixels))


def _annotate(draw: ImageDraw, corner: tuple[int, int], side: tuple[int, int], name: str, low: str, high: str) -> None:
    left, top = corner
    middle = top + side[1] // 2 - 6
    draw.text((left + 4, top + 3), name, fill=_DIM, stroke_width=1, stroke_fill=(0, 0, 0))
    draw.text((left + 4, middle), low, fill=_DIM, stroke_width=1, stroke_fill=(0, 0, 0))
    draw.text((left + side[0] - 10, middle), high, fill=_DIM, stroke_width=1, stroke_fill=(0, 0, 0))
