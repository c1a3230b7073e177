"""Whole runs of tiny networks: they learn, resume to the bit, start from plans, and stop where they cannot go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_training, two_processes
from torch import Tensor, nn

from ctfast.checkpoints import load_into, networks_of, read_checkpoint
from ctfast.errors import CheckpointError, DataError, OutputError, PlanError, RequestError
from ctfast.networks import AutoencoderKL, ControlNet, DenoiserUNet
from ctfast.train import vae as vae_module
from ctfast.train.config import Optimisation, TrainConfig
from ctfast.train.controlnet import train_controlnet
from ctfast.train.files import save_atomically
from ctfast.train.flow import train_flow
from ctfast.train.latents import load_vae
from ctfast.train.loop import Trainer
from ctfast.train.vae import train_vae
from ctfast.train.weights import load_weights

TASKS = ("vae", "flow", "controlnet")


@dataclass(frozen=True)
class Model:
    """Random weights of one tiny model, as state dicts that runs build on."""

    root: Path
    vae: Mapping[str, Tensor]
    denoiser: Mapping[str, Tensor]
    controlnet: Mapping[str, Tensor]

    def train(self, task: str, config: TrainConfig, folder: Path, **options: Any) -> Path:
        if task == "vae":
            return train_vae(config, folder, **options)
        if task == "flow":
            return train_flow(config, self.vae, folder, **options)
        return train_controlnet(config, self.vae, self.denoiser, folder, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tiny_training.prepared(tmp_path_factory.mktemp("prepared"), sizes=[(16, 16, 16)])
    config = tiny_training.config(root)
    torch.manual_seed(7)
    networks = (AutoencoderKL(config.vae.network), DenoiserUNet(config.flow.network))
    controlnet = ControlNet(config.controlnet_network())
    return Model(root, *(network.state_dict() for network in networks), controlnet.state_dict())


@dataclass(frozen=True)
class Run:
    """A finished run of the tiny configuration, and the progress it told."""

    folder: Path
    result: Path
    told: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def runs(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    finished = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp(task)
        told: list[tuple[str, int, int]] = []
        result = model.train(task, tiny_training.config(model.root), folder, progress=_noting(told))
        finished[task] = Run(folder, result, told)
    return finished


def _noting(told: list[tuple[str, int, int]]) -> Callable[[str, int, int], object]:
    return lambda *args: told.append(args)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def difference(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two nested structures of tensors and plain values are not equal to the bit."""
    if isinstance(a, Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f"{path}: {sorted(map(str, set(a) ^ set(b)))}"]
        return [found for key in a for found in difference(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in difference(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


@pytest.mark.parametrize("task", TASKS)
def test_each_task_learns(task: str, model: Model, tmp_path: Path) -> None:
    settings = {"steps": 24, "rate": 1e-2, "ema": 0.5, "save_every": 8, "log_every": 8}
    config = tiny_training.config(model.root, **{task: {"optimisation": settings}})
    model.train(task, config, tmp_path)
    entries = log(tmp_path)
    assert [entry["step"] for entry in entries] == [8, 8, 16, 16, 24, 24]
    # On held-out data, with the same noise every time: the losses of a few steps jump about.
    checked = {"vae": "val_psnr", "flow": "val_loss", "controlnet": "val_flow"}[task]
    first, _, last = (entry[checked] for entry in entries if checked in entry)
    assert last > first + 1 if task == "vae" else last < 0.99 * first
    assert any(file.name.startswith("events.out.tfevents") for file in tmp_path.iterdir())


@pytest.mark.parametrize("task", TASKS)
def test_resuming_is_exact(task: str, model: Model, runs: dict[str, Run], tmp_path: Path) -> None:
    config, whole = tiny_training.config(model.root), runs[task]
    half = model.train(task, config, tmp_path, stop_after=3)
    assert torch.load(half, weights_only=True)["step"] == 3
    assert model.train(task, config, tmp_path).name == whole.result.name
    names = ["checkpoint.pt"] + (["vae.pt"] if task == "vae" else [])
    for name in names:
        state = torch.load(whole.folder / name, weights_only=True)
        assert difference(state, torch.load(tmp_path / name, weights_only=True)) == []
        assert state.get("step", 6) == 6
    # The means in the log are of the steps since the last entry, in both runs.
    assert [e["step"] for e in log(tmp_path)] == [2, 3, 3, 4, 6, 6]
    assert log(whole.folder)[-2]["loss"] == log(tmp_path)[-2]["loss"]


@pytest.mark.parametrize("task", TASKS)
def test_a_finished_run_stays_as_it_is(task: str, model: Model, runs: dict[str, Run], tmp_path: Path) -> None:
    shutil.copytree(runs[task].folder, tmp_path, dirs_exist_ok=True)
    model.train(task, tiny_training.config(model.root), tmp_path)
    result = runs[task].result.name
    before, after = (torch.load(folder / result, weights_only=True) for folder in (runs[task].folder, tmp_path))
    assert difference(before, after) == []
    assert log(tmp_path) == log(runs[task].folder)


@pytest.mark.parametrize("task", TASKS)
def test_checkpoints_are_what_a_build_reads(task: str, runs: dict[str, Run]) -> None:
    checkpoint = read_checkpoint(runs[task].result)
    networks = networks_of(checkpoint)
    assert networks is not None
    role = {"vae": "autoencoder", "flow": "denoiser"}.get(task, task)
    assert load_into(networks.module(role), checkpoint, what=role) == ()
    assert checkpoint.scale_factor == (1.0 if task == "flow" else None)


def test_data_of_several_shapes(model: Model, tmp_path: Path) -> None:
    root = tiny_training.prepared(tmp_path / "data", train=4, val=2, sizes=((16, 16, 16), (16, 24, 8)))
    config = tiny_training.config(root, controlnet={"roi_labels": [3, 7]})
    for task in TASKS:
        model.train(task, config, tmp_path / task)
        assert log(tmp_path / task)[-1]["step"] == 6


@pytest.mark.parametrize("features", [False, True])
def test_contrast_is_part_of_the_loss(features: bool, model: Model, tmp_path: Path) -> None:
    changes = {"contrast_on_features": features, "contrast_weight": 0.5, "contrast_weight_late": 0.0}
    config = tiny_training.config(model.root, controlnet=changes)
    model.train("controlnet", config, tmp_path, start=model.controlnet)
    first, *_, last = (entry for entry in log(tmp_path) if "loss" in entry)
    assert abs(first["contrast"]) > 1e-4
    assert first["loss"] == pytest.approx(first["flow"] + 0.5 * first["contrast"], abs=1e-4)
    assert "contrast" not in last  # its weight is 0 by then
    assert last["loss"] == last["flow"]


def test_a_controlnet_without_roi_has_no_contrast(model: Model, tmp_path: Path) -> None:
    model.train("controlnet", tiny_training.config(model.root, controlnet={"roi_labels": []}), tmp_path)
    assert all("contrast" not in entry for entry in log(tmp_path))


def test_decoder_only_leaves_the_latents_alone(model: Model, tmp_path: Path) -> None:
    config = tiny_training.config(model.root, vae={"decoder_only": True})
    path = model.train("vae", config, tmp_path, start=model.vae)
    state = torch.load(path, weights_only=True)["state_dict"]
    changed = {key.split(".")[0] for key in state if not torch.equal(state[key], model.vae[key])}
    assert changed == {"decoder", "post_quant_conv"}


def split(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith(prefixes)}


@pytest.fixture(scope="module")
def plan(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    networks = {
        "vae_encoder": split(model.vae, "encoder.", "quant_conv_"),
        "vae_decoder": split(model.vae, "decoder.", "post_quant_conv."),
        "denoiser": model.denoiser,
        "controlnet_condition": split(model.controlnet, "controlnet_cond_embedding."),
    }
    networks["controlnet"] = {k: v for k, v in model.controlnet.items() if k not in networks["controlnet_condition"]}
    return tiny_training.plan(tmp_path_factory.mktemp("plan") / "tiny.plan", networks, scale_factor=1.25)


@pytest.mark.parametrize("task", TASKS)
def test_starting_from_a_plan(task: str, model: Model, plan: Path, tmp_path: Path) -> None:
    # A rate this small leaves the weights where they began.
    settings = {"optimisation": {"rate": 1e-12, "steps": 1}}
    config = tiny_training.config(model.root, **{task: settings})
    model.train(task, config, tmp_path, start=plan)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    expected = {"vae": model.vae, "flow": model.denoiser, "controlnet": model.controlnet}[task]
    scaled = ("quant_conv", "post_quant_conv") if task == "vae" else ()
    for key, value in expected.items():
        if not key.startswith(scaled):
            torch.testing.assert_close(state[key], value, atol=1e-9, rtol=1e-6)


def test_a_plans_vae_encodes_what_its_denoiser_knows(model: Model, plan: Path) -> None:
    config = tiny_training.config(model.root)
    plain, scaled = load_vae(model.vae, config), load_vae(plan, config)
    image = torch.rand(1, 1, 16, 16, 16)
    latent = plain.encode(image)[0]
    torch.testing.assert_close(scaled.encode(image)[0], 1.25 * latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled.decode(1.25 * latent), plain.decode(latent), atol=1e-5, rtol=1e-5)


def test_plans_that_do_not_fit_are_refused(model: Model, plan: Path, tmp_path: Path) -> None:
    wider = tiny_training.config(model.root, flow={"network": {"channels": [8, 24]}})
    with pytest.raises(CheckpointError, match=r"tiny\.plan does not fit the configuration's denoiser: .*another shape"):
        load_weights(DenoiserUNet(wider.flow.network), plan)
    lacking = tiny_training.plan(tmp_path / "lacking.plan", {"denoiser": model.denoiser})
    with pytest.raises(PlanError, match="no network 'vae_encoder'"):
        load_vae(lacking, wider)
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        load_vae(tmp_path / "none.pt", wider)


def _damage(folder: Path) -> None:
    file = folder / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])


def _empty(folder: Path) -> None:
    torch.save({"step": 3}, folder / "checkpoint.pt")


@pytest.mark.parametrize("spoil", [_damage, _empty])
def test_a_damaged_checkpoint_is_refused(spoil: Callable[[Path], None], model: Model, tmp_path: Path) -> None:
    config = tiny_training.config(model.root)
    model.train("vae", config, tmp_path, stop_after=1)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: does not fit this configuration, or is damaged"):
        model.train("vae", config, tmp_path)


def test_another_configurations_checkpoint_is_refused(model: Model, tmp_path: Path) -> None:
    model.train("vae", tiny_training.config(model.root), tmp_path, stop_after=1)
    wider = tiny_training.config(model.root, vae={"network": {"channels": [8, 32]}})
    with pytest.raises(CheckpointError, match="train into a new folder"):
        model.train("vae", wider, tmp_path)


def test_gradients_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    trainer = Trainer(nn.Linear(1, 1), Optimisation(steps=5, save_every=1, amp=False), tmp_path, {})

    def loss(network: nn.Module, step: int) -> Mapping[str, Tensor]:
        return {"loss": network(torch.ones(1, 1)).sum() * (float("nan") if step == 2 else 1.0)}

    with pytest.raises(DataError, match=r"step 2: expected a finite gradient, found nan; .*checkpoint\.pt"):
        trainer.run(loss, lambda _: {})
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(value).all() for value in state["network"].values())


def test_the_perceptual_loss_is_part_of_the_sum(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for MONAI's, which downloads its weights."""

    class Mean(nn.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a.mean() - b.mean()).abs()

    monkeypatch.setattr(vae_module, "PerceptualLoss", Mean)
    model.train("vae", tiny_training.config(model.root, vae={"perceptual": 0.5, "kl": 0.0}), tmp_path, stop_after=2)
    entry = log(tmp_path)[0]
    assert entry["perceptual"] > 0
    assert entry["loss"] == pytest.approx(entry["l1"] + 0.5 * entry["perceptual"], rel=1e-4)

    def lacking(*_: Any, **__: Any) -> nn.Module:
        raise ModuleNotFoundError("No module named 'lpips'", name="lpips")

    monkeypatch.setattr(vae_module, "PerceptualLoss", lacking)
    with pytest.raises(RequestError, match=r"vae\.perceptual needs the package lpips: pip install lpips"):
        model.train("vae", tiny_training.config(model.root, vae={"perceptual": 0.5}), tmp_path / "other")


def test_labels_beyond_the_bits_are_refused(model: Model, tmp_path: Path) -> None:
    config = tiny_training.config(model.root, data={"label_bits": 4})
    with pytest.raises(DataError, match=r"p0: expected labels below 16 \(4 bits\), found 200"):
        train_controlnet(config, model.vae, model.denoiser, tmp_path)


def test_failed_writes_leave_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    save_atomically({"step": 1}, file)
    file.with_suffix(".tmp").mkdir()  # so that the new one cannot be written
    with pytest.raises(OutputError, match=r"a\.pt: could not be written .*unchanged"):
        save_atomically({"step": 2}, file)
    assert torch.load(file, weights_only=True) == {"step": 1}


def test_progress_is_told(runs: dict[str, Run]) -> None:
    for run in runs.values():
        assert [entry for entry in run.told if entry[0] == "train"] == [("train", step, 6) for step in range(1, 7)]
    assert ("encode", 9, 9) in runs["flow"].told  # three crops in three versions


@pytest.mark.slow
def test_two_processes_under_torchrun(model: Model, tmp_path: Path) -> None:
    files = {}
    for name, state in (("vae", model.vae), ("flow", model.denoiser)):
        files[name] = tmp_path / f"{name}.pt"
        torch.save({"state_dict": dict(state)}, files[name])
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(tiny_training.CONFIG))  # JSON is YAML
    words = ["train", "controlnet", "--config", config, "--data", model.root, "--output", tmp_path / "run", "--json"]
    words += ["--vae", files["vae"], "--flow", files["flow"], "--threads", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [two_processes.__file__, tmp_path, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    shared = torch.load(tmp_path / "weights.pt", weights_only=True)
    alone = two_processes.fit(tmp_path / "alone", None)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-4)
    result = json.loads(done.stdout)  # the first rank alone speaks
    assert result["last"]["step"] == 6
    assert "contrast" in result["last"]
    assert torch.load(result["checkpoint"], weights_only=True)["step"] == 6
