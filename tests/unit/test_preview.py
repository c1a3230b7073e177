"""The preview: which side is which, proportions, windows and outlines."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctfast.io import planes, preview
from ctfast.volume import Volume

SPACING = (2.0, 2.0, 4.0)


def volume(array: Any, labels: Any = None, meta: Any = None) -> Volume:
    return Volume(array.astype(np.int16), np.diag([*SPACING, 1.0]), labels, meta or {"synthetic": True})


def block(x: slice, y: slice, z: slice) -> Any:
    array = np.full((40, 40, 20), -300)  # black in the soft-tissue window but not in the other
    array[x, y, z] = 1000
    return array


def panes(page: Image.Image) -> list[Any]:
    """The three panes of the soft-tissue row: extents are 80 mm along every axis, so all are square."""
    side, gap, top = preview._PANE, preview._GAP, preview._HEADER
    grey = np.array(page.convert("L"))
    return [grey[top : top + side, gap + k * (side + gap) :][:, :side] for k in range(3)]


def bright(pane: Any) -> tuple[float, float]:
    """Fractional row and column of what is white."""
    rows, columns = np.nonzero(pane > 250)
    return rows.mean() / pane.shape[0], columns.mean() / pane.shape[1]


HALF, FULL = slice(10, 30), slice(None)


def test_the_patients_right_is_on_the_left() -> None:
    axial, coronal, _ = panes(preview.render_preview(volume(block(slice(24, 40), HALF, FULL))))
    assert bright(axial)[1] < 0.35
    assert bright(coronal)[1] < 0.35


def test_the_front_is_up_in_axial_and_left_in_sagittal_views() -> None:
    axial, _, sagittal = panes(preview.render_preview(volume(block(HALF, slice(24, 40), FULL))))
    assert bright(axial)[0] < 0.35
    assert bright(sagittal)[1] < 0.35


def test_the_head_is_up() -> None:
    _, coronal, sagittal = panes(preview.render_preview(volume(block(HALF, HALF, slice(12, 20)))))
    assert bright(coronal)[0] < 0.35
    assert bright(sagittal)[0] < 0.35


def test_proportions_follow_the_spacing() -> None:
    """A cube of 40 mm is a square in every plane although it has 20 x 20 x 10 voxels."""
    for pane in panes(preview.render_preview(volume(block(HALF, HALF, slice(5, 15))))):
        rows, columns = (np.ptp(index) for index in np.nonzero(pane > 250))
        assert rows == pytest.approx(columns, abs=12)
        assert rows == pytest.approx(preview._PANE / 2, rel=0.1)


def test_a_flat_volume_has_flat_panes() -> None:
    page = preview.render_preview(volume(np.zeros((40, 40, 5))))
    assert page.height < 2 * (preview._PANE + preview._GAP) + preview._HEADER + 1
    assert page.width == 3 * preview._PANE + 4 * preview._GAP


def test_black_margins_are_cut_off() -> None:
    """30 x 30 x 10 voxels of tissue and two around: 68 x 68 x 56 mm of 80."""
    array = np.full((40, 40, 20), -1000)
    array[5:35, 5:35, 5:15] = 0
    page = preview.render_preview(volume(array))
    side, flat = preview._PANE, round(preview._PANE * 56 / 68)
    assert page.height == preview._HEADER + 2 * (side + preview._GAP)
    axial = np.array(page.convert("L"))[preview._HEADER : preview._HEADER + side, preview._GAP : preview._GAP + side]
    edge = round(2 / 34 * side)
    assert axial[side // 2 + 30, edge + 12 : -edge - 12].min() > 90
    assert axial[side // 2 + 30, : edge - 12].max() < 5
    coronal = np.array(page.convert("L"))[preview._HEADER :, 2 * preview._GAP + side :][
        : side + preview._GAP, side // 2
    ]
    assert coronal[flat // 2] > 90
    assert coronal[flat + 2] == planes.BACKGROUND
    empty = preview.render_preview(volume(np.full((40, 40, 20), -1000)))
    assert empty.height == page.height


def test_windows_are_soft_tissue_and_bone() -> None:
    page = np.array(preview.render_preview(volume(np.full((40, 40, 20), 240))).convert("L"))
    row = preview._PANE + preview._GAP
    middle = preview._HEADER + preview._PANE // 2 + 30, preview._GAP + preview._PANE // 2
    assert page[middle] == 255  # 240 HU is the top of 40 +- 200
    assert page[middle[0] + row, middle[1]] == int((240 + 500) / 2000 * 255)


def test_labels_are_outlined_but_the_body_is_not() -> None:
    labels = np.full((40, 40, 20), 200, np.uint16)
    labels[10:30, 10:30, 5:15] = 7
    array = np.zeros((40, 40, 20))
    outlined = np.array(preview.render_preview(volume(array, labels, {"body_label": 200})))
    plain = np.array(preview.render_preview(volume(array)))
    coloured = (outlined.max(-1).astype(int) - outlined.min(-1)) > 40
    assert not ((plain.max(-1).astype(int) - plain.min(-1)) > 40).any()
    assert 0.005 < coloured.mean() < 0.05
    assert (outlined[coloured] == planes.COLOURS[7 % len(planes.COLOURS)]).all()


def test_mr_volumes_choose_their_own_windows() -> None:
    array = np.random.default_rng(0).integers(0, 3000, (40, 40, 20))
    page = preview.render_preview(volume(array, meta={"intensity": {"kind": "mr"}}))
    assert 60 < np.array(page.convert("L")).mean() < 200


def test_it_is_a_png() -> None:
    stream = io.BytesIO()
    preview.write_preview(stream, volume(block(HALF, HALF, HALF)))
    assert Image.open(io.BytesIO(stream.getvalue())).format == "PNG"
