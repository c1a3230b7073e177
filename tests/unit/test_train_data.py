"""Crops and latents in memory: what is drawn when, mirroring and shifting, and data that is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from support import tiny_training

from ctfast.errors import DataError
from ctfast.networks import AutoencoderKL
from ctfast.train.config import DataConfig, FlowTask
from ctfast.train.data import Crops, label_bits, mirror
from ctfast.train.latents import PLAIN, encode_all, versions_of
from ctfast.train.sampling import Buckets, draw, generator

OTHER_SIZE = (16, 32, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crops of one shape and two of another."""
    root = tmp_path_factory.mktemp("mixed")
    return tiny_training.prepared(root, train=5, sizes=(tiny_training.SIZE, OTHER_SIZE))


def crops(root: Path, multiple: int = 1) -> Crops:
    return Crops(DataConfig(str(root), mirror_labels=((3, 4),)), "train", multiple)


def test_crops_are_what_was_written(root: Path) -> None:
    loaded = crops(root)
    hu, labels = tiny_training.patient(1)
    image = loaded.pick(1, False)
    assert image.shape == (1, *tiny_training.SIZE)
    torch.testing.assert_close(image[0], torch.from_numpy((hu + 1000.0) / 2000.0).float(), atol=5e-4, rtol=0)
    assert torch.equal(loaded.pick_labels(1, False)[0], torch.from_numpy(labels))
    assert loaded.names == ["p0", "p1", "p2"]
    assert loaded.spacings == [tiny_training.SPACING] * 3


def test_a_mirrored_crop_has_its_sides_swapped(root: Path) -> None:
    loaded = crops(root)
    image, labels = loaded.pick(0, True), loaded.pick_labels(0, True)
    assert torch.equal(image.flip(1), loaded.pick(0, False))
    plain = loaded.pick_labels(0, False)
    assert torch.equal(labels.flip(1) == 3, plain == 4)
    assert torch.equal(labels.flip(1) == 4, plain == 3)
    assert torch.equal(labels.flip(1) == 7, plain == 7)
    assert int((plain == 3).sum()) > 0


def test_shifts_move_whole_voxels_and_repeat_the_edge(root: Path) -> None:
    loaded = crops(root)
    plain, moved = loaded.pick(0, False), loaded.pick(0, False, (2, 0, -1))
    assert torch.equal(moved[:, :-2, :, 1:], plain[:, 2:, :, :-1])
    assert torch.equal(moved[:, -1], moved[:, -3])
    assert torch.equal(moved[..., 0], moved[..., 1])
    labels = loaded.pick_labels(0, False, (2, 0, -1))
    assert torch.equal(labels[:, :-2, :, 1:], loaded.pick_labels(0, False)[:, 2:, :, :-1])


def test_mirroring_twice_is_nothing() -> None:
    labels = torch.arange(256, dtype=torch.uint8)
    pairs = ((3, 4), (10, 250))
    assert torch.equal(mirror(mirror(labels, pairs), pairs), labels)
    assert mirror(labels, pairs).tolist()[3] == 4


def test_label_bits_are_the_runtimes() -> None:
    native = pytest.importorskip("ctfast._native", reason="the native module is not built")
    labels = np.random.default_rng(0).integers(0, 256, (4, 5, 6)).astype(np.uint16)
    ours = label_bits(torch.from_numpy(labels.astype(np.uint8))[None, None], 8)
    assert ours.shape == (1, 8, 4, 5, 6)
    np.testing.assert_array_equal(ours[0].numpy(), native.label_bits(labels, 8))


def test_batches_follow_the_step_alone(root: Path) -> None:
    first, second = crops(root), crops(root)
    for step in (0, 7, 10**9):
        args = (step, 2, 0, 0, 1, (16, 16, 16))
        assert torch.equal(first.batch(*args), second.batch(*args))
    assert not torch.equal(first.batch(0, 2, 0, 0, 1, None), first.batch(1, 2, 0, 0, 1, None))
    assert not torch.equal(first.batch(0, 2, 0, 0, 1, None), first.batch(0, 2, 1, 0, 1, None))


def test_an_epoch_visits_every_sample_once() -> None:
    for epoch in range(3):
        assert sorted(draw(epoch * 7 + i, 7, seed=3) for i in range(7)) == list(range(7))
    assert [draw(i, 7, 3) for i in range(7)] != [draw(i, 7, 3) for i in range(7, 14)]


def test_with_one_shape_samples_are_drawn_as_without_buckets() -> None:
    buckets = Buckets([(1, 4, 4, 4)] * 7)
    for step in range(20):
        for rank in range(2):
            expected = [draw(step * 6 + rank * 3 + i, 7, seed=5) for i in range(3)]
            assert buckets.members(step, 3, 5, rank, 2) == expected


def test_ranks_share_an_epoch() -> None:
    buckets = Buckets([(4,)] * 8)
    both = [index for rank in range(2) for step in range(2) for index in buckets.members(step, 2, 0, rank, 2)]
    assert sorted(both) == list(range(8))


def test_buckets_keep_shapes_apart_and_visit_every_sample_equally_often() -> None:
    shapes = [(8,), (16,), (8,), (8,), (16,)]
    buckets = Buckets(shapes)
    seen: Counter[int] = Counter()
    order = []
    for step in range(15):  # three cycles of five steps, two samples each
        ranks = [buckets.members(step, 2, 1, rank, 2) for rank in range(2)]
        drawn = [index for members in ranks for index in members]
        assert len({shapes[index] for index in drawn}) == 1
        seen.update(drawn)
        order.append(shapes[drawn[0]])
    assert seen == dict.fromkeys(range(5), 12)
    assert [Counter(order[i : i + 5]) for i in (0, 5, 10)] == [{(8,): 3, (16,): 2}] * 3
    assert order[:5] != sorted(order[:5])


def test_batches_of_crops_of_several_shapes(mixed: Path) -> None:
    loaded = crops(mixed)
    shapes = {tuple(loaded.batch(step, 2, 0, 0, 1, None).shape[2:]) for step in range(5)}
    assert shapes == {tiny_training.SIZE, OTHER_SIZE}
    assert {tuple(loaded.batch(step, 2, 0, 0, 1, (16, 16, 16)).shape) for step in range(5)} == {(2, 1, 16, 16, 16)}


def test_versions() -> None:
    task = FlowTask(versions=6, shift=2)
    versions = versions_of(task, flip=True)
    assert versions[:2] == [PLAIN, (True, (0, 0, 0))]
    assert [flip for flip, _ in versions[2:]] == [False, True, False, True]
    assert all(abs(by) <= 2 for _, shift in versions for by in shift)
    assert versions == versions_of(task, flip=True)
    assert [flip for flip, _ in versions_of(task, flip=False)] == [False] * 6
    assert versions_of(FlowTask(versions=1), flip=True) == [PLAIN]


def test_latents_are_cached_and_labelled_like_their_image(mixed: Path, tmp_path: Path) -> None:
    config = tiny_training.config(mixed)
    loaded = crops(mixed)
    torch.manual_seed(0)
    vae = AutoencoderKL(config.vae.network).eval()
    versions = versions_of(config.flow, True)
    done: list[tuple[str, int, int]] = []
    latents = encode_all(vae, loaded, versions, tmp_path / "latents.pt", lambda *args: done.append(args))
    assert done[-1] == ("encode", 15, 15)
    assert all(type(row) is torch.Tensor for row in latents.rows)  # what any torch reads again
    batch = latents.batch(3, 2, 0)
    assert batch.latent.shape[0] == batch.labels.shape[0] == 2
    assert tuple(4 * n for n in batch.latent.shape[2:]) == tuple(batch.labels.shape[2:])
    assert batch.spacing.tolist() == [list(tiny_training.SPACING)] * 2
    # The latent of a drawn sample is that of the image which its labels belong to.
    candidates = [(index, version) for index in range(5) for version in versions]
    for latent, label in zip(batch.latent, batch.labels, strict=True):
        index, version = next((i, v) for i, v in candidates if torch.equal(loaded.pick_labels(i, *v), label))
        with torch.no_grad():
            expected = vae.encode(loaded.pick(index, *version)[None])[0][0]
        torch.testing.assert_close(latent, expected, atol=0.02, rtol=0.05)

    again = encode_all(vae, loaded, versions, tmp_path / "latents.pt", lambda *args: done.append(args))
    assert len(done) == 15  # nothing was encoded a second time
    assert torch.equal(again.batch(3, 2, 0).latent, batch.latent)
    loaded.images[0] = loaded.images[0] * 0.5
    encode_all(vae, loaded, versions, tmp_path / "latents.pt", lambda *args: done.append(args))
    assert len(done) == 30


def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path) -> None:
    loaded = crops(root)
    vae = AutoencoderKL(tiny_training.config(root).vae.network).eval()
    cache = tmp_path / "latents.pt"
    cache.write_bytes(b"PK\x03\x04 and then nothing")
    assert len(encode_all(vae, loaded, [PLAIN], cache).rows) == 3
    assert torch.load(cache, weights_only=True)["key"]


def _remove(root: Path) -> None:
    (root / "train/p1_seg.nii.gz").unlink()


def _cut(root: Path) -> None:
    file = root / "train/p1_ct.nii.gz"
    file.write_bytes(file.read_bytes()[:200])


def _nan(root: Path) -> None:
    hu = tiny_training.patient(1)[0].astype(np.float32)
    hu[3, 3, 3] = np.nan
    tiny_training.save(hu, root / "train/p1_ct.nii.gz")


def _odd(root: Path) -> None:
    for kind, array in zip(("ct", "seg"), tiny_training.patient(1, (32, 30, 16)), strict=True):
        tiny_training.save(array, root / f"train/p1_{kind}.nii.gz")


def _flat(root: Path) -> None:
    tiny_training.save(np.zeros((32, 32), np.int16), root / "train/p1_ct.nii.gz")


def _unlike(root: Path) -> None:
    tiny_training.save(np.zeros((32, 16, 16), np.uint8), root / "train/p1_seg.nii.gz")


def _elsewhere(root: Path) -> None:
    tiny_training.save(tiny_training.patient(1)[1], root / "train/p1_seg.nii.gz", (4, 4, 4))


def _air(root: Path) -> None:
    tiny_training.save(np.full(tiny_training.SIZE, -1000, np.int16), root / "train/p1_ct.nii.gz")


def _fractional(root: Path) -> None:
    tiny_training.save(np.full(tiny_training.SIZE, 0.5, np.float32), root / "train/p1_seg.nii.gz")


def _large(root: Path) -> None:
    tiny_training.save(np.full(tiny_training.SIZE, 256, np.int16), root / "train/p1_seg.nii.gz")


@pytest.mark.filterwarnings("ignore:axcodes")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove, "p1_seg.nii.gz: missing; each crop needs its label map beside it"),
        (_cut, "p1_ct.nii.gz or its label map could not be read"),
        (_nan, "p1_ct.nii.gz: expected finite intensities, found NaN or infinity"),
        (_odd, "p1_ct.nii.gz: expected a 3D volume with extents in multiples of 8, found 32 x 30 x 16"),
        (_flat, "p1_ct.nii.gz: expected a 3D volume with extents in multiples of 8, found 32 x 32"),
        (_unlike, "p1_seg.nii.gz: expected the image's shape 32 x 32 x 16, found 32 x 16 x 16"),
        (_elsewhere, "p1_seg.nii.gz: lies elsewhere in space than its image"),
        (_air, "p1_ct.nii.gz: expected a patient, found nothing above -1000"),
        (_fractional, "p1_seg.nii.gz: expected whole labels from 0 to 255, found 0.5 to 0.5"),
        (_large, "p1_seg.nii.gz: expected whole labels from 0 to 255, found 256 to 256"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_crops_are_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    tiny_training.prepared(tmp_path, train=2, val=0)
    spoil(tmp_path)
    with pytest.raises(DataError) as refusal:
        crops(tmp_path, multiple=8)
    assert message in str(refusal.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train: expected prepared crops .* found none; run 'ctfast data prepare'"):
        crops(tmp_path)


def test_a_crop_smaller_than_the_patch_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"p0: .* patch's \(16, 16, 32\) voxels, found \(32, 32, 16\)"):
        crops(root).check_patch((16, 16, 32))


def test_crops_of_another_orientation_are_turned(root: Path, tmp_path: Path) -> None:
    tiny_training.prepared(tmp_path, train=1, val=0)
    straight = crops(tmp_path).pick(0, False)
    for kind in ("ct", "seg"):
        file = tmp_path / f"train/p0_{kind}.nii.gz"
        image = nibabel.load(file)
        turned: Any = image.as_reoriented(nibabel.orientations.axcodes2ornt("LPI"))
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine), file)
    assert torch.equal(crops(tmp_path).pick(0, False), straight)


def test_generators_differ_by_key() -> None:
    keys = [(17,), *((0, 0, 0, use) for use in (1, 3, 4, 5)), (0, 0, 2), (0, 0, 6), (0, 1, 0, 1), (1, 0, 0, 1)]
    draws = {tuple(torch.rand(4, generator=generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)
