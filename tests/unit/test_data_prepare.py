"""'ctfast data prepare': where the head is found, what comes out of it, and scans that are left out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctfast.cli.main import main
from ctfast.data import prepare as module
from ctfast.data.align import locate
from ctfast.data.grid import AIR, body_envelope, crop, read_canonical, resample
from ctfast.data.prepare import BODY, SIZE, SPACING, choose_validation, find_pairs, prepare, prepare_case, template
from ctfast.errors import DataError, RequestError

START = (7, 15, 9)
# A dense cube on the patient's left, in the template's voxels, so that mirrored output would show.
MARKER = (slice(60, 66), slice(40, 46), slice(30, 34))


@pytest.fixture(scope="module")
def scan() -> tuple[Any, Any]:
    """The template with the marker in a larger scan of air, and a label map: 3 in the marker, 7 beside it."""
    size = (110, 120, 80)
    hu, labels = np.full(size, AIR, np.float32), np.zeros(size, np.uint8)
    place = tuple(slice(first, first + n) for first, n in zip(START, SIZE, strict=True))
    hu[place] = template()
    hu[place][MARKER] = 900
    labels[place][MARKER] = 3
    labels[place][66:70, 40:46, 30:34] = 7
    return np.round(hu).astype(np.int16), labels


def save(array: Any, path: Path, spacing: Sequence[float] = SPACING, axes: str = "RAS", affine: Any = None) -> Path:
    """Write a volume whose axes run along ``axes``; its voxels are given in RAS order."""
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]) if affine is None else affine)
    turned: Any = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
        )
    )
    assert nibabel.aff2axcodes(turned.affine) == tuple(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(turned, path)
    return path


def values(path: Path) -> Any:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.fixture(scope="module")
def folder(scan: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients in odd orientations, one without label map, and a volume that is no head."""
    folder = tmp_path_factory.mktemp("scans")
    hu, labels = scan
    save(hu, folder / "a_ct.nii.gz", axes="LPI")
    save(labels, folder / "a_seg.nii.gz", axes="LPI")
    save(hu, folder / "b_ct.nii.gz", axes="SAL")
    tube = np.full((120, 120, 90), 40, np.int16)
    tube[25:95, 25:95] = -1000
    save(tube, folder / "tube_ct.nii.gz")
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, module.Summary, Any]:
    output, told = tmp_path_factory.mktemp("out") / "deep" / "prepared", []
    summary = prepare(folder, output, validation=1, progress=lambda *args: told.append(args))
    return output, summary, told


def paths(prepared: Any, name: str) -> tuple[Path, Path]:
    output, summary, _ = prepared
    split = next(case.split for case in summary.cases if case.id == name)
    return output / split / f"{name}_ct.nii.gz", output / split / f"{name}_seg.nii.gz"


@pytest.mark.parametrize("name", ["a", "b"])
def test_any_orientation_comes_out_ras_and_in_place(name: str, prepared: Any) -> None:
    image = nibabel.load(paths(prepared, name)[0])
    assert image.shape == SIZE
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), SPACING)
    assert image.get_data_dtype() == np.int16
    expected = template().copy()
    expected[MARKER] = 900
    assert np.abs(values(paths(prepared, name)[0]) - expected).max() <= 1


def test_the_crops_centre_is_the_origin(prepared: Any) -> None:
    affine = nibabel.load(paths(prepared, "a")[0]).affine
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in SIZE), 1]]) @ affine.T
    np.testing.assert_allclose(corners.sum(0)[:3], 0, atol=1e-4)


def test_labels_are_carried_and_the_rest_of_the_body_labelled(prepared: Any) -> None:
    hu, labels = (values(path) for path in paths(prepared, "a"))
    assert labels.dtype == np.uint8
    assert (labels[MARKER] == 3).all()
    assert (labels == 3).sum() == 6 * 6 * 4
    assert (labels == 7).sum() == 4 * 6 * 4
    assert set(np.unique(labels)) == {0, 3, 7, BODY}
    assert (labels[hu > 0] > 0).mean() > 0.97
    assert labels[0, 0].max() == labels[-1, -1].max() == 0
    unlabelled = values(paths(prepared, "b")[1])
    assert set(np.unique(unlabelled)) == {0, BODY}
    outside_organs = (labels == 0) | (labels == BODY)
    np.testing.assert_array_equal(unlabelled[outside_organs], labels[outside_organs])


def test_the_record_tells_what_was_done(prepared: Any) -> None:
    output, summary, told = prepared
    record = json.loads((output / "dataset.json").read_text())
    assert (record["size"], record["spacing"], record["body_label"]) == (list(SIZE), list(SPACING), BODY)
    cases = {case["id"]: case for case in record["cases"]}
    assert sorted(cases) == ["a", "b"]
    assert {case["split"] for case in cases.values()} == {"train", "val"}
    assert all(case["start"] == list(START) for case in cases.values())
    assert all(case["score"] > 0.99 and case["coverage"] == 1.0 for case in cases.values())
    assert cases["a"]["labels"] == [3, 7, BODY]
    assert list(record["skipped"]) == ["tube"]
    assert "tube_ct.nii.gz: does not look like head and neck (correlation 0." in record["skipped"]["tube"]
    assert record["skipped"] == summary.skipped
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in output.iterdir()) == ["dataset.json", "train", "val"]
    assert [path.name for path in output.parent.iterdir()] == ["prepared"]


def test_finer_scans_come_out_on_the_grid(scan: tuple[Any, Any], tmp_path: Path) -> None:
    hu, labels = (np.repeat(np.repeat(array, 2, 0), 2, 1) for array in scan)
    ct = save(hu, tmp_path / "a_ct.nii.gz", (2, 2, 3), "PIR")
    seg = save(labels, tmp_path / "a_seg.nii.gz", (2, 2, 3), "PIR")
    out, organs, match = prepare_case(ct, seg, template(), 0.6, 0.95)
    assert match.start == START
    expected = np.argwhere(labels[::2, ::2] == 3).mean(0) - START
    np.testing.assert_allclose(np.argwhere(organs == 3).mean(0), expected, atol=0.5)
    np.testing.assert_allclose(np.argwhere(out > 750).mean(0), expected, atol=1.0)


def test_what_lies_outside_the_scan_counts_against_it(scan: tuple[Any, Any], tmp_path: Path) -> None:
    ct = save(scan[0][:, :, 25:], tmp_path / "a_ct.nii.gz")  # 16 of the 64 slices are missing
    with pytest.raises(DataError, match="only 75% of the field of view is in the scan, wanted 95%"):
        prepare_case(ct, None, template(), 0.6, 0.95)
    out, labels, match = prepare_case(ct, None, template(), 0.6, 0.7)
    assert match.start == (7, 15, -16)
    assert (out[:, :, :16] == AIR).all()
    assert labels[:, :, :16].max() == 0


def _narrow(folder: Path) -> None:
    save(np.zeros((40, 40, 60), np.int16), folder / "a_ct.nii.gz")


def _nan(folder: Path) -> None:
    save(np.full((40, 40, 40), np.nan, np.float32), folder / "a_ct.nii.gz")


def _oblique(folder: Path) -> None:
    affine = np.diag([*SPACING, 1.0])
    affine[1, 2] = 0.4
    save(np.zeros((40, 40, 40), np.int16), folder / "a_ct.nii.gz", affine=affine)


def _flat(folder: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((40, 40), np.int16), np.eye(4))
    nibabel.save(image, folder / "a_ct.nii.gz")


def _cut(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 40)).astype(np.int16)
    file = save(noise, folder / "a_ct.nii.gz")
    file.write_bytes(file.read_bytes()[:20000])


def _foreign(folder: Path) -> None:
    (folder / "a_ct.nii.gz").write_text("no image")


def _small(folder: Path) -> None:
    save(np.zeros((20, 20, 20), np.int16), folder / "a_ct.nii.gz", (1, 1, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, "expected finite voxels, found NaN or infinity"),
        (_oblique, "expected axes along the body's, found an oblique affine; resample the image first"),
        (_flat, "expected a 3D volume of at least 8 voxels a side, found shape (40, 40)"),
        (_cut, "expected a whole image, found it damaged or cut short"),
        (_foreign, "expected a readable NIfTI file"),
        (_narrow, "% of the field of view is in the scan, wanted 95%"),
        (_small, "expected a scan of at least 64 x 64 x 48 mm, found 20 x 20 x 21 mm"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_scans_are_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError) as refusal:
        prepare_case(tmp_path / "a_ct.nii.gz", None, template(), 0.6, 0.95)
    assert message in str(refusal.value)
    assert "a_ct.nii.gz" in str(refusal.value)
    with pytest.raises(DataError, match=r"no patient could be prepared: .*a_ct"):
        prepare(tmp_path, tmp_path / "out", validation=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a_ct.nii.gz"]


def test_bad_label_maps_are_refused(scan: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = module.Match(START, 1.0, 1.0)
    monkeypatch.setattr(module, "locate", lambda *_: found)  # which is not what is tested here
    hu, labels = scan
    ct, seg = save(hu, tmp_path / "a_ct.nii.gz"), tmp_path / "a_seg.nii.gz"
    moved = np.diag([*SPACING, 1.0])
    moved[0, 3] = 8
    for array, affine, message in (
        (labels[:-1], None, "a_seg.nii.gz: expected the CT's shape 110 x 120 x 80, found 109 x 120 x 80"),
        (labels, moved, "a_seg.nii.gz: lies elsewhere in space than its CT"),
        (labels * 100.0, None, "expected whole labels from 0 to 199 (200 is the body's), found 0 to 700"),
        (labels * 0.5, None, "expected whole labels from 0 to 199 (200 is the body's), found 0 to 3.5"),
    ):
        save(array.astype(np.float32), seg, affine=affine)
        with pytest.raises(DataError) as refusal:
            prepare_case(ct, seg, template(), 0.6, 0.95)
        assert message in str(refusal.value)


def test_a_folder_in_use_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "old.txt").touch()
    with pytest.raises(RequestError, match="expected a new or empty folder"):
        prepare(folder, tmp_path, validation=1)
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]


def test_interrupted_preparation_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "out", validation=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_validation_patients_do_not_depend_on_the_others() -> None:
    names = [f"pt_{index}" for index in range(50)]
    chosen = choose_validation(names, 10, seed=0)
    assert len(chosen) == 10
    assert choose_validation(names[::-1], 10, seed=0) == chosen
    assert choose_validation(names, 10, seed=1) != chosen
    gone = next(name for name in names if name not in chosen)
    assert choose_validation([name for name in names if name != gone], 10, seed=0) == chosen
    assert choose_validation(names, 0, seed=0) == set()
    for count in (50, -1):
        with pytest.raises(DataError, match="expected"):
            choose_validation(names, count, seed=0)


def test_pairs_are_found_by_suffix(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii.gz", "a-mask.nii.gz", "c.txt"):
        (tmp_path / name).touch()
    pairs = find_pairs(tmp_path, ".nii.gz", "-mask.nii.gz")
    assert pairs == [("a", tmp_path / "a.nii.gz", tmp_path / "a-mask.nii.gz"), ("b", tmp_path / "b.nii.gz", None)]
    with pytest.raises(DataError, match=r"expected CT files named like 'patient_ct\.nii\.gz', found none"):
        find_pairs(tmp_path, "_ct.nii.gz", "_seg.nii.gz")


def test_the_body_is_the_largest_piece_without_holes() -> None:
    hu = np.full((30, 30, 12), -1000, np.float32)
    hu[5:22, 5:22, 1:11] = 40
    hu[10:14, 10:14, 1:11] = -1000  # an airway, open at both ends
    hu[26:29, 2:28, 1:11] = 100  # a table
    body = body_envelope(hu)
    assert body[6:21, 6:21, 2:10].all()
    assert not body[23:].any()
    assert not body_envelope(np.full((9, 9, 9), -1000, np.float32)).any()


def test_resampling_keeps_places_and_means() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 20, 20)).copy()
    half = resample(ramp, (1, 1, 1), (2, 2, 2), labels=False)
    assert half.shape == (20, 10, 10)
    np.testing.assert_allclose(half[3:-3, 5, 5], 2 * np.arange(3, 17), atol=1e-3)
    np.testing.assert_array_equal(resample(ramp, (1, 1, 1), (1, 1, 1), labels=False), ramp)
    spots = (np.random.default_rng(0).random((16, 16, 16)) * 5).astype(np.float32).round()
    assert set(np.unique(resample(spots, (1, 1, 1), (1.7, 1.7, 1.7), labels=True))) <= set(range(6))
    # Detail finer than the target grid is averaged, not sampled.
    stripes = np.broadcast_to(np.tile([0, 100], 20)[:, None, None], (40, 20, 20)).astype(np.float32)
    assert abs(resample(stripes, (1, 1, 1), (4, 4, 4), labels=False)[2:-2] - 50).max() < 5


def test_cropping_beyond_the_edge_fills() -> None:
    array = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    out = crop(array, (-1, 0, 2), (3, 2, 2), -5)
    assert out.dtype == np.int16
    assert (out[0] == -5).all()
    assert (out[..., 1] == -5).all()
    np.testing.assert_array_equal(out[1:, :, 0], array[:2, :2, 2])
    assert (crop(array, (5, 0, 0), (2, 2, 2), 9) == 9).all()


def test_locating_is_exact_at_every_offset() -> None:
    """Also where the scan ends within the template, and for offsets that the coarse grids do not have."""
    rng = np.random.default_rng(0)
    smooth = resample(rng.normal(-200, 900, (48, 48, 40)).astype(np.float32), (1, 1, 1), (0.5, 0.5, 0.5), labels=False)
    for start in ((0, 0, 0), (1, 2, 3), (21, 17, 14), (30, 30, 27), (-3, 5, 9)):
        scan = np.full((80, 80, 68), AIR, np.float32)
        wanted = crop(smooth, start, (64, 64, 52), AIR) if min(start) < 0 else smooth[:48, :48, :40]
        if min(start) < 0:
            match = locate(smooth[:64, :64, :60], np.asarray(wanted, np.float32))
        else:
            place = tuple(slice(first, first + n) for first, n in zip(start, wanted.shape, strict=True))
            scan[place] = wanted
            match = locate(scan, np.asarray(wanted, np.float32))
        assert match.start == start
        assert match.score > 0.999


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = tmp_path / "scans"
    single.mkdir()
    os.symlink(folder / "tube_ct.nii.gz", single / "tube.nii.gz")
    os.symlink(folder / "a_ct.nii.gz", single / "a.nii.gz")
    words = f"data prepare {single} {tmp_path}/out --validation 0 --ct-suffix .nii.gz --json"
    assert main(words.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["train"], result["val"], list(result["skipped"])) == (1, 0, ["tube"])
    assert main(words.split()) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert main(["data", "prepare", str(tmp_path / "none"), str(tmp_path / "x")]) == 2
    assert "none: expected CT files named like" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_real_patient() -> None:
    root = Path(os.environ.get("CTFAST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "openkbp"
    scans = sorted(root.glob("*_ct.nii.gz"))
    if not scans:
        pytest.skip(f"no OpenKBP scans in {root}; set CTFAST_DATA to the folder that has openkbp/")
    ct = scans[0]
    hu, labels, match = prepare_case(ct, ct.with_name(ct.name.replace("_ct", "_seg")), template(), 0.6, 0.95)
    assert match.score > 0.8
    assert match.coverage > 0.95
    mandible = labels == 7
    assert mandible.sum() > 50
    assert np.median(hu[mandible]) > 200
    # The mandible is in the middle from left to right, in the front half, neither at the top nor at the bottom.
    where = np.argwhere(mandible).mean(0) / SIZE
    assert 0.4 < where[0] < 0.6
    assert where[1] > 0.5
    assert 0.2 < where[2] < 0.8
    assert (labels[hu > -300] > 0).mean() > 0.95
    image = read_canonical(ct)
    assert min(image.shape) > 8
