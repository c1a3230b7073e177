"""ONNX Runtime as a backend: how a plan's graphs and weights get into it, and what it refuses.

That it computes what the other backends do is held by test_backend_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from support import tiny_plan  # noqa: E402

from ctfast import _native  # noqa: E402
from ctfast import plan as plan_file  # noqa: E402
from ctfast.backends import Source, open_backend, survey  # noqa: E402
from ctfast.backends import onnxruntime as backend  # noqa: E402
from ctfast.backends.onnx_graph import read_graph  # noqa: E402
from ctfast.errors import DeviceError, PlanError  # noqa: E402
from ctfast.manifest import PlanManifest  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

KERNEL = np.arange(2 * 4 * 27, dtype=np.float32).reshape(2, 4, 3, 3, 3) / 100
MATRIX = np.arange(6, dtype=np.float16).reshape(2, 3)
WEIGHTS = KERNEL.tobytes() + MATRIX.tobytes()


def external(name: str, array: Any, offset: int, location: str = "model.bin") -> Any:
    tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
    tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    for key, value in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(change: Callable[[Any], None] = lambda graph: None) -> bytes:
    """A convolution of ``latent``, to which ``residual`` is added; beside it a float16 matrix, cast and turned."""
    nodes = [
        helper.make_node("Cast", ["matrix"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["turned"], perm=[1, 0]),
        helper.make_node("Conv", ["latent", "kernel"], ["conv"], pads=[1] * 6),
        helper.make_node("Add", ["conv", "residual"], ["sum"]),
        helper.make_node("Mul", ["sum", "factor"], ["prediction"]),
        helper.make_node("MatMul", ["spacing", "turned"], ["other"]),
    ]
    grid: list[Any] = ["batch", 2, "d", "h", "w"]
    inputs = {"latent": ["batch", 4, "d", "h", "w"], "residual": grid, "spacing": ["batch", 3]}
    outputs = {"prediction": grid, "other": ["batch", 2]}
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    factor = onnx.numpy_helper.from_array(np.float32(2), "factor")
    tensors = [external("kernel", KERNEL, 0), external("matrix", MATRIX, KERNEL.nbytes), factor]
    graph = helper.make_graph(nodes, "net", *values, tensors)
    change(graph)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


def write(path: Path, data: bytes, **changes: Any) -> tuple[_native.Plan, PlanManifest]:
    network = {
        "backend": "openvino",
        "precision": "bf16",
        "weights_dtype": "float32",
        "inputs": ["latent", "residual", "spacing"],
        "outputs": ["prediction", "other"],
        "drop_if_unused": ["residual"],
        "onnx": {"opset": 20, "nodes": 6},
    } | changes
    manifest = deepcopy(tiny_plan.MANIFEST)
    manifest |= {"networks": {"denoiser": network}, "conditioning": manifest["conditioning"] | {"controlnet": False}}
    sections = {"denoiser/model.xml": b"<net/>", "denoiser/model.bin": WEIGHTS, "denoiser/model.onnx": data}
    plan_file.write(path, manifest, sections)
    return _native.Plan(path), Plan.open(path).manifest


@pytest.fixture
def plan(tmp_path: Path) -> tuple[_native.Plan, PlanManifest]:
    return write(tmp_path / "a.plan", model())


def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"latent": (2, 4, 3, 4, 5), "residual": (2, 2, 3, 4, 5), "spacing": (2, 3)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_network_with_and_without_its_residual(plan: tuple[_native.Plan, PlanManifest]) -> None:
    opened = open_backend("onnxruntime", Source(*plan, threads=1))
    assert (opened.device, opened.precision("denoiser"), opened.element_bytes("denoiser")) == ("cpu", "fp32", 4)
    assert opened.versions == {"onnxruntime": onnxruntime.__version__}
    given = inputs()
    whole, less = opened.open("denoiser"), opened.open("denoiser", ["residual"])
    found = whole.run(given)
    np.testing.assert_allclose(found["other"], given["spacing"] @ MATRIX.T.astype(np.float32), rtol=1e-6)
    rest = less.run({name: given[name] for name in ("latent", "spacing")})
    np.testing.assert_allclose(rest["prediction"], found["prediction"] - 2 * given["residual"], rtol=1e-4, atol=1e-4)
    again = whole.run({name: array[:1] for name, array in given.items()})
    np.testing.assert_allclose(again["prediction"], found["prediction"][:1], rtol=1e-5)


def test_weights_are_used_where_they_lie() -> None:
    weights = memoryview(WEIGHTS)
    graph = read_graph("the graph", model(), weights, ["residual"])
    assert np.shares_memory(graph.weights["kernel"], np.frombuffer(weights, np.uint8))
    assert graph.weights.keys() == {"kernel", "turned"}
    np.testing.assert_array_equal(graph.weights["turned"], MATRIX.T.astype(np.float32))
    assert (graph.inputs, graph.outputs) == (("latent", "spacing"), ("prediction", "other"))
    read = onnx.load_from_string(graph.model)
    assert [node.op_type for node in read.graph.node] == ["Conv", "Mul", "MatMul"]
    assert len(graph.model) < 1000


def relocate(graph: Any) -> None:
    graph.initializer[0].CopyFrom(external("kernel", KERNEL, 0, "../other.bin"))


def misplace(graph: Any) -> None:
    graph.initializer[0].CopyFrom(external("kernel", KERNEL, 64))


def resize(graph: Any) -> None:
    graph.initializer[0].dims[0] = 3


def forget(graph: Any) -> None:
    del graph.initializer[0].external_data[1]


def multiply(graph: Any) -> None:
    graph.node[3].op_type = "Mul"


SPOILT: list[tuple[Callable[[Any], None], str]] = [
    (relocate, r"'kernel' is not in model\.bin, or of another size"),
    (misplace, rf"'kernel' ends at byte {64 + KERNEL.nbytes} of {len(WEIGHTS)} in model\.bin"),
    (resize, r"'kernel' is not in model\.bin, or of another size than its shape tells"),
    (forget, "it does not say where 'kernel' is"),
    (multiply, "'residual' cannot be left out, since Mul reads it"),
]


@pytest.mark.parametrize(("change", "words"), SPOILT, ids=[change.__name__ for change, _ in SPOILT])
def test_spoilt_graphs_are_refused(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    opened = open_backend("onnxruntime", Source(*write(tmp_path / "a.plan", model(change))))
    with pytest.raises(PlanError, match=rf"'denoiser/model\.onnx' of plan 'tiny' cannot be used: {words}.*Build the"):
        opened.open("denoiser", ["residual"])


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    opened = open_backend("onnxruntime", Source(*write(tmp_path / "a.plan", b"\xff\xffnothing of the kind")))
    with pytest.raises(PlanError, match="it is no ONNX model"):
        opened.open("denoiser")


def test_what_the_runtime_refuses_is_told(tmp_path: Path) -> None:
    def unknown(graph: Any) -> None:
        graph.node[2].op_type = "Convolve"

    opened = open_backend("onnxruntime", Source(*write(tmp_path / "a.plan", model(unknown))))
    with pytest.raises(DeviceError, match=r"onnxruntime cannot open 'denoiser/model\.onnx'.*'cpu': .*Convolve"):
        opened.open("denoiser")


def test_other_names_than_the_manifests_are_refused(tmp_path: Path) -> None:
    written = write(tmp_path / "a.plan", model(), inputs=["latent", "spacing"], drop_if_unused=[])
    with pytest.raises(PlanError, match="but the manifest says"):
        open_backend("onnxruntime", Source(*written)).open("denoiser")


def test_refusals(plan: tuple[_native.Plan, PlanManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("bf16", "fp16"):
        with pytest.raises(DeviceError, match=f"precision '{precision}' is not available: onnxruntime .* in fp32"):
            open_backend("onnxruntime", Source(*plan, precision=precision))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"is built without CUDA.*'cuda:1'.*pip install onnxruntime-gpu"):
        open_backend("onnxruntime", Source(*plan, device="cuda:1"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert backend.can_use(plan[1], "cuda:1") is None
    monkeypatch.setattr(backend, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(DeviceError, match=r"onnx is not installed\. Install it with: pip install 'ctfast\[onnxruntime"):
        open_backend("onnxruntime", Source(*plan))
    monkeypatch.undo()
    older = Plan.open(tiny_plan.write(tmp_path / "older.plan")).manifest
    assert backend.lacking(older) == backend.can_use(older, "cpu")
    assert "no ONNX graph of denoiser, controlnet" in str(backend.lacking(older))
    assert "ctfast build" in str(backend.lacking(older))
    (row,) = [row for row in survey(plan[1]) if row["name"] == "onnxruntime"]
    assert row == {"name": "onnxruntime", "usable": True, "reason": None, "in_plan": True}
