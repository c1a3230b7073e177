"""The whole way from a request to a volume, on a plan of tiny networks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from support import tiny_plan

import ctfast
from ctfast import _native, api, locate
from ctfast.engine import Engine
from ctfast.errors import CancelledError, DeviceError, MemoryBudgetError, PlanError, RequestError
from ctfast.manifest import MemoryPeak
from ctfast.memory import _container_available, available_bytes, check_table, predicted_peak
from ctfast.volume import Volume


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")


@pytest.fixture(scope="module")
def engine(plan: Path) -> Engine:
    return ctfast.load(plan, precision="fp32")


def mask(thick: int = 3, label: int = 7) -> Any:
    labels = np.full(tiny_plan.SIZE, tiny_plan.BODY, np.uint8)
    labels[:2] = 0
    labels[8 : 8 + thick] = label
    return labels


def test_a_volume_and_its_account(engine: Engine) -> None:
    volume = engine.generate(seed=11, sample=3)
    assert volume.array.shape == tiny_plan.SIZE
    assert volume.array.min() >= -1000
    assert volume.array.max() <= 1000
    assert volume.array.std() > 10
    assert volume.labels is None
    assert volume.spacing == tiny_plan.SPACING
    meta = volume.meta
    expected = {"synthetic": True, "seed": 11, "sample": 3, "steps": 4, "solver": "euler", "time_grid": "monai"}
    assert {key: meta[key] for key in expected} == expected
    assert meta["plan"]["sha256"] == engine.identity
    assert meta["precision"] == {"denoiser": "fp32", "vae_decoder": "fp32"}
    assert set(meta["timings"]) == {"prepare", "sample", "decode", "finish", "total"}
    assert meta["licence"] == {"class": "open", "text": "Apache-2.0"}
    assert meta["device"] == "cpu"
    assert meta["ctfast"] == ctfast.__version__


def test_the_engine_runs_what_the_runtime_would(engine: Engine) -> None:
    """The engine's volume is the runtime's, called by hand."""
    session = {
        name: _native.OpenVINOSession(_native.Plan(engine.path), name, "fp32") for name in ("denoiser", "vae_decoder")
    }
    t, dt = _native.rflow_time_grid(4, int(np.prod(tiny_plan.LATENT[1:])), base_voxels=32)
    zeros = np.zeros((1, 8, *tiny_plan.LATENT[1:]), np.float32)

    def velocity(x: Any, time: float) -> Any:
        return session["denoiser"].run(
            {
                "latent": x[np.newaxis],
                "timestep": np.array([time], np.float32),
                "class_label": np.array([1]),
                "spacing": np.array([tiny_plan.SPACING], np.float32) * 100,
                "down_residual_00": zeros,
                "middle_residual": zeros,
            }
        )["prediction"][0]

    latent = _native.integrate("euler", t, dt, velocity, _native.fill_normal(5, 0, tiny_plan.LATENT))
    image = session["vae_decoder"].run({"latent": latent[np.newaxis] / np.float32(1.25)})["image"][0, 0]
    expected = np.rint(np.clip(image * 2000 - 1000, -1000, 1000))
    assert np.abs(engine.generate(seed=5).array - expected).max() <= 1


def test_seeds_and_samples_make_the_volume(engine: Engine, plan: Path) -> None:
    first = engine.generate(seed=1).array
    assert np.array_equal(engine.generate(seed=1).array, first)
    assert not np.array_equal(engine.generate(seed=2).array, first)
    assert not np.array_equal(engine.generate(seed=1, sample=1).array, first)
    one_thread = ctfast.load(plan, precision="fp32", threads=1).generate(seed=1)
    assert (np.abs(one_thread.array.astype(int) - first) <= 1).mean() > 0.999
    assert one_thread.meta["threads"] == 1


def test_given_noise_replaces_the_seed(engine: Engine) -> None:
    noise = _native.fill_normal(9, 0, tiny_plan.LATENT)
    assert np.array_equal(engine.generate(latents=noise, seed=1).array, engine.generate(seed=9).array)
    assert len(engine.generate(latents=noise).meta["latents"]["sha256"]) == 64


def test_every_option_reaches_the_networks(engine: Engine) -> None:
    base = engine.generate(seed=1).array
    for changed in (
        {"steps": 5},
        {"solver": "heun"},
        {"time_grid": "exact"},
        {"spacing": (4.0, 4.0, 3.0)},
        {"modality": "ct_contrast"},
        {"guidance": 4.0},
        {"mask": np.full(tiny_plan.SIZE, tiny_plan.BODY)},
    ):
        assert not np.array_equal(engine.generate(seed=1, **changed).array, base), changed


def test_a_mask_shapes_the_volume(engine: Engine) -> None:
    volume = engine.generate(mask=mask(), seed=1)
    assert volume.labels is not None
    assert np.array_equal(volume.labels, mask())
    assert (volume.array[volume.labels == 0] == -1000).all()
    inside = volume.labels > 0
    assert not np.array_equal(engine.generate(mask=mask(thick=9), seed=1).array[inside], volume.array[inside])
    assert volume.meta["mask"]["source"] == "user"
    assert volume.meta["body_label"] == tiny_plan.BODY
    assert set(volume.meta["precision"]) == {"denoiser", "controlnet", "controlnet_condition", "vae_decoder"}
    assert volume.meta["timings"]["condition"] > 0


def test_tumour_guidance_needs_a_tumour_to_matter(engine: Engine) -> None:
    """The tiny denoiser's class label differs between the halves too, hence modality 1 against 0 always matters."""
    plain, guided = (engine.generate(mask=mask(label=10), seed=1, guidance=g) for g in (0, 3))
    assert not np.array_equal(plain.array, guided.array)
    assert guided.meta["guidance"] == {"kind": "tumour", "scale": 3.0}


def test_a_masks_place_is_the_volumes(engine: Engine) -> None:
    affine = np.diag([*tiny_plan.SPACING, 1.0])
    affine[:3, 3] = (10, -20, 30)
    volume = engine.generate(mask=nibabel.Nifti1Image(mask(), affine))
    assert np.allclose(volume.affine, affine)


def test_windowed_decoding_truncates(engine: Engine) -> None:
    whole = engine.generate(seed=1)
    windowed = engine.generate(seed=1, decode="windowed")  # one window holds the whole latent
    difference = whole.array.astype(int) - windowed.array
    assert np.abs(difference).max() == 1
    small = engine.generate(seed=1, decode="windowed", window=(4, 4, 4), overlap=0.5)
    assert small.array.shape == whole.array.shape
    assert small.meta["decode"] == "windowed"


def test_encode_and_decode(engine: Engine, tmp_path: Path) -> None:
    volume = engine.generate(seed=2)
    latent = ctfast.encode(volume, engine=engine)
    assert (latent.shape, latent.dtype) == (tiny_plan.LATENT, np.float32)
    mean, _ = _native.encode(
        _native.OpenVINOSession(_native.Plan(engine.path), "vae_encoder", "fp32"), (volume.array + 1000.0) / 2000
    )
    assert np.allclose(latent, mean * 1.25, atol=1e-5)
    volume.save(tmp_path / "ct.nii.gz")
    flipped = (volume.array[::-1], volume.affine @ np.diag([-1.0, 1, 1, 1]) + volume.affine[:, [0]] * [0, 0, 0, 31])
    for source in (tmp_path / "ct.nii.gz", volume.to_nibabel(), flipped, (volume.array, volume.affine), volume.array):
        assert np.allclose(ctfast.encode(source, engine=engine), latent, atol=1e-6)
    decoded = ctfast.decode(latent, engine=engine, affine=volume.affine)
    assert decoded.size == volume.size
    assert np.allclose(decoded.affine, volume.affine)
    assert decoded.meta["synthetic"] is True
    assert decoded.meta["source"] == "decoded latent"
    assert "seed" not in decoded.meta
    assert ctfast.decode(latent, engine=engine, spacing=(4, 4, 3)).spacing == (4, 4, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((32, 32, 17), np.int16), "image: size 32 x 32 x 17 does not go into plan .*multiples of 4, 4, 4"),
        (np.full(tiny_plan.SIZE, np.nan), "16384 voxels are NaN"),
        (np.zeros((4, 4)), "expected numbers"),
        ("nowhere.nii", "no file"),
    ],
)
def test_images_that_cannot_be_encoded(engine: Engine, source: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.encode(source)


def test_latents_that_cannot_be_decoded(engine: Engine) -> None:
    for latent, message in (
        (np.zeros((3, 8, 8, 4)), r"expects shape \(4, x, y, z\), found \(3, 8, 8, 4\)"),
        (np.zeros((4, 0, 8, 4)), "size 0 x 32 x 16 does not go into"),
        (np.full(tiny_plan.LATENT, np.inf), "NaN or infinite"),
    ):
        with pytest.raises(RequestError, match=message):
            engine.decode(latent)


def test_many_volumes_come_in_order_and_one_ahead(engine: Engine) -> None:
    taken = []

    def requests() -> Iterator[dict[str, Any]]:
        for sample in range(4):
            taken.append(sample)
            yield {"seed": 1, "sample": sample}

    ahead = []
    for index, volume in enumerate(engine.generate_many(requests())):
        ahead.append(len(taken) - index - 1)
        assert volume.meta["sample"] == index
        assert np.array_equal(volume.array, engine.generate(seed=1, sample=index).array)
    assert ahead == [1, 1, 1, 0]


def test_saving_overlaps_computing(engine: Engine) -> None:
    """While the caller is busy with one volume, the next is already sampled."""
    decoded = threading.Semaphore(0)

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "decode" and done == total:
            decoded.release()

    volumes = engine.generate_many([{"seed": 1}, {"seed": 2}], progress)
    next(volumes)
    assert all(decoded.acquire(timeout=5) for _ in range(2))  # the second before anybody asked for it
    assert next(volumes).meta["seed"] == 2


def test_an_error_comes_at_its_turn(engine: Engine) -> None:
    volumes = engine.generate_many([{"seed": 1}, {"seed": 2}, {"seed": -1}, {"seed": 3}])
    assert [next(volumes).meta["seed"] for _ in range(2)] == [1, 2]
    with pytest.raises(RequestError, match="seed"):
        next(volumes)


def test_leaving_early_stops_the_worker(engine: Engine) -> None:
    before = threading.active_count()
    volumes = engine.generate_many({"steps": 1000, "sample": index} for index in range(3))
    next(volumes)
    start = time.perf_counter()
    volumes.close()
    assert time.perf_counter() - start < 2
    assert threading.active_count() == before
    assert engine.generate(seed=1).size == tiny_plan.SIZE


def test_progress_is_told_in_every_stage(engine: Engine) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    engine.generate(
        mask=mask(), progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)), seed=1
    )
    assert list(seen) == ["condition", "sample", "decode", "finish"]
    assert seen["sample"] == [(step, 4) for step in range(5)]
    assert all(steps[-1][0] == steps[-1][1] for steps in seen.values())


@pytest.mark.parametrize("stage", ["condition", "sample", "decode"])
def test_cancelling_in_any_stage(engine: Engine, stage: str) -> None:
    with pytest.raises(CancelledError) as raised:
        engine.generate(mask=mask(), progress=lambda now, done, total: now != stage)
    assert raised.value.exit_code == 130
    flag = threading.Event()
    with pytest.raises(CancelledError):
        engine.generate(mask=mask(), progress=lambda now, *_: flag.set() if now == stage else None, cancel=flag)
    with pytest.raises(CancelledError):
        engine.generate(cancel=lambda: True)
    with pytest.raises(RequestError, match="cancel: expected a function"):
        engine.generate(cancel=3)  # type: ignore[arg-type]


def test_an_error_in_progress_reaches_the_caller(engine: Engine) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        engine.generate(progress=broken)


def test_threads_share_an_engine(engine: Engine) -> None:
    expected = [engine.generate(seed=seed).array for seed in range(4)]
    results: dict[int, Volume] = {}
    workers = [
        threading.Thread(target=lambda seed=seed: results.update({seed: engine.generate(seed=seed)}))  # type: ignore[misc]
        for seed in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(results[seed].array, expected[seed]) for seed in range(4))


def test_generate_keeps_the_engine_it_loaded(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    class Counted(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            loads.append(args)
            super().__init__(*args, **options)

    monkeypatch.setattr(api, "_latest", None)
    monkeypatch.setattr(api, "Engine", Counted)
    first, second = (ctfast.generate(str(plan), seed=seed) for seed in (1, 2))
    assert len(loads) == 1
    assert first.meta["plan"] == second.meta["plan"]


def test_devices(plan: Path, engine: Engine) -> None:
    for device in ("cuda", "cuda:0"):
        with pytest.raises(
            DeviceError, match=f"no backend can run plan 'tiny' on device '{device}': .*openvino: it runs"
        ):
            ctfast.load(plan, device=device)
        with pytest.raises(RequestError, match=f"loaded on 'cpu'; expected device 'auto', found '{device}'"):
            ctfast.generate(engine, device=device)
    for device in ("tpu", "cuda:", "cuda:x", 0):
        with pytest.raises(RequestError, match="device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', found"):
            ctfast.load(plan, device=device)  # type: ignore[arg-type]
    assert ctfast.generate(engine, device="cpu", seed=1).meta["device"] == "cpu"


def test_backends(plan: Path, engine: Engine) -> None:
    volume = ctfast.load(plan, backend="openvino").generate(seed=1)
    assert (volume.meta["backend"], volume.meta["device"]) == ("openvino", "cpu")
    assert volume.meta["versions"]["openvino"] == _native.build_info()["openvino"]
    assert (volume.array == engine.generate(seed=1).array).all()
    assert "openvino on cpu" in repr(engine)
    with pytest.raises(RequestError, match=r"backend: expected one of auto, .*openvino"):
        ctfast.load(plan, backend="caffe")


def test_bad_engine_arguments(plan: Path) -> None:
    with pytest.raises(RequestError, match="precision: expected one of bf16, fp16, fp32"):
        ctfast.load(plan, precision="int8")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(RequestError, match="threads: expected"):
            ctfast.load(plan, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="engine: expected a path"):
        ctfast.generate(engine=3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"no plan 'nowhere\.plan'"):
        ctfast.load("nowhere.plan")


def test_embedded_plans_by_name(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "PLANS", tmp_path)
    with pytest.raises(PlanError, match="no embedded plan 'headneck'"):
        ctfast.load()
    for name in ("headneck", "other"):
        (tmp_path / f"{name}.plan").symlink_to(plan)
    assert ctfast.load().path == tmp_path / "headneck.plan"
    assert ctfast.load("other").path == tmp_path / "other.plan"
    with pytest.raises(PlanError, match=r"embedded one \(headneck, other\)"):
        ctfast.load("third")


def test_networks_that_a_plan_lacks(tmp_path: Path) -> None:
    bare = ctfast.load(tiny_plan.write(tmp_path / "bare.plan", leave_out=("vae_encoder",)))
    with pytest.raises(PlanError, match="no network 'vae_encoder'"):
        bare.encode(np.zeros(tiny_plan.SIZE, np.int16))


def test_memory_is_asked_for_before_it_is_used(tmp_path: Path) -> None:
    huge = [{"size": list(tiny_plan.SIZE), "peak_bytes": 1 << 50}]
    hungry = ctfast.load(tiny_plan.write(tmp_path / "huge.plan", memory=huge))
    with pytest.raises(MemoryBudgetError, match=r"needs about 1048576\.0 GiB") as raised:
        hungry.generate()
    assert raised.value.exit_code == 4
    assert hungry.generate(decode="windowed").size == tiny_plan.SIZE


def test_predicted_peaks(tmp_path: Path) -> None:
    peaks = [MemoryPeak((64, 64, 64), 800), MemoryPeak((32, 32, 32), 200)]
    assert [predicted_peak(peaks, size) for size in ((16, 16, 16), (32, 32, 32), (33, 32, 32))] == [200, 200, 800]
    assert predicted_peak(peaks, (128, 64, 64)) == 1600
    assert predicted_peak([], (8, 8, 8)) is None
    assert (available_bytes() or 0) > 1 << 20
    check_table(peaks, (64, 64, 64), windowed=False, budget=800)
    check_table(peaks, (64, 64, 64), windowed=True, budget=799)
    check_table(peaks, (64, 64, 64), windowed=False, budget=None)
    with pytest.raises(MemoryBudgetError, match=r"64 x 64 x 64 needs about 0\.8 KiB of memory and 0\.8 KiB"):
        check_table(peaks, (64, 64, 64), windowed=False, budget=799)
    assert _container_available(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 100\nactive_file 50\n")
    assert _container_available(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_available(tmp_path) is None


def test_importing_costs_next_to_nothing() -> None:
    """Less than 0.3 s, and neither torch, nor a runtime, nor a network."""
    code = (
        "import sys, time; start = time.perf_counter(); import ctfast; seconds = time.perf_counter() - start; "
        "heavy = {'torch', 'monai', 'openvino', 'ctfast._native', 'nibabel', 'PIL', 'nrrd', 'tqdm'}; "
        "early = (heavy | {'numpy'}) & set(sys.modules); ctfast.errors, ctfast.generate, ctfast.Volume; "
        "print(seconds, sorted(early), sorted(heavy & set(sys.modules)))"
    )
    seconds, heavy, used = min(
        (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(" ", 2))
        for _ in range(3)
    )
    assert float(seconds) < 0.3
    assert (heavy, used.strip()) == ("[]", "[]")
