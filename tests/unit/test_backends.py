"""Sessions out of a plan: the dispatcher, its fall-back, and the plan's memory used in place."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_networks, tiny_plan

from ctfast import _native, backends, plan, plan_weights
from ctfast.backends import Backend, Source, open_backend, openvino, survey
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


def opened(written: tuple[Any, Any], **options: Any) -> Backend:
    return open_backend("openvino", Source(*written, **options))


def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "latent": rng.standard_normal((1, 4, 8, 8, 8)).astype(np.float32),
        "timestep": np.full(1, 700, np.float32),
        "class_label": np.ones(1, np.int64),
        "spacing": np.full((1, 3), 150, np.float32),
    }


def test_opens_with_or_without_residuals(denoiser: tuple[Any, Any]) -> None:
    full = opened(denoiser).open("denoiser")
    without = opened(denoiser).open("denoiser", RESIDUALS)
    assert set(full.inputs) - set(without.inputs) == set(RESIDUALS)
    zeros = {name: np.zeros((1, 8, 8, 8, 8), np.float32) for name in RESIDUALS}
    expected = full.run(inputs() | zeros)["prediction"]
    np.testing.assert_allclose(without.run(inputs())["prediction"], expected, rtol=1e-6, atol=1e-6)


def test_the_plan_lives_as_long_as_its_sessions(tmp_path: Path) -> None:
    native, manifest = write_plan(tmp_path / "a.plan", tiny_networks.denoiser())
    session = opened((native, manifest)).open("denoiser", RESIDUALS)
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
    session = opened((native, manifest)).open("denoiser")
    assert session.inputs == ["latent"]
    assert anonymous_bytes() - before < weights / 4


def without(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = _native.build_info()
    monkeypatch.setattr(_native, "build_info", lambda: info | {"cpu": info["cpu"] | {precision: False}})
    backends._say_once.cache_clear()


@pytest.mark.parametrize(
    ("precision", "reason"),
    [("bf16", "this processor has neither AVX512-BF16 nor AMX-BF16"), ("fp16", "this processor has no AVX512-FP16")],
)
def test_precision_falls_back_and_says_so_once(
    precision: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = write_plan(tmp_path / "half.plan", tiny_networks.denoiser(), precision=precision)
    without(precision, monkeypatch)
    with caplog.at_level(logging.WARNING, logger="ctfast"):
        for _ in range(2):
            backend = opened(written)
            session = backend.open("denoiser", RESIDUALS)
            session.run(inputs())
            assert backend.precision("denoiser") == backend.ran_in("denoiser", session) == "fp32"
            assert backend.element_bytes("denoiser") == 4
    assert [record.getMessage() for record in caplog.records] == [f"using fp32 instead of {precision}: {reason}"]
    with pytest.raises(DeviceError, match=rf"precision '{precision}' is not available: {reason}. Use 'fp32'"):
        opened(written, precision=precision)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_plans_own_precision_is_the_default(precision: str, tmp_path: Path) -> None:
    if not _native.build_info()["cpu"][precision]:
        pytest.skip(f"this processor has no {precision}")
    written = write_plan(tmp_path / "b.plan", tiny_networks.denoiser(), precision=precision)
    for asked, expected in ((None, precision), ("fp32", "fp32")):
        backend = opened(written, precision=asked)
        session = backend.open("denoiser", RESIDUALS)
        session.run(inputs())
        assert backend.ran_in("denoiser", session) == expected


def test_int8_networks_stay_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_plan(tmp_path / "q.plan", tiny_networks.denoiser(), precision="int8", weights_dtype="int8")
    for asked in ("fp32", "bf16", "fp16"):
        with pytest.raises(DeviceError, match=f"'{asked}' is not available: .* has denoiser quantised to int8. Leave"):
            opened(written, precision=asked)
    for lacked in ("", "bf16"):
        if lacked:
            without(lacked, monkeypatch)
        backend = opened(written)
        session: Any = backend.open("denoiser", RESIDUALS)
        session.run(inputs())
        assert backend.precision("denoiser") == backend.ran_in("denoiser", session) == "int8"
        assert session.precision == ("bf16" if _native.build_info()["cpu"]["bf16"] else "fp32")
    assert "only OpenVINO runs int8" in (backends.import_module("ctfast.backends.torch").lacking(written[1]) or "")
    with pytest.raises(
        PlanError, match="'denoiser' was quantised to int8, and its trained weights are not in the plan"
    ):
        plan_weights.state_dict(plan.Plan.open(tmp_path / "q.plan"), "denoiser")


def test_auto_takes_the_first_that_can_be_used(
    denoiser: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backends._say_once.cache_clear()
    monkeypatch.setattr(backends, "BACKENDS", ("missing", "openvino"))
    with caplog.at_level(logging.WARNING, logger="ctfast"):
        for _ in range(2):
            assert open_backend("auto", Source(*denoiser)).name == "openvino"
    assert [record.getMessage() for record in caplog.records] == [
        "using backend 'openvino': missing: its module is missing from this installation (No module named "
        "'ctfast.backends.missing'). Install ctfast again"
    ]
    with pytest.raises(DeviceError, match="backend 'missing' cannot be used: its module is missing"):
        open_backend("missing", Source(*denoiser))
    with pytest.raises(
        DeviceError, match=r"no backend can run plan 'tiny' on device 'cuda': missing: .*; openvino: it"
    ):
        open_backend("auto", Source(*denoiser, device="cuda"))
    assert [(row["name"], row["usable"]) for row in survey(denoiser[1])] == [("missing", False), ("openvino", True)]


def test_refusals_name_what_there_is(
    denoiser: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert openvino.can_use(denoiser[1], "auto") is openvino.can_use(denoiser[1], "cpu") is None
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "find_spec", lambda name: None if name == "openvino" else True)
        assert "'openvino' is not installed. Install" in (openvino.can_use(denoiser[1], "cpu") or "")
    with pytest.raises(DeviceError, match="backend 'openvino' cannot be used: it runs on the CPU only"):
        opened(denoiser, device="cuda:1")
    with pytest.raises(RequestError, match=r"backend: expected one of auto, .*openvino.*found 'caffe'"):
        open_backend("caffe", Source(*denoiser))
    wrong = write_plan(tmp_path / "c.plan", tiny_networks.denoiser(), outputs=["noise"])
    with pytest.raises(PlanError, match=r"outputs \['prediction'\], but the manifest says .*\['noise'\]"):
        opened(wrong).open("denoiser")
