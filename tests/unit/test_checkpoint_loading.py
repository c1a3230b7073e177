"""Weights into networks: strict, with the two allowances that official files need; and folders of them by variant."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from support.official_files import (  # noqa: E402
    SCALE_FACTOR,
    controlnet_checkpoint,
    denoiser_checkpoint,
    one_thread,
    reference,
    small,
    with_generative_models_names,
    write_models_folder,
)

from ctfast.checkpoints import detect, find_folder, load_into, networks_of, read_checkpoint, sha256_of  # noqa: E402
from ctfast.errors import CheckpointError, RequestError  # noqa: E402
from ctfast.networks.variants import VARIANTS, NetworkSet  # noqa: E402

KINDS = {
    "autoencoder": "image-vae",
    "denoiser": "{}-denoiser",
    "controlnet": "{}-controlnet",
    "mask_autoencoder": "mask-vae",
    "mask_denoiser": "mask-denoiser",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    with one_thread():
        yield


def saved(path: Path, contents: Any) -> Any:
    torch.save(contents, path)
    return read_checkpoint(path)


def holds(module: Any, state: Any) -> bool:
    ours = module.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[key], state[key]) for key in state)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_whole_folder_by_its_variant(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every file of every variant, found, read, recognised and loaded, from a checkout or its models folder."""
    networks = small(name)
    modules = write_models_folder(tmp_path / "models", name)
    with caplog.at_level(logging.WARNING):
        files = find_folder(tmp_path, name)
    assert files == find_folder(tmp_path / "models", name)
    assert tuple(files) == networks.roles
    assert not caplog.records, "present names need no note"
    for role, file in files.items():
        checkpoint = read_checkpoint(file)
        assert detect(checkpoint.state_dict) == KINDS[role].format(name.split("-")[0])
        ours = networks.module(role)
        left_out = load_into(ours, checkpoint, what=role)
        assert holds(ours, modules[role].state_dict())
        assert bool(left_out) == (name == "ddpm-ct" and role in ("denoiser", "controlnet"))
        assert all(".attn.out_proj." in key for key in left_out)
        assert checkpoint.scale_factor == (SCALE_FACTOR if role.endswith("denoiser") else None)


def test_half_precision_files_load_into_fp32_networks(tmp_path: Path) -> None:
    config = small("rflow-ct").autoencoder
    state = {key: value.half() for key, value in reference(config).state_dict().items()}
    ours = small("rflow-ct").module("autoencoder")
    load_into(ours, saved(tmp_path / "half.pt", state), what="autoencoder")
    assert holds(ours, {key: value.float() for key, value in state.items()})


@pytest.mark.parametrize("role", ["autoencoder", "denoiser", "controlnet", "mask_autoencoder", "mask_denoiser"])
@pytest.mark.parametrize("name", ["rflow-ct", "ddpm-ct"])
def test_names_of_the_generative_models_era(name: str, role: str, tmp_path: Path) -> None:
    networks = small(name)
    state = reference(getattr(networks, role), seed=2).state_dict()
    old = with_generative_models_names(state)
    assert old.keys() != state.keys()
    ours = networks.module(role)
    assert load_into(ours, saved(tmp_path / "old.pt", old), what=role) == ()
    assert holds(ours, state)


def test_missing_surplus_and_reshaped_tensors_are_named(tmp_path: Path) -> None:
    networks = small("rflow-ct")
    state = reference(networks.autoencoder).state_dict()
    for key in [key for key in state if key.startswith("encoder.blocks.0.")]:
        del state[key]
    state.update({f"extra.{index}": torch.ones(1) for index in range(6)})
    state["post_quant_conv.conv.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError) as caught:
        load_into(networks.module("autoencoder"), saved(tmp_path / "odd.pt", state), what="the autoencoder")
    message = str(caught.value)
    assert f"{tmp_path / 'odd.pt'} does not fit the autoencoder: 2 tensors are missing: encoder.blocks.0." in message
    assert "6 tensors are surplus: extra.0, extra.1, extra.2, extra.3 and 2 more" in message
    assert "1 tensor is of another shape: post_quant_conv.conv.bias (expected [4], found [9])" in message
    assert "looks like an image VAE" in message


@pytest.mark.parametrize(
    ("file", "module", "looks_like"),
    [
        (("ddpm-ct", "denoiser"), ("rflow-ct", "denoiser"), "the denoiser of ddpm-ct"),
        (("rflow-ct", "denoiser"), ("ddpm-ct", "denoiser"), "the denoiser of rflow-ct, rflow-mr or rflow-mr-brain"),
        (("rflow-ct", "denoiser"), ("rflow-ct", "controlnet"), "the denoiser of rflow-ct"),
        (("rflow-ct", "controlnet"), ("rflow-ct", "denoiser"), "the ControlNet of rflow-ct"),
        (("ddpm-ct", "controlnet"), ("rflow-ct", "controlnet"), "the ControlNet of ddpm-ct"),
        (("rflow-ct", "mask_autoencoder"), ("rflow-ct", "autoencoder"), "the mask generator's VAE"),
        (("rflow-ct", "mask_denoiser"), ("ddpm-ct", "denoiser"), "the mask generator's denoiser"),
    ],
)
def test_the_wrong_file_is_recognised(file: Any, module: Any, looks_like: str, tmp_path: Path) -> None:
    state = reference(getattr(small(file[0]), file[1])).state_dict()
    with pytest.raises(CheckpointError, match=f"The file looks like {looks_like}"):
        load_into(small(module[0]).module(module[1]), saved(tmp_path / "file.pt", state), what="it")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "file.pt", {"layer1.weight": torch.ones(2)})
    assert detect(checkpoint.state_dict) == "unknown"
    with pytest.raises(CheckpointError, match="looks like no network of the MAISI family"):
        load_into(small("rflow-ct").module("denoiser"), checkpoint, what="the denoiser")


def test_unused_projections_are_dropped_only_where_the_network_has_none(tmp_path: Path) -> None:
    networks = small("ddpm-ct")
    legacy = saved(tmp_path / "ddpm.pt", denoiser_checkpoint(reference(networks.denoiser), legacy=True, training=False))
    dropped = load_into(networks.module("denoiser"), legacy, what="the denoiser")
    assert len(dropped) == 22  # weight and bias of 4 attentions on the way down, 1 in the middle, 6 on the way up
    projecting = replace(networks, denoiser=replace(networks.denoiser, project_attention=True))
    applied = projecting.module("denoiser")
    assert load_into(applied, legacy, what="the denoiser") == ()
    assert float(applied.state_dict()["middle_block.attention.attn.out_proj.bias"][0]) == 3.0

    state = controlnet_checkpoint(reference(networks.controlnet), legacy=True)
    state["controlnet_state_dict"]["middle_block.attention.attn.out_proj.scale"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"1 tensor is surplus: middle_block\.attention\.attn\.out_proj\.scale\."):
        load_into(networks.module("controlnet"), saved(tmp_path / "more.pt", state), what="the ControlNet")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(value: float, tmp_path: Path) -> None:
    networks = small("rflow-ct")
    state = reference(networks.autoencoder).state_dict()
    state["post_quant_conv.conv.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinite in post_quant_conv\.conv\.bias; .* diverged"):
        load_into(networks.module("autoencoder"), saved(tmp_path / "sick.pt", state), what="the autoencoder")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_older_names_are_taken_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = touch(
        tmp_path / "models",
        "autoencoder_epoch273.pt",
        "diff_unet_3d_rflow.pt",
        "controlnet_rflow_epoch60.pt",
        "mask_generation_diffusion_unet_epoch9.pt",
    )
    with caplog.at_level(logging.WARNING):
        files = find_folder(tmp_path, "rflow-ct")
    assert {role: file.name for role, file in files.items()} == {
        "autoencoder": "autoencoder_epoch273.pt",
        "denoiser": "diff_unet_3d_rflow.pt",
        "controlnet": "controlnet_rflow_epoch60.pt",
        "mask_denoiser": "mask_generation_diffusion_unet_epoch9.pt",
    }
    assert "diff_unet_3d_rflow.pt, an older name or version of diff_unet_3d_rflow-ct.pt" in caplog.text
    touch(folder, "diff_unet_3d_rflow-ct.pt")
    assert find_folder(tmp_path, "rflow-ct")["denoiser"].name == "diff_unet_3d_rflow-ct.pt"


def test_missing_files_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "autoencoder_v1.pt", "diff_unet_3d_rflow-mr.pt")
    with pytest.raises(CheckpointError) as caught:
        find_folder(tmp_path, "rflow-mr")
    message = str(caught.value)
    assert "lacks files of rflow-mr. Missing are autoencoder: autoencoder_v2.pt." in message
    assert (
        "Found: autoencoder_v1.pt, diff_unet_3d_rflow-mr.pt. On Hugging Face they are in nvidia/NV-Generate-MR"
        in message
    )
    with pytest.raises(CheckpointError, match=r"Missing are denoiser: diff_unet_3d_rflow-ct\.pt or .*; controlnet: "):
        find_folder(tmp_path, "rflow-ct", needed=("autoencoder", "denoiser", "controlnet"))
    with pytest.raises(CheckpointError, match="controlnet: no such network"):
        find_folder(touch(tmp_path, "autoencoder_v2.pt"), "rflow-mr", needed=("controlnet",))
    with pytest.raises(CheckpointError, match="nowhere is not a folder; give the folder with the files of ddpm-ct"):
        find_folder(tmp_path / "nowhere", "ddpm-ct")
    with pytest.raises(RequestError, match="unknown variant 'rflow'; known are rflow-ct, rflow-mr"):
        find_folder(tmp_path, "rflow")


@pytest.mark.parametrize(
    ("version", "holds_variant", "other"), [("0.4.6", "ddpm-ct", "rflow-ct"), ("1.0.2", "rflow-ct", "ddpm-ct")]
)
def test_bundles(version: str, holds_variant: str, other: str, tmp_path: Path) -> None:
    models = touch(tmp_path / "models", "autoencoder.pt", "diffusion_unet.pt", "controlnet.pt")
    (touch(tmp_path / "configs") / "metadata.json").write_text(json.dumps({"version": version}), encoding="utf-8")
    for folder in (tmp_path, models):
        files = find_folder(folder, holds_variant)
        assert {role: file.name for role, file in files.items()} == {
            "autoencoder": "autoencoder.pt",
            "denoiser": "diffusion_unet.pt",
            "controlnet": "controlnet.pt",
        }
        with pytest.raises(
            CheckpointError, match=f"bundle of version {version}, which holds {holds_variant}, not {other}"
        ):
            find_folder(folder, other)


def test_safetensors_files_stand_in_for_torch_ones(tmp_path: Path) -> None:
    touch(tmp_path, "autoencoder_v2.safetensors", "diff_unet_3d_rflow-mr.pt")
    assert find_folder(tmp_path, "rflow-mr")["autoencoder"].name == "autoencoder_v2.safetensors"


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * (20 << 10)  # longer than one piece
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        sha256_of(tmp_path / "nothing")


@pytest.mark.parametrize("wrap", [lambda config: config, lambda config: {"networks": config, "steps": 10}])
def test_a_checkpoint_can_describe_its_networks(wrap: Any, tmp_path: Path) -> None:
    networks = small("rflow-ct")
    state = networks.module("denoiser").state_dict()
    checkpoint = saved(tmp_path / "own.pt", {"unet_state_dict": state, "config": wrap(networks.to_dict())})
    described = networks_of(checkpoint)
    assert described == networks
    assert isinstance(described, NetworkSet)
    assert load_into(described.module("denoiser"), checkpoint, what="the denoiser") == ()


@pytest.mark.parametrize("kind", ["vae", "controlnet"])
def test_a_checkpoint_of_our_own_training(kind: str, tmp_path: Path) -> None:
    """Training writes EMA weights in channels-last order, raw weights beside them, and its whole configuration."""
    networks = replace(small("rflow-ct"), mask_autoencoder=None, mask_denoiser=None)
    role = "autoencoder" if kind == "vae" else kind
    module = networks.module(role).to(memory_format=torch.channels_last_3d)
    description = networks.to_dict()
    contents = {
        "state_dict": module.state_dict(),
        "network": {key: value + 1 for key, value in module.state_dict().items()},
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "step": 1000,
        "kind": kind,
        "config": {
            "name": "headneck",
            "data": {"label_bits": description["controlnet"]["label_bits"], "mirror_labels": ((3, 4),)},
            "vae": {"network": description["autoencoder"], "phases": ({"steps": 4200, "patch": (64, 64, 48)},)},
            "flow": {"network": description["denoiser"]},
            "controlnet": {"condition_channels": (4, 8, 8), "loss": "l2"},
        },
    }
    checkpoint = saved(tmp_path / "checkpoint.pt", contents)
    assert sorted(checkpoint.extras) == ["config", "kind", "step"]
    described = networks_of(checkpoint)
    assert described == (networks if kind == "controlnet" else replace(networks, controlnet=None))
    ours = described.module(role)
    load_into(ours, checkpoint, what=role)
    assert holds(ours, module.state_dict())


def test_official_checkpoints_describe_nothing(tmp_path: Path) -> None:
    weights = {"weight": torch.ones(1)}
    assert networks_of(saved(tmp_path / "bare.pt", weights)) is None
    assert networks_of(saved(tmp_path / "other.pt", {"state_dict": weights, "config": {"lr": 0.1}})) is None
    bad = saved(tmp_path / "bad.pt", {"state_dict": weights, "config": {"denoiser": {"chanels": [1]}}})
    with pytest.raises(CheckpointError, match=r"bad\.pt: its config cannot be used: .*denoiser: unknown key 'chanels'"):
        networks_of(bad)
    bare = saved(tmp_path / "bare.pt", {"state_dict": weights, "config": {"vae": {}, "flow": {}}})
    with pytest.raises(CheckpointError, match=r"bare\.pt: its config lacks a network's part: 'network'"):
        networks_of(bare)
