"""Pictures of volumes in a report: windows, sides, proportions, outlines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from ctfast.errors import RequestError
from ctfast.evaluate import montage
from ctfast.evaluate.montage import WINDOWS, Window, picture_of, render, windows_of
from ctfast.evaluate.volumes import Item, Scan

SIDE, GAP = montage._PANE, montage._GAP
# Extents of 80 mm along every axis, so all panes are squares.
SPACING = (2.0, 2.0, 4.0)
SIZE = (40, 40, 20)
HALF, FULL = slice(12, 28), slice(None)


def panes(hu: Any, names: list[str], labels: Any = None, spacing: tuple[float, float, float] = SPACING) -> list[Any]:
    """Colours of the panes as rows (axial, coronal, sagittal) of columns."""
    picture = render(Scan("v", hu.astype(np.float32), spacing, labels), windows_of(names))
    image = Image.open(io.BytesIO(picture.jpeg))
    assert image.size == (picture.width, picture.height)
    pixels = np.array(image.convert("RGB")).astype(int)
    columns = len(names) + (labels is not None)
    assert pixels.shape[:2] == (3 * SIDE + 2 * GAP, columns * SIDE + (columns - 1) * GAP)
    step = SIDE + GAP
    return [
        [pixels[row * step : row * step + SIDE, column * step : column * step + SIDE] for column in range(columns)]
        for row in range(3)
    ]


def block(x: slice, y: slice, z: slice) -> Any:
    hu = np.full(SIZE, -1000.0)
    hu[x, y, z] = 1000
    return hu


def bright(pane: Any) -> tuple[float, float]:
    """Row and column of what is white, as parts of the pane; without the letters, which are never white."""
    rows, columns = np.nonzero(pane.min(-1) > 240)
    return rows.mean() / SIDE, columns.mean() / SIDE


@pytest.mark.parametrize(
    ("name", "width", "level"),
    [("soft", 400, 40), ("bone", 1800, 400), ("lung", 1500, -600), ("brain", 80, 40)],
)
def test_windows_show_known_hu_as_known_greys(name: str, width: float, level: float) -> None:
    assert (WINDOWS[name].width, WINDOWS[name].level) == (width, level)
    for part in (0.0, 0.25, 0.5, 1.0):
        hu = np.full(SIZE, level + (part - 0.5) * width)
        for row in panes(hu, [name]):
            assert row[0][SIDE // 4, SIDE // 2] == pytest.approx(part * 255, abs=3), (name, part)
    beyond = panes(np.full(SIZE, level + width), [name])[0][0]
    assert beyond[SIDE // 4, SIDE // 2].min() >= 253


def test_the_patients_left_is_on_the_right() -> None:
    """In RAS+ x grows towards the patient's right, so low x is the patient's left."""
    shown = panes(block(slice(0, 10), HALF, FULL), ["soft"])
    assert bright(shown[0][0])[1] > 0.8
    assert bright(shown[1][0])[1] > 0.8


def test_the_file_says_where_the_left_is(tmp_path: Path) -> None:
    """A file whose x grows towards the patient's left, as DICOM's does."""
    path = tmp_path / "v_ct.nii.gz"
    affine = np.diag([-2.0, -2.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(block(slice(30, 40), HALF, FULL).astype(np.int16), affine), path)
    picture = picture_of(Item("v", path, None), windows_of(["soft"]))
    axial = np.array(Image.open(io.BytesIO(picture.jpeg)).convert("RGB")).astype(int)[:SIDE]
    assert bright(axial)[1] > 0.8


def test_the_front_is_up_in_axial_and_left_in_sagittal_planes() -> None:
    shown = panes(block(HALF, slice(30, 40), FULL), ["soft"])
    assert bright(shown[0][0])[0] < 0.2
    assert bright(shown[2][0])[1] < 0.2


def test_the_head_is_up() -> None:
    shown = panes(block(HALF, HALF, slice(15, 20)), ["soft"])
    assert bright(shown[1][0])[0] < 0.2
    assert bright(shown[2][0])[0] < 0.2


def test_planes_go_through_the_centre() -> None:
    hu = np.full(SIZE, -1000.0)
    hu[:, :, 10] = 1000
    hu[20] = 1000
    hu[:, 20] = 1000
    assert all(row[0][SIDE // 4, SIDE // 3].min() > 240 for row in panes(hu, ["soft"]))


def test_proportions_are_those_of_the_patient() -> None:
    """A cube of 40 mm of 20 x 20 x 10 voxels is a square in every plane, to two voxels."""
    for row in panes(block(slice(10, 30), slice(10, 30), slice(5, 15)), ["soft"]):
        rows, columns = (np.ptp(index) for index in np.nonzero(row[0].min(-1) > 240))
        assert rows == pytest.approx(SIDE / 2, abs=12)
        assert columns == pytest.approx(SIDE / 2, abs=12)


def test_flat_volumes_have_flat_panes() -> None:
    scan = Scan("v", np.zeros((40, 40, 10), np.float32), SPACING)
    picture = render(scan, windows_of(["soft", "bone"]))
    assert (picture.width, picture.height) == (2 * SIDE + GAP, 2 * SIDE + 2 * GAP)


def test_labels_are_outlined_in_a_column_of_their_own() -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[10:30, 10:30, 5:15] = 1
    shown = panes(np.zeros(SIZE), ["soft", "bone"], labels)
    for row in shown:
        coloured = [(pane.max(-1) - pane.min(-1) > 60).mean() for pane in row]
        assert coloured[0] == coloured[1] == 0
        assert 0.005 < coloured[2] < 0.05


def test_what_a_picture_shows_is_told() -> None:
    scan = Scan("v", np.zeros(SIZE, np.float32), SPACING, np.ones(SIZE, np.uint16))
    about = render(scan, windows_of(None)).about
    for words in ("axial, coronal and sagittal", "soft tissue W400 L40", "lung W1500 L-600", "labels outlined"):
        assert words in about


@pytest.mark.parametrize("names", [[], ["liver"], ["soft", "soft"], ["soft", ""]])
def test_other_windows_are_refused(names: list[str]) -> None:
    with pytest.raises(RequestError, match="expected different ones of soft, bone, lung, brain"):
        windows_of(names)


def test_the_default_windows_are_soft_tissue_bone_and_lung() -> None:
    assert [window.name for window in windows_of(None)] == ["soft tissue", "bone", "lung"]
    assert Window("liver", 150, 90).title == "liver W150 L90"
