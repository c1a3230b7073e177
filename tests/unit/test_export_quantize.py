"""Networks in int8: what is quantised, on what, how close it stays, and that the rest of the plan is as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("nncf")

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402
from support import tiny_models  # noqa: E402

import ctfast  # noqa: E402
from ctfast import _native  # noqa: E402
from ctfast.errors import CancelledError, CheckpointError, RequestError  # noqa: E402
from ctfast.export import build, options, quantize  # noqa: E402
from ctfast.export.quantize_data import LARGEST, _bounded, _ellipsoids, recorded  # noqa: E402
from ctfast.export.verify import INT8_LIMIT, verify_against  # noqa: E402
from ctfast.manifest import SizeRule  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

ROLES = ("autoencoder", "denoiser", "controlnet")
NETWORKS = dataclasses.replace(tiny_models.NETWORKS, mask_autoencoder=None, mask_denoiser=None)
DESCRIPTION = tiny_models.description(NETWORKS)
COUNT = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models.write_checkpoints(tmp_path_factory.mktemp("checkpoints"), NETWORKS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def half(files: dict[str, Path], cache: Path) -> Path:
    return build(DESCRIPTION, files, cache.parent / "half.plan", cache=cache)


@pytest.fixture(scope="module")
def small(files: dict[str, Path], cache: Path, half: Path) -> Path:
    return quantised(files, cache, cache.parent / "small.plan")


def quantised(files: dict[str, Path], cache: Path, path: Path, **more: Any) -> Path:
    return build(DESCRIPTION, files, path, precision="int8", calibration=COUNT, cache=cache, **more)


def psnr(first: ctfast.Volume, second: ctfast.Volume) -> float:
    error = np.mean((first.array.astype(np.float64) - second.array) ** 2)
    return float(10 * np.log10(2000**2 / max(error, 1e-9)))


def test_only_what_every_step_calls_is_quantised(half: Path, small: Path) -> None:
    before, after = Plan.open(half), Plan.open(small)
    precisions = {name: network.precision for name, network in after.manifest.networks.items()}
    assert {name for name, precision in precisions.items() if precision == "int8"} == set(quantize.NETWORKS)
    assert set(precisions.values()) == {"int8", "bf16"}
    sections = {section.name for section in after.sections}
    for name, network in after.manifest.networks.items():
        old = before.manifest.networks[name]
        assert (network.inputs, network.outputs, network.drop_if_unused) == (
            old.inputs,
            old.outputs,
            old.drop_if_unused,
        )
        if network.precision == "int8":
            assert (network.weights_dtype, network.tensors, network.onnx) == ("int8", {}, None)
            assert f"{name}/model.onnx" not in sections
            assert len(after.section(f"{name}/model.bin")) < len(before.section(f"{name}/model.bin"))
            assert network.footprint is not None
            assert old.footprint is not None
            assert network.footprint.loaded_bytes < old.footprint.loaded_bytes
        else:
            assert network == old
    others = [section.name for section in after.sections if section.name.split("/")[0] not in quantize.NETWORKS]
    assert all(bytes(before.section(name)) == bytes(after.section(name)) for name in others)


@pytest.mark.parametrize("name", quantize.NETWORKS)
def test_which_operations_are_quantised(name: str, small: Path, tmp_path: Path) -> None:
    plan = Plan.open(small)
    for suffix in ("xml", "bin"):
        (tmp_path / f"net.{suffix}").write_bytes(bytes(plan.section(f"{name}/model.{suffix}")))
    nodes = ov.Core().read_model(tmp_path / "net.xml").get_ordered_ops()
    readers = {
        target.get_node().get_type_name()
        for node in nodes
        if node.get_type_name() == "FakeQuantize"
        for target in node.output(0).get_target_inputs()
    }
    assert readers == {"Convolution"}
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    reading = [node.input_value(0).get_node().get_type_name() == "FakeQuantize" for node in convolutions]
    assert any(reading)
    assert not reading[0]
    assert not any(reading[-quantize._kept(convolutions) :])
    text = bytes(plan.section(f"{name}/model.xml")).decode()
    assert text.count('name="precise"') > 0, "the time embedding may run in bf16"


@pytest.mark.parametrize("masked", [False, True])
def test_volumes_stay_close(half: Path, small: Path, masked: bool) -> None:
    exact, engine = ctfast.load(half, precision="fp32", threads=1), ctfast.load(small, threads=1)
    mask = _ellipsoids(engine.manifest, tiny_models.SIZE, seed=3) if masked else None
    volume = engine.generate(seed=2, steps=4, mask=mask)
    assert volume.meta["precision"]["denoiser"] == "int8"
    assert volume.meta["precision"]["vae_decoder"] in ("bf16", "fp32")
    found = psnr(volume, exact.generate(seed=2, steps=4, mask=mask))
    assert 30 < found < 100  # close, and not the same: otherwise nothing was quantised


def test_the_same_build_gives_the_same_bytes(files: dict[str, Path], cache: Path, small: Path, tmp_path: Path) -> None:
    again, first = Plan.open(quantised(files, cache, tmp_path / "again.plan")), Plan.open(small)
    assert [section.name for section in again.sections] == [section.name for section in first.sections]
    assert all(bytes(again.section(section.name)) == bytes(first.section(section.name)) for section in first.sections)
    assert [path.name for path in tmp_path.iterdir()] == ["again.plan"]


def test_it_is_checked_against_checkpoints(files: dict[str, Path], small: Path, tmp_path: Path) -> None:
    checks = {check.network: check for check in verify_against(small, files, DESCRIPTION, threads=1)}
    for name in quantize.NETWORKS:
        assert checks[name].ok
        assert 1e-4 < checks[name].graph_error < INT8_LIMIT
    assert checks["vae_decoder"].limit < 1e-3
    others = tiny_models.write_checkpoints(tmp_path, NETWORKS, seed=50)
    wrong = {check.network: check for check in verify_against(small, others, DESCRIPTION, threads=1)}
    assert not any(wrong[name].ok for name in quantize.NETWORKS)


def test_a_build_can_be_cancelled_while_it_quantises(files: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    for stage in ("calibrate", "quantise denoiser", "quantise controlnet"):
        with pytest.raises(CancelledError):
            quantised(files, cache, tmp_path / "a.plan", observer=lambda found, *_, stage=stage: found != stage)
        assert list(tmp_path.iterdir()) == []


def test_the_data_are_calls_of_whole_samplings(half: Path) -> None:
    calls = recorded(half, quantize.NETWORKS, 6, lambda *_: True)
    latent = (1, 4, 8, 8, 4)
    for name in quantize.NETWORKS:
        inputs = set(Plan.open(half).manifest.networks[name].inputs)
        assert all(set(call) == inputs for call in calls[name])
        assert {call["latent"].shape for call in calls[name]} == {latent}
    times = [float(call["timestep"][0]) for call in calls["denoiser"]]
    assert 6 <= len(times) <= 8
    assert max(times) == 1000
    assert min(times) < 300
    with_mask = [bool(call["middle_residual"].any()) for call in calls["denoiser"]]
    assert len(set(with_mask)) == 2


def test_what_a_call_takes_is_bounded(half: Path) -> None:
    manifest = Plan.open(half).manifest
    assert _bounded(manifest) == tiny_models.SIZE
    for multiple, default, expected in ((128, (512, 512, 768), (128,) * 3), (16, (512, 96, 80), (LARGEST, 96, 80))):
        sizes = dataclasses.replace(manifest.sizes, rule=SizeRule(multiple=multiple), default=default)
        assert _bounded(dataclasses.replace(manifest, sizes=sizes)) == expected


def test_a_network_without_such_convolutions_stays_as_it_is(tmp_path: Path) -> None:
    x = op.parameter([1, 2, -1, -1, -1], np.float32, name="x")
    plain = op.convolution(x, op.constant(np.ones((2, 2, 1, 1, 1), np.float32)), [1] * 3, [0] * 3, [0] * 3, [1] * 3)
    assert quantize.quantizable(ov.Model([plain], [x], "net")) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "bf16", "calibration": 8}, "only precision 'int8' is calibrated, and this is 'bf16'"),
        ({"precision": "int8", "calibration": 0}, "calibration: expected a whole number from 1 on, found 0"),
        ({"precision": "int8", "calibration": True}, "calibration: expected a whole number from 1 on, found True"),
    ],
)
def test_refusals(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        build(DESCRIPTION, {}, tmp_path / "a.plan", **given)


def test_without_nncf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"needs NNCF, which is not installed: pip install 'ctfast\[int8\]'"):
        build(DESCRIPTION, {}, tmp_path / "a.plan", precision="int8")
    with pytest.raises(CheckpointError):  # the others do not ask for it
        build(DESCRIPTION, {"autoencoder": "a", "denoiser": "b"}, tmp_path / "a.plan", precision="fp16")


def test_exported_networks_are_kept_for_both(files: dict[str, Path], cache: Path, half: Path, tmp_path: Path) -> None:
    job = build.__globals__["prepare"](DESCRIPTION, files, tmp_path / "a.plan", precision="int8", cache=cache)
    networks = {network.name: network for network in job.outline().networks}
    assert all(network.kept for network in networks.values())
    assert {name for name, network in networks.items() if network.weights_dtype == "int8"} == set(quantize.NETWORKS)
    assert networks["denoiser"].weight_bytes == networks["denoiser"].parameters
    assert options.checked_options("openvino", "int8", None, None).exported == "bf16"
    assert _native.build_info()["cpu"].keys() >= {"bf16", "fp16"}
