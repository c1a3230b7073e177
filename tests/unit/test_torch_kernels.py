"""The torch backend's graphs with everything in place that kernels do on a GPU: what is found, and that it is equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

torch = pytest.importorskip("torch")

from support import tiny_models, tiny_networks  # noqa: E402

from ctfast.backends import torch_fused_ops, torch_graph  # noqa: E402
from ctfast.backends.torch_fusion import fused  # noqa: E402
from ctfast.backends.torch_graph import Graph, _read  # noqa: E402

CPU = torch.device("cpu")
EDGE = 4
Kinds = Counter[str]


def opened(
    xml: bytes,
    weights: bytes,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    dtype: Any = torch.float32,
    device: Any = CPU,
) -> tuple[Graph, Kinds]:
    """A graph as on a CPU, as on a GPU, or without anything put together; and its layers by kind."""
    layers: list[Any] = []

    def find(given: Any, values: Any, gpu: bool = False) -> Any:
        layers[:] = list(given) if way == "apart" else fused(given, values, way == "gpu")
        return layers

    monkeypatch.setattr(torch_graph, "fused", find)
    names = [min(next(iter(layer.names.values()))) for layer in _read(xml) if layer.kind == "Parameter"]
    graph = Graph("the graph", xml, memoryview(weights), names, ["y"], device, dtype)
    return graph, Counter(kinds(layers))


def kinds(layers: Any) -> list[str]:
    """Kinds, with what layers have that are made of several: "GroupNormalization shift silu", say."""
    own = ("x", "kernel", "scale", "bias", "q", "k", "v")
    parts = [[part for part in each.attributes.get("parts", "").split(",") if part not in own] for each in layers]
    return [
        " ".join([each.kind, *filter(None, more), *(["silu"] if each.attributes.get("silu") else [])])
        for each, more in zip(layers, parts, strict=True)
    ]


def inputs_of(xml: bytes, edge: int = EDGE) -> dict[str, Any]:
    """Two samples for every input."""
    given: dict[str, Any] = {}
    for layer in _read(xml):
        if layer.kind == "Parameter":
            free = [2] + [edge] * (len(layer.shape) - 1)
            shape = [n if extent < 0 else extent for n, extent in zip(free, layer.shape, strict=True)]
            whole = layer.attributes["element_type"] == "i64"
            generator = torch.Generator().manual_seed(len(given))
            values = torch.ones(shape).long() if whole else torch.randn(shape, generator=generator)
            given[min(next(iter(layer.names.values())))] = values
    return given


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Networks of the official architecture, tiny, as graphs and weights."""
    pytest.importorskip("onnxscript")
    from ctfast.export.onnx import export_onnx
    from ctfast.export.openvino import convert
    from ctfast.export.wrappers import graphs

    found, modules = {}, tiny_models.modules()
    for role in ("denoiser", "controlnet"):
        for graph in graphs(role, modules[role]):
            folder = tmp_path_factory.mktemp(graph.name)
            source = export_onnx(graph, folder / "graph.onnx").path
            files = convert(source, graph, folder, half=False, weights=())
            found[graph.name] = files.xml.read_bytes(), files.weights.read_bytes()
    return found


#: What is found in each network on a GPU. Nothing is left of it apart, but for what has no kernel.
WANTED: dict[str, dict[str, int]] = {
    "denoiser": {
        "GroupNormalization shift convolution_bias silu": 10,
        "GroupNormalization second silu": 4,
        "GroupNormalization silu": 7,
        "GroupNormalization": 4,
        "PairConvolution second": 4,
        "ConvolutionEpilogue added": 10,
        "PhaseUpsample": 1,
        "Projections": 5,
        "Linear": 8,
        "ScaledDotProductAttention mask factor": 4,
    },
    "controlnet": {
        "GroupNormalization shift convolution_bias silu": 5,
        "ConvolutionEpilogue added": 6,
        "Projections": 3,
        "ScaledDotProductAttention mask factor": 2,
    },
    "controlnet_condition": {"ConvolutionEpilogue silu": 5, "Convolution": 1},
}


@pytest.mark.parametrize("name", WANTED)
def test_official_networks(
    name: str, exported: dict[str, tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    xml, weights = exported[name]
    given = inputs_of(xml, 8)
    exact, _ = opened(xml, weights, monkeypatch, "apart")
    wanted = exact.run(given)
    for way in ("gpu", "cpu"):
        graph, found = opened(xml, weights, monkeypatch, way)
        results = graph.run(given)
        for output, values in wanted.items():
            assert float((results[output] - values).norm() / values.norm()) < 2e-6
        if way == "gpu":
            chosen = {kind: count for kind, count in found.items() if kind in WANTED[name]}
            assert {key.replace(" scale", ""): value for key, value in chosen.items()} == WANTED[name]
            assert not {kind for kind in found if kind.split()[0] in ("MVN", "Sigmoid", "MatMul")}


def test_official_denoiser_by_triton(exported: dict[str, tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, so that tensors are channels last and kernels take them; against float32."""
    from support.kernels import DEVICE, on_triton

    xml, weights = exported["denoiser"]
    given = {name: values[:1] for name, values in inputs_of(xml).items()}
    exact, _ = opened(xml, weights, monkeypatch, "apart")
    wanted = exact.run(given)
    graph, _ = opened(xml, weights, monkeypatch, "gpu", torch.bfloat16, DEVICE)
    plain = graph.run(given)
    with on_triton():
        results = graph.run(given)
    for output, values in wanted.items():
        errors = [float((each[output].cpu() - values).norm() / values.norm()) for each in (results, plain)]
        assert 0 < errors[0] < max(1.5 * errors[1], 1e-2)
        assert errors[1] < 3e-2


def volume(name: str = "x", channels: int = 6) -> Any:
    return tiny_networks._input(name, [-1, channels, -1, -1, -1])


def constant(*shape: int) -> Any:
    return op.constant(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def whole(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))


def convolution(x: Any, fan_in: int = 6, edge: int = 3, **options: Any) -> Any:
    padding = [edge // 2] * 3
    given = {"strides": [1] * 3, "pads_begin": padding, "pads_end": padding, "dilations": [1] * 3} | options
    return op.convolution(x, constant(6, fan_in, edge, edge, edge), **given)


def biased(x: Any, **options: Any) -> Any:
    return op.add(convolution(x, **options), constant(1, 6, 1, 1, 1))


def norm(x: Any, channels: int = 6) -> Any:
    return op.group_normalization(x, constant(channels), constant(channels), 3, 1e-5)


def gated(x: Any) -> Any:
    return op.multiply(op.sigmoid(x), x)


def doubled(
    x: Any,
    factors: tuple[int, ...] = (2, 2, 2),
    axes: bool = True,
    mode: str = "nearest",
    grid: str = "asymmetric",
) -> Any:
    scales = op.constant(np.array((() if axes else (1, 1)) + factors, np.float32))
    more = {"axes": whole(2, 3, 4)} if axes else {}
    return op.interpolate(x, scales, mode, "scales", [0], [0], grid, nearest_mode="floor", **more)


def embedded(x: Any) -> Any:
    return op.add(x, op.unsqueeze(op.reduce_mean(x, whole(2, 3, 4)), whole(2, 3, 4)))


def twice(x: Any, make: Callable[[Any], Any]) -> Any:
    """What reads both a result and what is made of it."""
    return op.multiply(make(x), x)


CASES: dict[str, tuple[Callable[[Any, Any], Any], dict[str, int]]] = {
    "sigmoid and product": (lambda x, _: gated(norm(x)), {"GroupNormalization silu": 1}),
    "swish of another slope": (
        lambda x, _: op.swish(norm(x), op.constant(np.float32(1.7))),
        {"GroupNormalization": 1, "Swish": 1},
    ),
    "norm read twice": (
        lambda x, _: twice(norm(x), op.swish),
        {"GroupNormalization": 1, "Swish": 1, "Multiply": 1},
    ),
    "an embedding": (lambda x, _: norm(embedded(x)), {"GroupNormalization shift": 1}),
    "a tensor in front of a norm": (lambda x, y: norm(op.add(x, y)), {"GroupNormalization": 1, "Add": 1}),
    "bias in front of a norm": (lambda x, _: norm(biased(x)), {"GroupNormalization convolution_bias": 1}),
    "bias read twice": (lambda x, _: twice(biased(x), norm), {"GroupNormalization": 1, "Convolution": 1}),
    "a tensor added": (lambda x, y: op.add(y, biased(x)), {"ConvolutionEpilogue added": 1}),
    "an embedding added": (lambda x, y: op.add(biased(x), embedded(y)), {"ConvolutionEpilogue added": 1, "Add": 1}),
    "two convolutions added": (
        lambda x, y: op.add(biased(x), convolution(y)),
        {"ConvolutionEpilogue added": 1, "Convolution": 1},
    ),
    "silu behind a convolution": (lambda x, _: gated(biased(x)), {"ConvolutionEpilogue silu": 1}),
    "doubled": (lambda x, _: biased(doubled(x)), {"PhaseUpsample": 1}),
    "doubled, all axes named": (lambda x, _: convolution(doubled(x, axes=False)), {"PhaseUpsample": 1}),
    "doubled and a norm": (
        lambda x, _: op.swish(norm(biased(doubled(x)))),
        {"PhaseUpsample": 1, "GroupNormalization convolution_bias silu": 1},
    ),
    "tripled": (lambda x, _: convolution(doubled(x, (3, 3, 3))), {"Interpolate": 1, "Convolution": 1}),
    "doubled along two axes": (
        lambda x, _: convolution(doubled(x, (2, 2, 1))),
        {"Interpolate": 1, "Convolution": 1},
    ),
    "doubled between voxels": (
        lambda x, _: convolution(doubled(x, mode="linear_onnx", grid="half_pixel")),
        {"Interpolate": 1, "Convolution": 1},
    ),
    "doubled and halved": (lambda x, _: convolution(doubled(x), strides=[2] * 3), {"Interpolate": 1, "Convolution": 1}),
    "doubled and unpadded": (
        lambda x, _: convolution(doubled(x), pads_end=[0] * 3),
        {"Interpolate": 1, "Convolution": 1},
    ),
    "pointwise, doubled": (lambda x, _: convolution(doubled(x), edge=1), {"Interpolate": 1, "Convolution": 1}),
    "pair": (
        lambda x, y: op.add(
            op.multiply(biased(op.concat([x, y], 1), fan_in=12, edge=1), constant(1)),
            convolution(norm(op.concat([x, y], 1), 12), fan_in=12),
        ),
        {"PairConvolution second": 1, "GroupNormalization second": 1},
    ),
    "pair, read by another": (
        lambda x, y: convolution(op.concat([x, y], 1), fan_in=12),
        {"Concat": 1, "Convolution": 1},
    ),
    "three side by side": (lambda x, y: norm(op.concat([x, y, x], 1), 18), {"Concat": 1, "GroupNormalization": 1}),
    "along another axis": (lambda x, y: norm(op.concat([x, y], 2)), {"Concat": 1, "GroupNormalization": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_patterns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, wanted = CASES[name]
    ports = [volume(), volume("other")]
    model = ov.Model([tiny_networks._named(make(*ports), "y")], ports, "case")
    xml, weights = tiny_networks.to_ir(model)
    given = inputs_of(xml.encode())
    exact, _ = opened(xml.encode(), weights, monkeypatch, "apart")
    truth = exact.run(given)["y"]
    for way in ("gpu", "cpu"):
        graph, found = opened(xml.encode(), weights, monkeypatch, way)
        if way == "gpu":
            assert {kind: found[kind] for kind in wanted} == wanted
        result = graph.run(given)["y"]
        assert float((result - truth).norm() / truth.norm()) < 1e-6


@pytest.mark.parametrize("name", ["bias read twice", "a tensor added", "pair", "doubled and halved", "convolutions"])
def test_convolutions_with_what_is_added_in_one_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a table says that it is faster: one that says so of all shapes."""
    from support.kernels import DEVICE, on_triton

    more = {"convolutions": (lambda x, y: op.add(convolution(embedded(biased(x, edge=1))), convolution(y)), {})}
    ports = [volume(), volume("other")]
    model = ov.Model([tiny_networks._named((CASES | more)[name][0](*ports), "y")], ports, "case")
    xml, weights = tiny_networks.to_ir(model)
    given = {name: values[:1, ..., :3] for name, values in inputs_of(xml.encode()).items()}
    exact, _ = opened(xml.encode(), weights, monkeypatch, "apart")
    truth = exact.run(given)["y"]
    own, calls = torch_fused_ops.conv3d, []

    def conv3d(*tensors: Any, **more: Any) -> Any:
        calls.append(tensors)
        return own(*tensors, **more)

    monkeypatch.setattr(torch_fused_ops, "conv3d", conv3d)
    monkeypatch.setattr(torch_fused_ops, "faster", lambda *_: True)
    graph, found = opened(xml.encode(), weights, monkeypatch, "gpu", device=DEVICE)
    with on_triton():
        result = graph.run(given)["y"].cpu()
    assert len(calls) == sum(count for kind, count in found.items() if "Convolution" in kind) > 0
    assert float((result - truth).norm() / truth.norm()) < 1e-5


def stage(masked: bool, silu: bool, vector: tuple[int, ...] = (1, 1, 1, 1, 6)) -> ov.Model:
    x = tiny_networks._input("x", [1, -1, -1, -1, 6])
    scale, shift = (tiny_networks._input(name, list(vector)) for name in ("scale", "shift"))
    mask = tiny_networks._input("mask", [1, -1, 1, 1, 1])
    y = op.add(op.multiply(x, scale), shift)
    y = op.swish(y, op.constant(np.float32(1))) if silu else y
    y = op.multiply(y, mask) if masked else y
    turned = op.transpose(y, whole(0, 4, 1, 2, 3))
    out = tiny_networks._named(op.transpose(convolution(turned), whole(0, 2, 3, 4, 1)), "y")
    return ov.Model([out], [x, scale, shift, mask] if masked else [x, scale, shift], "stage")


@pytest.mark.parametrize(("masked", "silu"), [(True, True), (False, True), (True, False)])
def test_stages(masked: bool, silu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.kernels import DEVICE, on_triton

    xml, weights = tiny_networks.to_ir(stage(masked, silu))
    given = {name: values[:1] for name, values in inputs_of(xml.encode()).items()}
    exact, _ = opened(xml.encode(), weights, monkeypatch, "apart")
    truth = exact.run(given)["y"]
    graph, found = opened(xml.encode(), weights, monkeypatch, "cpu", device=DEVICE)
    assert sorted(kind for kind in found if kind not in ("Const", "Parameter", "Result", "Transpose")) == sorted(
        [" ".join(["AffineSilu", "shift", *["mask"] * masked, *["silu"] * silu]), "Convolution"]
    )
    results = [graph.run(given)["y"].cpu()]
    with on_triton():
        results.append(graph.run(given)["y"].cpu())
    for result in results:
        assert float((result - truth).norm() / truth.norm()) < 1e-6


def test_a_scale_per_voxel_is_no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    xml, weights = tiny_networks.to_ir(stage(False, True, (1, -1, 1, 1, 6)))
    _, found = opened(xml.encode(), weights, monkeypatch, "cpu")
    assert (found["Multiply"], found["Add"]) == (1, 1)


def test_a_label_map_in_the_place_of_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = volume(channels=8)
    y = tiny_networks._named(op.swish(biased(x, fan_in=8)), "y")
    xml, weights = tiny_networks.to_ir(ov.Model([y], [x], "condition"))
    labels = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    planes = torch.stack([labels.int() >> bit & 1 for bit in range(8)], 1).float()
    graph, _ = opened(xml.encode(), weights, monkeypatch, "cpu")
    torch.testing.assert_close(graph.run({"x": labels})["y"], graph.run({"x": planes})["y"])
    plain = ov.Model([tiny_networks._named(biased(x, fan_in=8), "y")], [x], "condition")
    xml, weights = tiny_networks.to_ir(plain)
    graph, _ = opened(xml.encode(), weights, monkeypatch, "cpu")
    torch.testing.assert_close(graph.run({"x": labels})["y"], graph.run({"x": planes})["y"])
