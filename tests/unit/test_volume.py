"""Volumes on disk: formats, the JSON beside them, orientation, and that nothing is left half written."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest

import ctfast
from ctfast.errors import OutputError, RequestError
from ctfast.io import atomic
from ctfast.io.latent import LatentFile
from ctfast.labels import LabelMap
from ctfast.volume import Volume

FORMATS = ["nii.gz", "nii", "nrrd", "npz"]
META = {
    "synthetic": True,
    "ctfast": "0.1.0",
    "seed": 7,
    "sample": 2,
    "plan": {"name": "tiny"},
    "spacing": [3.9, 3.9, 2.5],
}


def volume(labels: bool = True) -> Volume:
    """No two of its mirror images are alike."""
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1001, (7, 6, 5)).astype(np.int16)
    affine = np.diag([3.9, 3.9, 2.5, 1.0])
    affine[:3, 3] = (-11.0, 4.5, 100.25)
    return Volume(array, affine, (array > 0).astype(np.uint16) * 7 if labels else None, META)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_saved_is_loaded(tmp_path: Path, suffix: str) -> None:
    original = volume()
    saved = original.save(tmp_path / f"ct.{suffix}")
    assert original.labels is not None
    loaded = Volume.load(tmp_path / f"ct.{suffix}")
    assert loaded.array.dtype == np.int16
    assert np.array_equal(loaded.array, original.array)
    assert np.allclose(loaded.affine, original.affine, atol=1e-5)
    assert loaded.labels is not None
    assert np.array_equal(loaded.labels, original.labels)
    assert loaded.meta == META
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.json", f"ct.{suffix}", f"ct_labels.{suffix}"]
    assert saved.image == tmp_path / f"ct.{suffix}"


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_json_has_the_hash_and_says_synthetic(tmp_path: Path, suffix: str) -> None:
    saved = volume().save(tmp_path / f"ct.{suffix}")
    content = json.loads((tmp_path / "ct.json").read_text())
    digest = hashlib.sha256((tmp_path / f"ct.{suffix}").read_bytes()).hexdigest()
    assert content["sha256"] == digest == saved.sha256
    assert content["file"] == f"ct.{suffix}"
    assert content["labels"] == f"ct_labels.{suffix}"
    assert content["labels_sha256"] == hashlib.sha256((tmp_path / f"ct_labels.{suffix}").read_bytes()).hexdigest()
    assert content["synthetic"] is True
    assert "Not for diagnostic use" in content["notice"]
    assert content["seed"] == 7


def test_a_real_image_is_not_called_synthetic(tmp_path: Path) -> None:
    plain = Volume(volume().array, volume().affine)
    plain.save(tmp_path / "ct.nii")
    content = json.loads((tmp_path / "ct.json").read_text())
    assert content["synthetic"] is False
    assert "notice" not in content
    assert b"SYNTHETIC" not in nibabel.load(tmp_path / "ct.nii").header["descrip"].tobytes()


def test_nifti_header_is_what_readers_expect(tmp_path: Path) -> None:
    volume().save(tmp_path / "ct.nii.gz")
    image: Any = nibabel.load(tmp_path / "ct.nii.gz")
    header = image.header
    assert header.get_data_dtype() == np.int16
    assert header.get_slope_inter() == (None, None)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"
    assert header["descrip"].item().decode() == "SYNTHETIC ctfast 0.1.0 tiny seed 7/2, not for diagnosis"
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    labels: Any = nibabel.load(tmp_path / "ct_labels.nii.gz")
    assert labels.header.get_data_dtype() == np.uint8
    assert labels.header.get_intent()[0] == "label"


def test_nifti_bytes_depend_on_the_volume_alone(tmp_path: Path) -> None:
    first = volume().save(tmp_path / "a.nii.gz").image.read_bytes()
    assert volume().save(tmp_path / "b.nii.gz").image.read_bytes() == first


def test_nrrd_is_in_lps_and_says_synthetic(tmp_path: Path) -> None:
    original = volume()
    original.save(tmp_path / "ct.nrrd")
    array, header = nrrd.read(str(tmp_path / "ct.nrrd"))
    assert header["space"] == "left-posterior-superior"
    assert np.allclose(header["space origin"], [11.0, -4.5, 100.25])
    assert np.allclose(np.diag(header["space directions"]), [-3.9, -3.9, 2.5])
    assert header["synthetic"] == "true"
    assert np.array_equal(array, original.array)


def test_labels_beyond_a_byte_stay(tmp_path: Path) -> None:
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[1], labels[2] = 500, 3
    LabelMap(labels, np.eye(4)).save(tmp_path / "mask.nii.gz")
    assert nibabel.load(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint16
    assert np.array_equal(LabelMap.load(tmp_path / "mask.nii.gz").array, labels)


@pytest.mark.parametrize("codes", ["LPI", "PIR", "SAL", "RAS"])
def test_other_orientations_are_turned_to_ras(tmp_path: Path, codes: str) -> None:
    original = volume()
    image = original.to_nibabel()
    transform = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(transform)
    assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    for loaded in (Volume.load(tmp_path / "turned.nii.gz"), Volume.from_nifti(turned)):
        assert np.array_equal(loaded.array, original.array)
        assert np.allclose(loaded.affine, original.affine, atol=1e-4)


def test_float_and_scaled_images_are_rounded(tmp_path: Path) -> None:
    values = np.linspace(-40000, 40000, 125).reshape(5, 5, 5)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "float.nii")
    loaded = Volume.load(tmp_path / "float.nii")
    assert np.array_equal(loaded.array, np.clip(np.rint(values.astype(np.float32)), -32768, 32767))
    scaled = nibabel.Nifti1Image(np.arange(125, dtype=np.int16).reshape(5, 5, 5), np.eye(4))
    scaled.header.set_slope_inter(2.0, -10.0)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    assert (
        Volume.from_nifti(tmp_path / "scaled.nii").array[0, 0, 1]
        == nibabel.load(tmp_path / "scaled.nii").dataobj[0, 0, 1]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.write_bytes(b"no image at all"), "cannot read"),
        (lambda path: path.write_bytes(b""), "cannot read"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(cut_short()), "cannot read"),
        (
            lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), path),
            "three-dim",
        ),
        (
            lambda path: nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), np.nan), np.eye(4)), path),
            "64 voxels are NaN",
        ),
    ],
)
def test_unreadable_files_are_request_errors(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "ct.nii")
    with pytest.raises(RequestError, match=message):
        Volume.load(tmp_path / "ct.nii")


def cut_short() -> bytes:
    stream = io.BytesIO()
    volume().to_nibabel().to_stream(stream)
    return stream.getvalue()[:400]


@pytest.mark.parametrize("name", ["ct.dcm", "ct", ".nii.gz", "ct.gz", "ct.nii.bz2"])
def test_unknown_formats_are_listed(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"\.nii\.gz, \.nii, \.nrrd, \.npz"):
        volume().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(RequestError, match="int16"):
        Volume(np.zeros((2, 2, 2)), np.eye(4))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="labels should be uint16"):
        Volume(np.zeros((2, 2, 2), np.int16), np.eye(4), np.zeros((2, 2, 3), np.uint16))
    with pytest.raises(RequestError, match="4 x 4"):
        Volume(np.zeros((2, 2, 2), np.int16), np.eye(3))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, code: int) -> None:
    """Whichever of the files fails, and wherever in it, what was there before stays and nothing is added."""
    for fatal in range(5):
        (tmp_path / f"ct.{suffix}").write_bytes(b"from before")
        calls = 0

        def fsync(_: int, fatal: int = fatal) -> None:
            nonlocal calls
            calls += 1
            if calls > fatal:
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(atomic.os, "fsync", fsync)
        if fatal >= 4:  # labels, preview, image and JSON
            volume().save(tmp_path / f"ct.{suffix}", preview=tmp_path / "ct.png")
            assert (tmp_path / f"ct.{suffix}").read_bytes() != b"from before"
            continue
        with pytest.raises(OutputError, match=f"cannot write '{tmp_path}") as raised:
            volume().save(tmp_path / f"ct.{suffix}", preview=tmp_path / "ct.png")
        assert raised.value.exit_code == 4
        assert [path.name for path in tmp_path.iterdir()] == [f"ct.{suffix}"]
        assert (tmp_path / f"ct.{suffix}").read_bytes() == b"from before"


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        volume().save(tmp_path / "ct.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        volume().save(tmp_path / "folder.nii")
    with pytest.raises(OutputError, match=r"'.*missing' does not exist"):
        volume().save(tmp_path / "missing" / "ct.nii")
    with pytest.raises(OutputError, match="name is too long"):
        volume().save(tmp_path / ("x" * 300 + ".nii"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.nii"]


def test_latents_on_disk(tmp_path: Path) -> None:
    latent = np.random.default_rng(0).standard_normal((4, 3, 2, 5)).astype(np.float32)
    LatentFile(latent, volume().affine, {"plan": {"name": "tiny"}}).save(tmp_path / "latent.npz")
    loaded = LatentFile.load(tmp_path / "latent.npz")
    assert np.array_equal(loaded.latent, latent)
    assert loaded.affine is not None
    assert np.array_equal(loaded.affine, volume().affine)
    assert loaded.meta == {"plan": {"name": "tiny"}}
    volume().save(tmp_path / "ct.npz")
    with pytest.raises(RequestError, match="no array 'latent'; it has: array, affine"):
        LatentFile.load(tmp_path / "ct.npz")
    with pytest.raises(RequestError, match=r"ends in \.npz"):
        LatentFile(latent, None).save(tmp_path / "latent.nii")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(RequestError, match="cannot read"):
        LatentFile.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "pickled.npz", latent=np.array([{}], dtype=object))
    with pytest.raises(RequestError, match="cannot read"):
        LatentFile.load(tmp_path / "pickled.npz")


def test_public_names() -> None:
    assert ctfast.Volume is Volume
    assert set(ctfast.__all__) <= set(dir(ctfast))
    assert all(getattr(ctfast, name) is not None for name in ctfast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ctfast.nothing
