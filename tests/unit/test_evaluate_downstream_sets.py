"""Cases, folds and arms: no patient on both sides, no leak, clear messages; and patches against scipy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from support import blobs

from ctfast.errors import RequestError
from ctfast.evaluate.downstream.cases import Case, Store, check_spacings, labels_of, read_cases
from ctfast.evaluate.downstream.folds import Arm, arms_of, check_apart, deal, grouped
from ctfast.evaluate.downstream.patches import NONE, Augmentation, cut
from ctfast.evaluate.volumes import find_set
from ctfast.mask import Mask


def read(folder: Path, named: bool = True, patient: str | None = None) -> list[Case]:
    return read_cases(find_set(folder), lambda done, total: None, named=named, patient=patient)


def test_cases_know_their_labels_and_patients(tmp_path: Path) -> None:
    blobs.write(tmp_path, (1, 2))
    first, second = read(tmp_path, patient=r"p0*(\d+)")
    assert first.labels == {blobs.DENSE, blobs.THIN}
    assert first.spacing == pytest.approx((4, 4, 3))
    assert "patient 1" in first.keys
    assert "patient 2" in second.keys
    assert not first.keys & second.keys
    assert not any(key.startswith("patient") for case in read(tmp_path, named=False) for key in case.keys)


def test_a_store_gives_the_same_from_memory_and_from_disk(tmp_path: Path) -> None:
    blobs.write(tmp_path, (1,))
    (case,) = read(tmp_path)
    hu, labels = blobs.volume(1)
    for limit in (0, 1 << 20):
        store = Store((blobs.THIN,), limit)
        for _ in range(2):
            found, classes = store.get(case)
            assert np.array_equal(found, hu)
            assert np.array_equal(classes, labels == blobs.THIN)
        assert (store.get(case)[0] is store.get(case)[0]) == (limit > 0)


def test_copies_of_a_patient_are_one_patient(tmp_path: Path) -> None:
    """By name, by image, mirrored or not, by label map, and by the mask that a volume was generated from."""
    hu, labels = blobs.volume(1)
    blobs.save(tmp_path / "real", "a", hu, labels)
    blobs.save(tmp_path / "real", "again", hu, np.where(labels == blobs.DENSE, blobs.DENSE, 0).astype(np.uint8))
    blobs.save(tmp_path / "real", "mirrored", hu[::-1], labels[::-1])
    blobs.save(tmp_path / "real", "same_map", blobs.volume(2)[0], labels)
    blobs.write(tmp_path / "real", (7,))
    other, _ = blobs.volume(3)
    made = np.where(labels > 0, labels, 9).astype(np.uint8)
    blobs.save(tmp_path / "made", "x", other, made)
    sha256 = Mask(labels.astype(np.uint16), None).sha256
    (tmp_path / "made" / "x_ct.json").write_text(json.dumps({"mask": {"sha256": sha256}, "body_label": 9}))
    real, generated = read(tmp_path / "real"), read(tmp_path / "made", named=False)
    assert [case.name for case in real] == ["a", "again", "mirrored", "p007", "same_map"]
    numbers = grouped([case.keys for case in (*real, *generated)])
    assert numbers == [0, 0, 0, 3, 0, 0]
    assert generated[0].body == 9
    assert labels_of({"real": real, "synthetic": generated}) == (blobs.DENSE, blobs.THIN)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_patients_are_never_split(tmp_path: Path, folds: int) -> None:
    for seed in range(7):
        hu, labels = blobs.volume(seed)
        for copy in range(3):
            blobs.save(tmp_path / "real", f"p{seed}_{copy}", hu + np.int16(copy), labels)
        blobs.save(tmp_path / "made", f"g{seed}", blobs.volume(100 + seed)[0], labels)
    blobs.write(tmp_path / "made", (50, 51, 52))
    real, generated = read(tmp_path / "real"), read(tmp_path / "made", named=False)
    pools = deal(real, generated, folds, seed=3)
    assert pools.patients == (7, 10)
    all_of_them = {case.name for case in (*real, *generated)}
    left_out: list[str] = []
    for fold in range(folds):
        kept = [case for pool in pools.without(fold) for case in pool]
        names = {case.name for case in kept}
        without = [case for case in (*real, *generated) if case.name not in names]
        assert len(names) + len(without) == len(all_of_them)
        assert not {key for case in kept for key in case.keys} & {key for case in without for key in case.keys}
        left_out += [case.name for case in without]
    assert sorted(left_out) == sorted(all_of_them)
    sizes = [len(pools.without(fold)[0]) for fold in range(folds)]
    assert max(sizes) - min(sizes) <= 3
    assert deal(real, generated, folds, seed=3) == pools
    assert deal(real, generated, folds, seed=4) != pools


def test_fewer_real_patients_leave_the_synthetic_ones(tmp_path: Path) -> None:
    real, generated = read(blobs.write(tmp_path / "a", range(6))), read(blobs.write(tmp_path / "b", range(20, 26)))
    pools = deal(real, generated, 2, only=3)
    assert (len(pools.real), len(pools.synthetic)) == (3, 6)
    assert [len(pools.without(fold)[0]) for fold in range(2)] == [1, 2]
    for only in (1, 7):
        with pytest.raises(RequestError, match=f"expected from 2 .* to 6 .* found {only}"):
            deal(real, generated, 2, only=only)


def test_arms() -> None:
    assert arms_of(["1:1", " 1:3", "2:0.5"]) == (
        *(Arm("real", 0.0), Arm("synthetic", 1.0)),
        *(Arm("1:1", 0.5), Arm("1:3", 0.75), Arm("2:0.5", 0.2)),
    )
    for wrong in ("1", "1:0", "0:1", "a:b", "1:-1", ""):
        with pytest.raises(RequestError, match="real:synthetic as in 1:2"):
            arms_of([wrong])
    with pytest.raises(RequestError, match="each once"):
        arms_of(["1:1", "1.0:1"])


def test_bad_sets_are_refused(tmp_path: Path) -> None:
    real = read(blobs.write(tmp_path / "real", range(4)))
    hu, labels = blobs.volume(9)
    blobs.save(tmp_path / "bare", "x", hu, None)
    with pytest.raises(RequestError, match=r"expected a label map .* found none for x"):
        read(tmp_path / "bare")
    blobs.save(tmp_path / "empty", "x", hu, labels * 0)
    with pytest.raises(RequestError, match=r"x_seg\.nii\.gz.*nothing but 0"):
        read(tmp_path / "empty")
    blobs.save(tmp_path / "others", "x", hu, np.where(labels > 0, 77, 0).astype(np.uint8))
    others = read(tmp_path / "others")
    with pytest.raises(RequestError, match=r"none in common.*real 3, 5; synthetic 77"):
        labels_of({"real": real, "synthetic": others})
    with pytest.raises(RequestError, match="the synthetic volumes have no 3; they have 77"):
        labels_of({"real": real, "synthetic": others}, [3])
    with pytest.raises(RequestError, match="different whole numbers from 1 on"):
        labels_of({"real": real}, [3, 3])
    blobs.save(tmp_path / "coarse", "x", hu, labels, np.diag([5.0, 4, 3, 1]))
    with pytest.raises(RequestError, match=r"spacing: .*4 x 4 x 3 mm.*5 x 4 x 3 mm in held-out 'x'"):
        check_spacings({"real": real, "held-out": read(tmp_path / "coarse")})
    with pytest.raises(RequestError, match="at least 5 different patients among the real volumes, found 4"):
        deal(real, real, 5)
    with pytest.raises(RequestError, match="2 or more, found 1"):
        deal(real, real, 1)
    with pytest.raises(RequestError, match="among the synthetic volumes, found 1"):
        deal(real, others, 2)
    with pytest.raises(RequestError, match="expected a regular expression"):
        read(tmp_path / "real", patient="(")
    with pytest.raises(RequestError, match="'z' finds nothing in the name 'p000'"):
        read(tmp_path / "real", patient="z")


def test_held_out_volumes_that_are_trained_on_are_refused(tmp_path: Path) -> None:
    real = read(blobs.write(tmp_path / "real", range(4)))
    hu, labels = blobs.volume(9)
    blobs.save(tmp_path / "name", "p002", hu, labels)
    blobs.save(tmp_path / "image", "x", blobs.volume(2)[0][::-1], labels)
    blobs.save(tmp_path / "map", "x", hu, blobs.volume(2)[1])
    for folder in ("name", "image", "map"):
        with pytest.raises(RequestError, match=r"leak: .*also among the real volumes"):
            check_apart(read(tmp_path / folder), real, "real")
    blobs.save(tmp_path / "other", "x", hu, labels)
    check_apart(read(tmp_path / "other"), real, "real")


def test_a_patch_without_augmentation_is_a_crop() -> None:
    hu, labels = blobs.volume(1)
    whole, classes = cut(hu, labels, blobs.SIZE, 0, NONE)
    assert np.allclose(whole[0], hu, atol=0.01)
    assert np.array_equal(classes[0], labels)
    starts = set()
    for seed in range(40):
        image, classes = cut(hu, labels, (8, 16, 8), seed, NONE)
        found = [
            (x, z) for x in range(9) for z in range(9) if np.allclose(image[0], hu[x : x + 8, :, z : z + 8], atol=0.01)
        ]
        assert len(found) == 1, seed
        ((x, z),) = found
        starts.add((x, z))
        assert np.array_equal(classes[0], labels[x : x + 8, :, z : z + 8])
    assert {x for x, _ in starts} >= {0, 8}


def test_patches_are_the_same_in_mixed_precision() -> None:
    hu, labels = blobs.volume(1)
    plain = cut(hu, labels, blobs.SIZE, 7, Augmentation())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cut(hu, labels, blobs.SIZE, 7, Augmentation())
    assert plain[0].equal(mixed[0])
    assert plain[1].equal(mixed[1])


def test_patches_larger_than_the_volume_repeat_its_edge() -> None:
    hu, labels = blobs.volume(1)
    image, classes = cut(hu, labels, (32, 16, 16), 0, NONE)
    assert np.allclose(image[0, 8:24], hu, atol=0.01)
    assert np.array_equal(classes[0, 8:24], labels)
    assert np.allclose(image[0, :8], hu[:1], atol=0.01)


def test_turned_and_scaled_patches_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    hu = ndimage.gaussian_filter(random.normal(0, 5000, (20, 24, 16)), 2).astype(np.int16)
    labels = (hu > 0).astype(np.uint8)
    size = (16, 16, 8)
    much = Augmentation(turn=0.3, scale=0.2, shift=2, gain=0, offset=0, noise=0)
    image, classes = cut(hu, labels, size, 5, much)
    # The draws in their order: where the middle is, then scales, then angles.
    draws = np.random.default_rng(5)
    high = np.array(hu.shape) - size
    start = None
    if draws.random() < 0.5:
        pytest.fail("seed 5 is to draw a patch anywhere")
    start = np.floor(draws.random(3) * (high + 1))
    centre = start + (np.array(size) - 1) / 2 + draws.uniform(-1, 1, 3) * 2
    scales, angles = 1 + draws.uniform(-1, 1, 3) * 0.2, draws.uniform(-1, 1, 3) * 0.3
    x, y, z = ((np.cos(angle), np.sin(angle)) for angle in angles)
    matrix = (
        np.array([[z[0], -z[1], 0], [z[1], z[0], 0], [0, 0, 1]])
        @ np.array([[y[0], 0, -y[1]], [0, 1, 0], [y[1], 0, y[0]]])
        @ np.array([[1, 0, 0], [0, x[0], -x[1]], [0, x[1], x[0]]])
        @ np.diag(scales)
    )
    offset = centre - matrix @ ((np.array(size) - 1) / 2)
    kwargs = {"offset": offset, "output_shape": size, "mode": "nearest"}
    assert np.allclose(image[0], ndimage.affine_transform(hu.astype(float), matrix, order=1, **kwargs), atol=0.5)
    wanted = ndimage.affine_transform(labels, matrix, order=0, **kwargs)
    assert (classes[0].numpy() == wanted).mean() > 0.999


def test_intensities_change_within_bounds_and_by_seed() -> None:
    hu, labels = blobs.volume(1)
    only = Augmentation(turn=0, scale=0, shift=0, gain=0.05, offset=20, noise=15)
    images = [cut(hu, labels, blobs.SIZE, seed, only)[0] for seed in (1, 1, 2)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert np.abs(images[0][0].numpy() - hu).max() < 0.05 * 1000 + 20 + 5 * 15
