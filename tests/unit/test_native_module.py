"""The module itself: its stub, its small functions as Python sees them, and how errors cross over."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctfast
from ctfast import _native, errors

STUB = ast.parse((Path(ctfast.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_the_stub_has_every_name_and_no_other() -> None:
    nodes = [node for node in STUB.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert public(node.name for node in nodes) == public(vars(_native))


def test_the_stubs_classes_have_every_member_and_no_other() -> None:
    for node in STUB.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            members = public(item.name for item in node.body if isinstance(item, ast.FunctionDef))
            assert members == public(vars(getattr(_native, node.name))), node.name


def test_the_stubs_parameters_are_the_modules() -> None:
    """pybind11 puts the signature into the first line of the docstring."""
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            arguments = [a.arg for a in [*node.args.args, *node.args.kwonlyargs]]
            signature = (getattr(_native, node.name).__doc__ or "").splitlines()[0]
            assert re.findall(r"(\w+): ", signature) == arguments


def test_loading_it_loads_no_python_package_but_numpy() -> None:
    code = "import sys, ctfast._native; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    run = [sys.executable, "-c", code]
    folder = str(Path(ctfast.__file__).parent.parent)
    loaded = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": folder})
    names = set(ast.literal_eval(loaded.stdout))
    assert "ctfast" in names
    assert not names & {"openvino", "torch", "monai", "nibabel", "scipy"}


def test_build_info() -> None:
    info = _native.build_info()
    assert info["openvino"].startswith("2026.4.1")
    assert 1 <= info["threads"] <= (os.cpu_count() or 1)
    assert info["cpu"]["fp16"] == info["cpu"]["avx512_fp16"]
    assert info["cpu"]["bf16"] == (info["cpu"]["avx512_bf16"] or info["cpu"]["amx_bf16"])
    flags = Path("/proc/cpuinfo")
    if flags.exists() and "flags" in (text := flags.read_text()):
        assert info["cpu"]["avx2"] == (" avx2" in text)
        assert info["cpu"]["avx512_bf16"] == (" avx512_bf16" in text)
        assert info["cpu"]["avx512_fp16"] == (" avx512_fp16" in text)
        assert info["cpu"]["amx_bf16"] == (" amx_bf16" in text)


def test_threads_follow_the_affinity_mask() -> None:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs an affinity mask and two processors")
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from ctfast import _native; "
    code += "print(_native.build_info()['threads'])"
    folder = str(Path(ctfast.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": folder},
    )
    assert done.stdout.strip() == "1"


def test_noise() -> None:
    noise = _native.fill_normal(1, 2, (3, 4, 5))
    assert noise.shape == (3, 4, 5)
    assert noise.dtype == np.float32
    assert np.array_equal(_native.fill_normal(1, 2, (30,)), noise.ravel()[:30])  # the stream, whatever the shape
    # Random123's known answers for philox4x32-10
    assert _native.philox4x32([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _native.philox4x32([2**32 - 1] * 4, [2**32 - 1] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_time_grid() -> None:
    t, dt = _native.rflow_time_grid(30, 64**3)  # maisi's table
    assert t[:4].tolist() == [1000, 983, 965.5, 947.5]
    assert t[-3:].tolist() == [181.875, 125, 64.5]
    assert abs(dt.sum() - 1.009625) < 1e-9
    t, dt = _native.rflow_time_grid(10, 64**3, "exact", transform=False)
    np.testing.assert_allclose(t, np.arange(1000, 0, -100))
    assert abs(dt.sum() - 1) < 1e-12


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "dpmpp_2m", "unipc"])
def test_solver_calls_are_what_integrate_does(solver: str) -> None:
    t, dt = _native.rflow_time_grid(7, 512, "exact")
    start = _native.fill_normal(3, 0, (4, 6))
    velocity = lambda x, time: np.float32(np.sin(3 * x) - time / 500)  # noqa: E731
    x = y = start.astype(np.float64)
    p1 = p2 = np.zeros_like(x)
    for call in _native.solver_calls(solver, t, dt):
        p0 = call.point * y + call.velocity * velocity(y, call.t)
        x = call.keep * x + call.mix[0] * p0 + call.mix[1] * p1 + call.mix[2] * p2
        y = call.stay * x + call.lead[0] * p0 + call.lead[1] * p1
        p1, p2 = p0, p1
    np.testing.assert_allclose(_native.integrate(solver, t, dt, velocity, start), y, atol=2e-6)


def test_integrate() -> None:
    x = np.arange(6.0).reshape(2, 3)
    t, dt = _native.rflow_time_grid(200, 1, "exact", transform=False)
    seen: list[float] = []
    result = _native.integrate("heun", t, dt, lambda x, time: seen.append(time) or x, x)
    np.testing.assert_allclose(result, x * np.e, rtol=1e-4)
    assert len(seen) == 400
    with pytest.raises(errors.RequestError, match="shape of x"):
        _native.integrate("euler", t, dt, lambda x, time: x[:1], x)
    with pytest.raises(errors.CancelledError):
        _native.integrate("euler", t, dt, lambda x, time: x, x, lambda *event: False)


@pytest.mark.parametrize(
    ("volume", "window", "overlap"), [((10, 12, 7), (6, 5, 7), 0.4), ((33, 20, 9), (8, 8, 8), 0.66)]
)
def test_windows_lie_where_monais_do(volume: Any, window: Any, overlap: float) -> None:
    utils = pytest.importorskip("monai.data.utils")
    inferers = pytest.importorskip("monai.inferers.utils")
    interval = inferers._get_scan_interval(volume, window, 3, (overlap,) * 3)
    expected = [[s.start for s in slices] for slices in utils.dense_patch_slices(volume, window, interval)]
    starts, size = _native.window_starts(volume, window, overlap)
    assert starts == expected
    assert size == list(window)
    weights = _native.gaussian_window(window)
    reference = utils.compute_importance_map(window, mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(weights, reference, rtol=1e-6)


def test_label_bits() -> None:
    labels = np.array([[[0, 1, 2], [132, 200, 255]]], dtype=np.uint16)
    bits = _native.label_bits(labels, 8)
    assert bits.shape == (8, 1, 2, 3)
    assert bits.dtype == np.float32
    assert np.array_equal(bits, np.stack([(labels >> k) & 1 for k in range(8)]))
    assert np.array_equal(_native.label_bits(labels.transpose(2, 0, 1), 8), bits.transpose(0, 3, 1, 2))
    with pytest.raises(errors.RequestError):
        _native.label_bits(labels, 7)
    with pytest.raises(errors.RequestError, match="uint16 and are float32"):  # a mask is never rounded in silence
        _native.label_bits(labels.astype(np.float32), 8)


def test_to_hu() -> None:
    image = np.array([[[-0.1, 0.0, 0.50049], [0.999, 1.2, 0.7]]])
    assert _native.to_hu(image).tolist() == [[[-1000, -1000, 1], [998, 1000, 400]]]
    assert _native.to_hu(image, rounding="truncate").tolist() == [[[-1000, -1000, 0], [998, 1000, 400]]]
    mask = np.array([[[0, 0, 1], [2, 0, 0]]], dtype=np.uint16)
    assert _native.to_hu(image, mask).tolist() == [[[-1000, -1000, 1], [998, -1000, -1000]]]
    mr = _native.to_hu(image, None, 1000, 0, 0, float("inf"), 0)
    assert mr.tolist() == [[[0, 0, 500], [999, 1200, 700]]]
    assert mr.dtype == np.int16
    with pytest.raises(errors.RequestError, match="image's shape"):
        _native.to_hu(image, mask[:, :1])
    with pytest.raises(errors.RequestError, match="uint16 and are int64"):
        _native.to_hu(image, mask.astype(np.int64))
    with pytest.raises(errors.RequestError, match="2"):
        _native.to_hu(np.array([[[np.nan, np.inf, 0.0]]]))


def test_plan_errors_cross_over(tmp_path: Path) -> None:
    with pytest.raises(errors.PlanError, match="no such file"):
        _native.Plan(tmp_path / "missing.plan")
    (tmp_path / "text.plan").write_text("not a plan, but long enough to hold a header " * 10)
    with pytest.raises(errors.PlanError):
        _native.Plan(str(tmp_path / "text.plan"))


def test_a_networks_answer_must_be_a_dict_of_arrays() -> None:
    for answer, message in ((None, "returned <class 'NoneType'>"), ({}, "no output 'y'"), ({"y": "z"}, "not an array")):
        session = _native.CallableSession(["x"], ["y"], lambda d, answer=answer: answer)
        with pytest.raises(errors.RequestError, match=message):
            session.run({"x": np.zeros(1)})
    session = _native.CallableSession(["x"], ["y"], lambda d: {"y": d["x"]})
    with pytest.raises(errors.RequestError, match="needs input 'x'"):
        session.run({})
    with pytest.raises(errors.RequestError, match="no input 'z'"):
        session.run({"x": np.zeros(1), "z": np.zeros(1)})
