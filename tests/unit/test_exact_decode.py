"""Decoding and encoding in whatever way fits into memory: all of them give the same, and write it as they go."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import staged_plan, tiny_plan

import ctfast
from ctfast import _native, decoding, sessions
from ctfast.budget import outline_generation
from ctfast.decoding import Route, Routes
from ctfast.engine import Engine
from ctfast.errors import CancelledError, CtfastError, MemoryBudgetError, OutputError, RequestError
from ctfast.io import atomic
from ctfast.io.volume_files import VolumeFiles
from ctfast.plan import Plan
from ctfast.request import Request, check
from ctfast.sessions import Use

SIZE = (48, 48, 32)
LATENT = (4, 12, 12, 8)
WAYS = ("whole", "in_place", "spill", "recompute")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged_plan.write(tmp_path_factory.mktemp("plan") / "staged.plan")


@pytest.fixture(scope="module")
def engine(plan: Path) -> Engine:
    return ctfast.load(plan)


@pytest.fixture(scope="module")
def decoder(plan: Path) -> Routes:
    return Routes(_native, Plan.open(plan), "vae_decoder", "fp32")


def latent(seed: int = 0, shape: tuple[int, ...] = LATENT) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mask(size: tuple[int, int, int] = SIZE) -> Any:
    labels = np.full(size, tiny_plan.BODY, np.uint8)
    labels[:5], labels[:, :, -3:], labels[20:25, 9:12, 4:7] = 0, 0, 7
    return labels


def below_whole(routes: Routes, size: tuple[int, int, int]) -> int:
    """A budget in which the whole network does not fit, and stages do."""
    whole, *staged = (route.peak_bytes or 0 for route in routes.all(size, None))
    assert max(staged) < whole
    return whole - 1


@contextmanager
def only(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Let one way alone fit."""
    every = Routes.all

    def one(self: Routes, size: Any, budget: int | None) -> list[Route]:
        return [route for route in every(self, size, None) if route.name == name]

    with monkeypatch.context() as patch:
        patch.setattr(Routes, "all", one)
        yield


@pytest.mark.parametrize("shape", [LATENT, (4, 3, 5, 7), (4, 1, 2, 1)])
def test_every_way_gives_the_same_volume(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    """Also of sizes that the plan does not generate."""
    volumes = {}
    for way in WAYS:
        with only(monkeypatch, way):
            volumes[way] = engine.decode(latent(shape=shape))
        assert volumes[way].meta["decode_strategy"]["name"] == way
        assert volumes[way].meta["decode_strategy"]["predicted_peak_bytes"] > 0
    whole = volumes["whole"].array.astype(int)
    assert whole.shape == tuple(4 * count for count in shape[1:])
    assert whole.std() > 100
    for way in WAYS[1:]:
        assert np.abs(volumes[way].array - whole).max() <= 1, way


def test_a_latent_is_decoded_wherever_it_is(engine: Engine) -> None:
    """Spacings that the plan does not generate are no matter to its VAE."""
    assert engine.decode(latent(), spacing=(0.3, 0.3, 0.7)).spacing == pytest.approx((0.3, 0.3, 0.7))
    with pytest.raises(RequestError, match=r"spacing: expected millimetres above 0, found 0\.3 x -0\.3 x 0\.7"):
        engine.decode(latent(), spacing=(0.3, -0.3, 0.7))


def test_memory_decides(engine: Engine, decoder: Routes) -> None:
    whole = engine.decode(latent())
    assert whole.meta["decode_strategy"]["name"] == "whole"
    budget = below_whole(decoder, LATENT[1:])
    staged = engine.decode(latent(), memory=budget)
    assert staged.meta["decode_strategy"]["name"] == "in_place"
    assert staged.meta["decode_strategy"]["predicted_peak_bytes"] <= budget
    assert np.abs(staged.array.astype(int) - whole.array).max() <= 1
    assert staged.meta["precision"] == {"vae_decoder": "fp32"}


def test_generating_with_a_mask_in_stages(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Air outside the mask is put into rows as it is into whole volumes."""
    whole = engine.generate(mask=mask(), spacing=(4, 4, 2.5), seed=3)
    with only(monkeypatch, "spill"):
        staged = engine.generate(mask=mask(), spacing=(4, 4, 2.5), seed=3)
    assert [each.meta["decode_strategy"]["name"] for each in (whole, staged)] == ["whole", "spill"]
    assert (staged.array[mask() == 0] == -1000).all()
    assert (staged.array[mask() != 0] != -1000).any()
    assert np.abs(staged.array.astype(int) - whole.array).max() <= 1
    assert set(staged.meta["precision"]) == {"denoiser", "controlnet", "controlnet_condition", "vae_decoder"}


def test_progress_and_cancelling_in_stages(engine: Engine, decoder: Routes, tmp_path: Path) -> None:
    budget = below_whole(decoder, LATENT[1:])
    seen: list[tuple[str, int, int]] = []
    engine.decode(latent(), memory=budget, progress=lambda *step: seen.append(step))
    decoding = [(done, total) for stage, done, total in seen if stage == "decode"]
    assert [done for done, _ in decoding] == sorted(done for done, _ in decoding)
    assert decoding[-1][0] == decoding[-1][1] >= 3
    assert {stage for stage, *_ in seen} == {"decode", "finish"}
    before = threading.active_count()
    for stop in range(decoding[-1][1]):
        with pytest.raises(CancelledError):
            engine.decode(
                latent(), memory=budget, output=tmp_path / "ct.nii.gz", progress=lambda _, done, __, at=stop: done < at
            )
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "npz"])
@pytest.mark.parametrize("way", ["whole", "recompute"])
def test_output_is_what_saving_gives(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, way: str
) -> None:
    with only(monkeypatch, way):
        volume = engine.generate(
            mask=mask(), spacing=(4, 4, 2.5), output=tmp_path / f"ct.{suffix}", preview=tmp_path / "ct.png"
        )
    assert volume.saved is not None
    assert {path.name for path in tmp_path.iterdir()} == {f"ct.{suffix}", f"ct_labels.{suffix}", "ct.json", "ct.png"}
    (tmp_path / "again").mkdir()
    again = volume.save(tmp_path / "again" / f"ct.{suffix}", preview=tmp_path / "again" / "ct.png")
    for path in (again.image, again.json, again.labels, again.preview):
        assert path is not None
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert volume.saved.sha256 == again.sha256


def test_rows_are_written_while_decoding(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was handed over reaches the disk although the decoder is not done yet."""
    run = _native.run_program
    heights: list[int] = []

    def watched(*args: Any, sink: Any, **options: Any) -> int:
        def watch(first: int, rows: Any) -> None:
            sink(first, rows)
            heights.append(len(rows))
            (part,) = tmp_path.iterdir()
            deadline = time.monotonic() + 20
            while part.stat().st_size < (first + len(rows) - 1) * 48 * 48 * 2:  # the last row may be buffered
                assert time.monotonic() < deadline
                time.sleep(0.005)

        return run(*args, sink=watch, **options)

    monkeypatch.setattr(_native, "run_program", watched)
    with only(monkeypatch, "in_place"):
        volume = engine.decode(latent(), output=tmp_path / "ct.nii")
    assert sum(heights) == volume.size[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.json", "ct.nii"]


def test_a_full_disk_stops_the_request(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    opened = os.fdopen
    monkeypatch.setattr(atomic.os, "fdopen", lambda *args: Full(opened(*args)))
    for way in ("whole", "in_place"):
        with (
            only(monkeypatch, way),
            pytest.raises(OutputError, match=r"cannot write '.*ct\.nii\.gz': the disk is full"),
        ):
            engine.generate(output=tmp_path / "ct.nii.gz", size=SIZE)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", WAYS)
def test_an_error_on_the_way_to_the_file_reaches_the_caller(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    """Out of the middle of the runtime too."""

    def broken(*_: Any) -> None:
        raise OutputError("no more")

    monkeypatch.setattr(VolumeFiles, "put", broken)
    with only(monkeypatch, way), pytest.raises(OutputError, match="no more"):
        engine.decode(latent(), output=tmp_path / "ct.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", WAYS)
def test_nan_is_never_a_voxel(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str) -> None:
    with only(monkeypatch, way), pytest.raises(CtfastError, match="NaN or infinite"):
        engine.decode(np.full(LATENT, 3e38, np.float32), output=tmp_path / "ct.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_names_are_checked_before_anything_is_computed(engine: Engine, tmp_path: Path) -> None:
    def never(*_: Any) -> bool:
        raise AssertionError("nothing may be computed here")

    for wrong, message in (
        ({"output": "ct.dcm"}, "unknown image format"),
        ({"output": "ct.nii", "preview": "ct.jpg"}, r"ends in \.png"),
        ({"preview": "ct.png"}, "preview: it is written with output"),
        ({"memory": "lots"}, "memory: expected bytes"),
    ):
        with pytest.raises(RequestError, match=message):
            engine.generate(progress=never, **wrong)
        with pytest.raises(RequestError, match=message):
            engine.decode(latent(), progress=never, **wrong)
    with pytest.raises(OutputError, match="does not exist"):
        engine.generate(progress=never, output=tmp_path / "missing" / "ct.nii")


def test_many_with_output_appear_one_by_one(engine: Engine, tmp_path: Path) -> None:
    requests = [{"seed": 1, "sample": index, "output": tmp_path / f"{index}.nii.gz"} for index in range(4)]
    volumes = engine.generate_many(requests)
    next(volumes)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".json") == ["0.json"]
    next(volumes)
    volumes.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "0.nii.gz", "1.json", "1.nii.gz"]
    for index, volume in enumerate(engine.generate_many(requests)):
        assert (tmp_path / f"{index}.json").exists()
        assert volume.saved is not None
        assert volume.saved.image == tmp_path / f"{index}.nii.gz"


@pytest.mark.parametrize("size", [SIZE, (12, 20, 28), (4, 4, 4)])
def test_every_way_of_encoding_gives_the_same_latent(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int]
) -> None:
    image = np.random.default_rng(0).integers(-1000, 1001, size).astype(np.int16)
    latents = {}
    for way in WAYS:
        with only(monkeypatch, way):
            latents[way] = engine.encode_image(image)
        assert latents[way].meta["encode_strategy"]["name"] == way
        assert latents[way].meta["posterior"] == {"kind": "mean"}
    assert latents["whole"].latent.std() > 0.1
    for way in WAYS[1:]:
        assert latents[way].latent.flags.c_contiguous
        assert np.allclose(latents[way].latent, latents["whole"].latent, atol=2e-5), way


def test_samples_of_the_posterior(engine: Engine) -> None:
    image = np.random.default_rng(0).integers(-1000, 1001, SIZE).astype(np.int16)
    mean, log_variance = _native.encode(
        _native.OpenVINOSession(_native.Plan(engine.path), "vae_encoder", "fp32"), (image + 1000.0) / 2000
    )
    drawn = engine.encode(image, sample=True, seed=9)
    expected = (mean + np.exp(0.5 * log_variance) * _native.fill_normal(9, 0, mean.shape)) * 1.25
    assert np.allclose(drawn, expected, atol=1e-5)
    assert np.array_equal(drawn, engine.encode(image, sample=True, seed=9))
    assert not np.allclose(drawn, engine.encode(image, sample=True, seed=10), atol=0.1)
    assert np.allclose(engine.encode(image, seed=9), mean * 1.25, atol=1e-5)
    assert engine.encode_image(image, sample=True, seed=9).meta["posterior"] == {"kind": "sample", "seed": 9}
    for seed in (-1, 2**64, 1.5, True):
        with pytest.raises(RequestError, match="seed: expected"):
            engine.encode(image, seed=seed)  # type: ignore[arg-type]


def test_what_fits_nowhere_says_what_would(engine: Engine, decoder: Routes) -> None:
    least = min(route.peak_bytes or 0 for route in decoder.all(LATENT[1:], 1))
    with pytest.raises(MemoryBudgetError) as raised:
        engine.decode(latent(), memory=least - 1)
    message = str(raised.value)
    assert "decoding 48 x 48 x 32 voxels needs at least" in message
    for way in ("whole", "in place", "spill", "recompute"):
        assert f"{way} " in message
    assert f"memory='{-(-least // (1 << 20))}MiB'" in message
    assert "or size 32 x 32 x 16, which fits" in message
    assert raised.value.exit_code == 4
    engine.decode(latent(), memory=-(-least // (1 << 20)) << 20)
    with pytest.raises(MemoryBudgetError, match="encoding 48 x 48 x 32 voxels needs at least"):
        engine.encode(np.zeros(SIZE, np.int16), memory=1000)


def test_a_window_that_fits_is_named(decoder: Routes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the image, twice in float32 and once in int16: 21 MB here, and the window's 100 bytes per voxel."""
    refused = [Route("spill", 10 << 30, 1.0, 0, 1.0, False)]
    monkeypatch.setattr(Routes, "all", lambda *_: refused)
    with pytest.raises(MemoryBudgetError, match=r"decode='windowed' with window=\(32, 32, 32\), which is not exact"):
        decoder.choose((33, 32, 32), 1 << 30)
    with pytest.raises(MemoryBudgetError, match=r"decode='windowed' with window=\(48, 48, 48\), which is not exact"):
        decoder.choose((64, 64, 64), 1 << 30)
    with pytest.raises(MemoryBudgetError, match=r"Ask for memory='10\.0GiB' if there is that much; or free memory"):
        decoder.choose((32, 32, 32), 40 << 20)


def test_windows_have_to_fit_too(engine: Engine) -> None:
    x, y, z = 48, 48, 32
    needed = 100 * (4 * 4) ** 3 + 10 * x * y * z
    windowed = engine.decode(latent(), decode="windowed", memory=x * y * z * 110)
    assert "decode_strategy" not in windowed.meta
    small = {"size": (x, y, z), "decode": "windowed", "window": (4, 4, 4)}
    with pytest.raises(
        MemoryBudgetError, match=r"in windows of 4 x 4 x 4 latent voxels needs 1\.1 MiB .* may take 1\.1"
    ):
        engine.generate(**small, memory=needed - 1)
    assert engine.generate(**small, memory=needed).size == (x, y, z)
    with pytest.raises(
        MemoryBudgetError, match=r"in windows of 80 x 80 x 80 .* Ask for decode='exact'; or free memory"
    ):
        engine.decode(latent(), decode="windowed", memory=x * y * z * 110 - 1)


def test_sampling_that_does_not_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(MemoryBudgetError, match=r"sampling 48 x 48 x 32 voxels needs 112\.5 KiB .* may take 97\.7 KiB"):
        engine.generate(size=SIZE, memory=100_000)
    with pytest.raises(MemoryBudgetError, match=r"sampling 48 x 48 x 32 voxels needs 225\.0 KiB"):
        engine.generate(size=SIZE, memory=200_000, guidance=2.0, decode="windowed")


def test_sampling_networks_make_room_for_the_decoder(engine: Engine, decoder: Routes) -> None:
    """They hold their activations; where decoding does not fit beside them, they are given up."""
    least = min(route.peak_bytes or 0 for route in decoder.all(LATENT[1:], 1))
    sampling = 100 * 12 * 12 * 8
    loaded = sessions.Sessions(_native, _native.Plan(engine.path), engine.manifest, None, 0, "")
    for memory, release in ((least + sampling - 1, True), (least + sampling, False)):
        job = check(Request(size=SIZE, memory=memory), engine.manifest)
        outline = outline_generation(job, engine.manifest, loaded, decoder)
        assert outline.release is release
        assert outline.route is not None
        generated = engine.generate(size=SIZE, seed=4, memory=memory)
        assert np.abs(generated.array.astype(int) - engine.generate(size=SIZE, seed=4).array).max() <= 1


def test_what_networks_hold_counts_as_free(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the second of two equal requests would find less memory than the first."""
    monkeypatch.setattr(sessions, "free_bytes", lambda: 1_000_000)
    kept = sessions.Sessions(_native, _native.Plan(engine.path), engine.manifest, None, 0, "")
    use, other = Use("vae_decoder", 2000), Use("vae_decoder", 1000)
    assert kept.budget(None, [use]) == 1_000_000 - 1000  # it is to be loaded
    kept.get("vae_decoder")
    kept.note(use)
    assert kept.budget(None, [use]) == 1_000_000 + 200_000
    assert kept.budget(None, [other]) == 1_000_000
    assert kept.budget(5, [use]) == 5
    assert kept.release(["vae_decoder"])
    assert not kept.release(["vae_decoder"])
    assert kept.budget(None, [use]) == 1_000_000 - 1000
    monkeypatch.setattr(sessions, "free_bytes", lambda: None)
    assert kept.budget(None, [use]) is None


def test_loaded_networks_are_given_up_before_a_request_is_refused(
    plan: Path, decoder: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an earlier request of another size, say."""
    engine = ctfast.load(plan)
    engine.decode(latent())
    needed = min(route.peak_bytes or 0 for route in decoder.all((3, 3, 3), 1))
    asked = []

    def free() -> int:
        asked.append(None)
        return needed - 1 if len(asked) == 1 else needed + 1000

    monkeypatch.setattr(sessions, "free_bytes", free)
    assert engine.decode(latent(shape=(4, 3, 3, 3))).size == (12, 12, 12)
    assert len(asked) == 2
    fresh = ctfast.load(plan)
    asked.clear()
    with pytest.raises(MemoryBudgetError):
        fresh.decode(latent(shape=(4, 3, 3, 3)))


def test_spilling_needs_a_disk(decoder: Routes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tensors that are on it at the same time; a full one leaves the other ways."""
    size = (48, 48, 32)
    routes = {route.name: route for route in decoder.all(size, 1)}
    spill = routes["spill"]
    assert spill.strategy is not None
    assert spill.strategy.spilled in (["conv_in"], ["block"])
    assert spill.scratch_bytes == 8 * 48 * 48 * 32 * 4
    assert routes["whole"].scratch_bytes == 0
    budget = spill.peak_bytes
    assert budget is not None
    assert decoder.choose(size, budget).name == "spill"
    monkeypatch.setattr(decoding, "scratch_free", lambda: 8 * 48 * 48 * 32 * 4 - 1)
    with pytest.raises(MemoryBudgetError, match=r"spill also needs 2\.2 MiB on the disk of '.*', which has 2\.2 MiB"):
        decoder.choose(size, budget)


def test_scratch_files_go_where_they_are_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    assert decoding.scratch_folder() == "/var/tmp"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert decoding.scratch_folder() == str(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert decoding.scratch_free() == 0


def test_plans_without_programs_decode_whole(tmp_path: Path) -> None:
    old = ctfast.load(tiny_plan.write(tmp_path / "old.plan"))
    volume = old.generate(seed=1, memory="1GiB")
    assert volume.meta["decode_strategy"] == {"name": "whole", "predicted_peak_bytes": None}
    with pytest.raises(MemoryBudgetError, match=r"needs about 976\.6 KiB of memory and 927\.7 KiB"):
        old.generate(seed=1, memory=950_000)


def test_public_functions_pass_everything_on(engine: Engine, decoder: Routes, tmp_path: Path) -> None:
    budget = below_whole(decoder, LATENT[1:])
    volume = ctfast.decode(
        latent(), engine=engine, memory=budget, output=tmp_path / "a.nii", preview=tmp_path / "a.png"
    )
    assert volume.meta["decode_strategy"]["name"] == "in_place"
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii", "a.json", "a.png"}
    generated = ctfast.generate(engine, size=SIZE, memory="1GiB", output=tmp_path / "b.nii", preview=tmp_path / "b.png")
    assert generated.saved is not None
    assert generated.saved.preview == tmp_path / "b.png"
    encoded = ctfast.encode(volume, engine=engine, sample=True, seed=2, memory="1GiB")
    assert np.array_equal(encoded, engine.encode(volume, sample=True, seed=2))
    with pytest.raises(MemoryBudgetError):
        ctfast.encode(volume, engine=engine, memory=1)
