"""Sessions out of a plan: the dispatcher, its fall-back, and the plan's memory used in place."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_networks, tiny_plan

from ctfast import _native, backends, plan
from ctfast.backends import openvino
from ctfast.errors import DeviceError, PlanError, RequestError

RESIDUALS = ["down_residual_00", "middle_residual"]


def write_plan(path: Path, model: Any, name: str = "denoiser", **changes: Any) -> tuple[Any, Any]:
    """(native plan, manifest) of a plan with this one network."""
    xml, weights = tiny_networks.to_ir(model)
    network = {
        "backend": "openvino",
        "precision": "fp32",
        "weights_dtype": "float32",
        "inputs": [port.any_name for port in model.inputs],
        "outputs": [port.any_name for port in model.outputs],
        "drop_if_unused": [r for r in RESIDUALS if r in {port.any_name for port in model.inputs}],
        "tensors": {},
    } | changes
    sections = {f"{name}/model.xml": xml.encode(), f"{name}/model.bin": weights}
    conditioning = tiny_plan.MANIFEST["conditioning"] | {"controlnet": False}
    manifest = tiny_plan.MANIFEST | {"networks": {name: network}, "conditioning": conditioning}
    plan.write(path, manifest, sections)
    return _native.Plan(path), plan.Plan.open(path).manifest


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return write_plan(tmp_path_factory.mktemp("plan") / "denoiser.plan", tiny_networks.denoiser())


def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "latent": rng.standard_normal((1, 4, 8, 8, 8)).astype(np.float32),
        "timestep": np.full(1, 700, np.float32),
        "class_label": np.ones(1, np.int64),
        "spacing": np.full((1, 3), 150, np.float32),
    }


def test_opens_with_or_without_residuals(denoiser: tuple[Any, Any]) -> None:
    full = backends.open_session(*denoiser, "denoiser")
    without = backends.open_session(*denoiser, "denoiser", residuals=False)
    assert set(full.inputs) - set(without.inputs) == set(RESIDUALS)
    zeros = {name: np.zeros((1, 8, 8, 8, 8), np.float32) for name in RESIDUALS}
    expected = full.run(inputs() | zeros)["prediction"]
    np.testing.assert_allclose(without.run(inputs())["prediction"], expected, rtol=1e-6, atol=1e-6)


def test_the_plan_lives_as_long_as_its_sessions(tmp_path: Path) -> None:
    native, manifest = write_plan(tmp_path / "a.plan", tiny_networks.denoiser())
    session = backends.open_session(native, manifest, "denoiser", residuals=False)
    del native
    gc.collect()
    (tmp_path / "a.plan").unlink()
    assert np.isfinite(session.run(inputs())["prediction"]).all()


def anonymous_bytes() -> int:
    """Memory of this process that is not backed by a file."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def test_weights_are_read_in_place(tmp_path: Path) -> None:
    native, manifest = write_plan(tmp_path / "big.plan", tiny_networks.stack(256, 9))
    weights = 9 * 256 * 256 * 27 * 4
    assert native.file_size > weights
    before = anonymous_bytes()
    session = backends.open_session(native, manifest, "denoiser")
    assert session.inputs == ["latent"]
    assert anonymous_bytes() - before < weights / 4


def test_precision_falls_back_and_says_so_once(
    denoiser: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    info = _native.build_info()
    monkeypatch.setattr(_native, "build_info", lambda: info | {"cpu": info["cpu"] | {"bf16": False}})
    backends._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ctfast"):
        for _ in range(2):
            session = backends.open_session(*denoiser, "denoiser", precision="bf16", residuals=False)
            session.run(inputs())
            assert session.precision == "fp32"
    assert [record.getMessage() for record in caplog.records] == [
        "using fp32 instead of bf16: this processor has neither AVX512-BF16 nor AMX-BF16"
    ]
    with pytest.raises(DeviceError, match="neither"):  # the backend itself does not fall back
        openvino.open_session(denoiser[0], "denoiser", precision="bf16")


@pytest.mark.skipif(not _native.build_info()["cpu"]["bf16"], reason="this processor has no bf16")
def test_the_plans_own_precision_is_the_default(tmp_path: Path) -> None:
    native, manifest = write_plan(tmp_path / "b.plan", tiny_networks.denoiser(), precision="bf16")
    for asked, expected in ((None, "bf16"), ("fp32", "fp32")):
        session = backends.open_session(native, manifest, "denoiser", precision=asked, residuals=False)
        session.run(inputs())
        assert session.precision == expected


def test_can_use_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert openvino.can_use("fp32") is None
    info = _native.build_info()
    monkeypatch.setattr(_native, "build_info", lambda: info | {"cpu": info["cpu"] | {"bf16": False}})
    assert openvino.can_use("fp32") is None
    assert "AVX512-BF16" in (openvino.can_use("bf16") or "")


def test_refusals_name_what_there_is(denoiser: tuple[Any, Any], tmp_path: Path) -> None:
    native, manifest = denoiser
    with pytest.raises(PlanError, match="no network 'vae_decoder'; it has: denoiser"):
        backends.open_session(native, manifest, "vae_decoder")
    with pytest.raises(RequestError, match="'fp32', 'bf16'"):
        backends.open_session(native, manifest, "denoiser", precision="fp8")
    other, wrong = write_plan(tmp_path / "c.plan", tiny_networks.denoiser(), outputs=["noise"])
    with pytest.raises(PlanError, match=r"outputs \['prediction'\], but the manifest says .*\['noise'\]"):
        backends.open_session(other, wrong, "denoiser")
