"""Group norms and biases that torch does in one call: found where they are, left alone where something else is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

torch = pytest.importorskip("torch")

from ctfast.backends.torch_fusion import fused  # noqa: E402
from ctfast.backends.torch_graph import Graph, _read  # noqa: E402

CHANNELS, GROUPS = 6, 3
RANDOM = np.random.default_rng(0)
GIVEN = {name: RANDOM.standard_normal((2, CHANNELS, 3, 4, 2)).astype(np.float32) for name in ("x", "other")}


def constants(stored: bytes) -> Callable[[Any], list[float]]:
    """Reads the values of constants."""
    types = {"i64": np.int64, "f32": np.float32, "f16": np.float16}

    def values(layer: Any) -> list[float]:
        start, size = int(layer.attributes["offset"]), int(layer.attributes["size"])
        return np.frombuffer(stored[start : start + size], types[layer.attributes["element_type"]]).tolist()

    return values


def constant(*shape: int) -> Any:
    return op.constant(RANDOM.standard_normal(shape).astype(np.float32))


def whole(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))


def norm(
    x: Any,
    shaped_like: Any = None,
    scale: tuple[int, ...] = (1, CHANNELS, 1, 1, 1),
    shift: tuple[int, ...] = (CHANNELS, 1, 1, 1),
    target: tuple[int, ...] = (0, GROUPS, -1, 0, 0),
    back_to: tuple[int, ...] = (0, CHANNELS, -1, 0, 0),
    axes: tuple[int, ...] = (2, 3, 4),
) -> tuple[Any, Any]:
    """A group norm as exported; and the normalised tensor within it."""
    grouped = op.reshape(x, whole(*target), special_zero=True)
    even = op.mvn(grouped, whole(*axes), True, 1e-5, "inside_sqrt")
    shape = whole(*back_to) if shaped_like is None else op.shape_of(shaped_like)
    back = op.reshape(even, shape, special_zero=True)
    return op.add(op.multiply(back, constant(*scale)), constant(*shift)), back


def convolution(x: Any) -> Any:
    return op.convolution(x, constant(CHANNELS, CHANNELS, 3, 1, 3), [1] * 3, [1, 0, 1], [1, 0, 1], [1] * 3)


def halved(x: Any) -> Any:
    bias = op.constant(RANDOM.standard_normal((1, CHANNELS, 1, 1, 1)).astype(np.float16))
    return op.add(convolution(x), op.convert(bias, "f32"))


def read_twice(x: Any) -> Any:
    result, inner = norm(x)
    return op.add(result, inner)


def biased_and_read(x: Any) -> Any:
    out = convolution(x)
    return op.multiply(op.add(out, constant(1, CHANNELS, 1, 1, 1)), out)


#: What is built of two inputs, and how many group norms and biases are to be found in it.
CASES: dict[str, tuple[Callable[[Any, Any], Any], int, int]] = {
    "norm": (lambda x, _: norm(x)[0], 1, 0),
    "norm, constants in front": (lambda x, _: op.add(constant(1, CHANNELS, 1, 1, 1), norm(x)[0]), 1, 0),
    "two norms": (lambda x, _: norm(norm(x)[0])[0], 2, 0),
    "norm over a line": (lambda x, _: norm(x, x, target=(0, GROUPS, -1), axes=(2,))[0], 1, 0),
    "shape of another tensor": (lambda x, y: norm(x, y, target=(0, GROUPS, -1), axes=(2,))[0], 0, 0),
    "not all axes": (lambda x, _: norm(x, axes=(2, 3))[0], 0, 0),
    "another shape": (lambda x, _: norm(x, back_to=(0, CHANNELS, 0, -1, 0), target=(0, GROUPS, 0, -1, 0))[0], 0, 0),
    "scale per voxel": (lambda x, _: norm(x, scale=(1, CHANNELS, 3, 1, 1))[0], 0, 0),
    "one scale for all": (lambda x, _: norm(x, scale=(1, 1, 1, 1, 1))[0], 0, 0),
    "along another axis": (lambda x, _: norm(x, x, target=(0, -1, 24), axes=(2,))[0], 0, 0),
    "read twice": (lambda x, _: read_twice(x), 0, 0),
    "bias": (lambda x, _: op.add(convolution(x), constant(1, CHANNELS, 1, 1, 1)), 0, 1),
    "bias in front": (lambda x, _: op.add(constant(CHANNELS, 1, 1, 1), convolution(x)), 0, 1),
    "bias in half precision": (lambda x, _: halved(x), 0, 1),
    "a tensor added": (lambda x, y: op.add(convolution(x), y), 0, 0),
    "bias of a result read twice": (lambda x, _: biased_and_read(x), 0, 0),
    "norm, convolution, norm": (
        lambda x, _: norm(op.add(convolution(norm(x)[0]), constant(CHANNELS, 1, 1, 1)))[0],
        2,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_and_not(name: str, tmp_path: Path) -> None:
    make, norms, biases = CASES[name]
    ports = [op.parameter([-1, CHANNELS, -1, -1, -1], np.float32, name=port) for port in GIVEN]
    model = ov.Model([make(*ports)], ports, "case")
    model.outputs[0].get_tensor().set_names({"out"})
    ov.save_model(model, tmp_path / "case.xml", compress_to_fp16=False)
    xml, weights = (tmp_path / "case.xml").read_bytes(), (tmp_path / "case.bin").read_bytes()

    layers = fused(_read(xml), constants(weights))
    kinds = Counter(layer.kind for layer in layers)
    assert kinds["GroupNormalization"] == norms
    assert sum(layer.kind == "Convolution" and len(layer.inputs) == 3 for layer in layers) == biases

    graph = Graph("case", xml, memoryview(weights), list(GIVEN), ["out"], torch.device("cpu"), torch.float32)
    given = {port: torch.from_numpy(array) for port, array in GIVEN.items()}
    found = graph.run(given)["out"].numpy()
    wanted = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(GIVEN)[0]
    assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max()


def test_bf16_keeps_channels_last(tmp_path: Path) -> None:
    """What the fusion is for: no tensor is turned between convolutions and norms."""
    x = op.parameter([-1, CHANNELS, -1, -1, -1], np.float32, name="x")
    first = op.add(convolution(x), constant(CHANNELS, 1, 1, 1))
    out = op.add(convolution(op.swish(norm(first)[0])), constant(CHANNELS, 1, 1, 1))
    model = ov.Model([out], [x], "case")
    model.outputs[0].get_tensor().set_names({"out"})
    ov.save_model(model, tmp_path / "case.xml", compress_to_fp16=False)
    xml, weights = (tmp_path / "case.xml").read_bytes(), (tmp_path / "case.bin").read_bytes()
    graph = Graph("case", xml, memoryview(weights), ["x"], ["out"], torch.device("cpu"), torch.bfloat16)
    given = torch.from_numpy(GIVEN["x"])
    result = graph.run({"x": given})["out"]
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    exact = Graph("case", xml, memoryview(weights), ["x"], ["out"], torch.device("cpu"), torch.float32)
    reference = exact.run({"x": given})["out"]
    assert reference.is_contiguous()
    assert 0 < float((result - reference).norm() / reference.norm()) < 2e-2


@pytest.mark.parametrize("role", ["autoencoder", "denoiser"])
def test_nothing_is_left_over_in_exported_networks(role: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from support import tiny_models

    from ctfast.export.onnx import export_onnx
    from ctfast.export.openvino import convert
    from ctfast.export.wrappers import graphs

    graph = graphs(role, tiny_models.modules()[role])[0]
    files = convert(export_onnx(graph, tmp_path / "graph.onnx").path, graph, tmp_path, half=False, weights=())
    stored = files.weights.read_bytes()

    kinds = Counter(layer.kind for layer in fused(_read(files.xml.read_bytes()), constants(stored)))
    assert kinds["GroupNormalization"] == files.operations["MVN"] > 3
    assert kinds["MVN"] == 0
