"""Folders of volumes, and the result's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_sets

import ctfast
from ctfast.errors import RequestError
from ctfast.evaluate.result import Evaluation, FeatureInfo, Metric, SetOfVolumes
from ctfast.evaluate.volumes import find_set, load_scan, pairs_of


def test_a_prepared_set(tmp_path: Path) -> None:
    found = find_set(tiny_sets.write(tmp_path / "set", [3, 1, 2]))
    assert found.names == ("v01", "v02", "v03")
    assert found.labelled
    assert found.ignored == ()
    scan = load_scan(found.items[0])
    hu, labels = tiny_sets.volume(1)
    np.testing.assert_array_equal(scan.hu, hu)
    np.testing.assert_array_equal(scan.labels, labels)
    assert scan.spacing == tiny_sets.SPACING
    assert load_scan(found.items[0], labels=False).labels is None
    assert find_set(tmp_path / "set", limit=2).names == ("v01", "v02")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".npz"])
def test_what_ctfast_writes_is_a_set(tmp_path: Path, suffix: str) -> None:
    hu, labels = tiny_sets.volume(1)
    affine = np.diag([*tiny_sets.SPACING, 1.0])
    for number in range(2):
        ctfast.Volume(hu, affine, labels.astype(np.uint16)).save(tmp_path / f"ct_{number}{suffix}")
    found = find_set(tmp_path)
    assert found.names == ("ct_0", "ct_1")
    assert found.labelled
    scan = load_scan(found.items[1])
    np.testing.assert_array_equal(scan.hu, hu)
    np.testing.assert_array_equal(scan.labels, labels)


def test_labels_beside_named_volumes_may_follow_either_name(tmp_path: Path) -> None:
    hu, labels = tiny_sets.volume(1)
    for name, array in (("a_ct", hu), ("a_labels", labels), ("b_ct", hu), ("b_ct_labels", labels), ("c_ct", hu)):
        tiny_sets.save(tmp_path / f"{name}.nii.gz", array)
    found = find_set(tmp_path)
    assert [item.labels and item.labels.name for item in found.items] == ["a_labels.nii.gz", "b_ct_labels.nii.gz", None]
    assert not found.labelled


def test_other_files_are_named_and_left_out(tmp_path: Path) -> None:
    tiny_sets.write(tmp_path, [1])
    for name in ("notes.docx", "extra.nii.gz", "v01.json", ".hidden.nii"):
        (tmp_path / name).write_bytes(b"x")
    assert find_set(tmp_path).ignored == ("extra.nii.gz", "notes.docx")


def test_folders_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a folder"):
        find_set(tmp_path / "missing")
    with pytest.raises(RequestError, match=r"has no volumes.*it is empty"):
        find_set(tmp_path)
    (tmp_path / "scan.dcm").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"found scan.dcm"):
        find_set(tmp_path)
    with pytest.raises(RequestError, match="limit"):
        find_set(tmp_path, limit=0)
    tiny_sets.save(tmp_path / "a.nii", tiny_sets.volume(1)[0])
    tiny_sets.save(tmp_path / "a.nii.gz", tiny_sets.volume(1)[0])
    with pytest.raises(RequestError, match="the same volume twice"):
        find_set(tmp_path)


def test_volumes_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    hu, labels = tiny_sets.volume(1)
    (tmp_path / "broken_ct.nii.gz").write_bytes(b"not an image")
    tiny_sets.save(tmp_path / "flat_ct.nii.gz", hu[:2])
    tiny_sets.save(tmp_path / "holed_ct.nii.gz", np.where(hu > 0, np.nan, 0).astype(np.float32))
    tiny_sets.save(tmp_path / "other_ct.nii.gz", hu)
    tiny_sets.save(tmp_path / "other_seg.nii.gz", labels[:-1])
    messages = {"broken": "broken_ct", "flat": "at least 3 voxels", "holed": "NaN", "other": "other_seg.*23 x 20 x 16"}
    for item in find_set(tmp_path).items:
        with pytest.raises(RequestError, match=messages[item.name]):
            load_scan(item)


def test_pairs_are_found_by_name(tmp_path: Path) -> None:
    made = find_set(tiny_sets.write(tmp_path / "made", [1, 2]))
    real = find_set(tiny_sets.write(tmp_path / "real", [1, 2, 3]))
    assert [(one.name, two.name) for one, two in pairs_of(made, real)] == [("v01", "v01"), ("v02", "v02")]
    with pytest.raises(RequestError, match="found v03 without a partner"):
        pairs_of(real, made)


def evaluation(**changes: Any) -> Evaluation:
    metric = Metric("fid_2.5d", "distribution", 1.5, "", "lower", (2, 3), False, "One sentence.", 1.0, 2.0, {"xy": 1.5})
    none = Metric("hd95", "masks", float("nan"), "mm", None, (0, 3), True, "Another.")
    settings: dict[str, Any] = {
        "ctfast": "1",
        "date": "2026-01-01T00:00:00+00:00",
        "generated": SetOfVolumes("a", 2),
        "reference": SetOfVolumes("b", 3),
        "preset": "native",
        "features": FeatureInfo("random-2d", None, False),
        "metrics": (metric, none),
        "per_volume": ({"name": "a", "psnr": float("inf")},),
        "skipped": {"ssim": "too small"},
    }
    return Evaluation(**{**settings, **changes})


def test_a_result_goes_to_json_and_back(tmp_path: Path) -> None:
    text = evaluation().to_json()
    content = json.loads(text)
    assert content["format"] == 1
    assert content["metrics"][0]["count"] == [2, 3]
    assert content["metrics"][1]["value"] is None
    assert content["per_volume"] == [{"name": "a", "psnr": None}]
    back = Evaluation.from_json(text)
    assert back.to_json() == text
    assert back.metric("fid_2.5d") == evaluation().metric("fid_2.5d")
    (tmp_path / "result.json").write_text(text)
    assert Evaluation.load(tmp_path / "result.json") == back


def test_metrics_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'ssim': too small"):
        evaluation().metric("ssim")
    with pytest.raises(RequestError, match=r"computed were fid_2.5d, hd95"):
        evaluation().metric("dice")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "newer ctfast"),
        (("metrics", 0, "group"), "quality", "metrics\\[0\\].group: expected one of distribution"),
        (("metrics", 0, "value"), "1", "metrics\\[0\\].value: expected a number"),
        (("metrics", 0, "better"), "more", "expected one of lower, higher"),
        (("metrics", 0, "count"), [1], "list of 2 whole numbers"),
        (("metrics", 0, "extra"), 1, "extra: unknown key"),
        (("features", "comparable"), "yes", "true or false"),
        (("generated", "volumes"), -1, "whole number of at least 0"),
        (("per_volume",), [{"psnr": 1}], "objects with a name"),
        (("skipped",), [], "expected an object"),
        (("more",), 1, "unknown key"),
    ],
)
def test_what_is_no_result_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    content = json.loads(evaluation().to_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RequestError, match=message):
        Evaluation.from_json(json.dumps(content))


def test_files_that_are_no_result_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RequestError, match=r"bad.json': expected the JSON"):
        Evaluation.load(tmp_path / "bad.json")
    with pytest.raises(RequestError, match=r"gone.json' cannot be read"):
        Evaluation.load(tmp_path / "gone.json")
    with pytest.raises(RequestError, match="expected an object"):
        Evaluation.from_json("[]")
