"""The graphs and the shapes that TensorRT engines are built of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from support import tiny_plan  # noqa: E402

from ctfast.backends.tensorrt_table import Table, Weight, bfloat16_bits  # noqa: E402
from ctfast.errors import CtfastError  # noqa: E402
from ctfast.export.tensorrt_onnx import typed_graph  # noqa: E402
from ctfast.export.tensorrt_profiles import ELEMENTS, Range, network_ranges, stage_ranges  # noqa: E402
from ctfast.manifest import PlanManifest  # noqa: E402
from ctfast.manifest_program import Program, Stage, StageMask, StageNorm  # noqa: E402

VOLUME = ["batch", 4, "d", "h", "w"]


def external(name: str, dtype: int, shape: tuple[int, ...], offset: int) -> Any:
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.bin"), ("offset", str(offset))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph() -> Any:
    """A convolution, time added to it, a norm, a Resize; weights as plans have them: float16, and transposed."""
    node = helper.make_node
    nodes = [
        node("Cast", ["kernel"], ["kernel32"], to=TensorProto.FLOAT),
        node("Cast", ["linear"], ["linear32"], to=TensorProto.FLOAT),
        node("Transpose", ["linear32"], ["turned"], perm=[1, 0]),
        node("Unsqueeze", ["timestep", "one"], ["column"]),
        node("Mul", ["column", "scale"], ["scaled"]),
        node("MatMul", ["scaled", "turned"], ["embedding"]),
        node("Unsqueeze", ["embedding", "axes"], ["wide"]),
        node("Conv", ["latent", "kernel32"], ["features"], pads=[1] * 6),
        node("Add", ["features", "wide"], ["timed"]),
        node("InstanceNormalization", ["timed", "ones", "zeros"], ["normed"]),
        node("Resize", ["normed", "", "scales"], ["large"], mode="nearest"),
        node("Mul", ["large", "scale"], ["prediction"]),
    ]
    floats = helper.make_tensor_value_info
    inner = [
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([2, 3, 4], np.int64), "axes"),
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        numpy_helper.from_array(np.ones(4, np.float32), "ones"),
        numpy_helper.from_array(np.zeros(4, np.float32), "zeros"),
        numpy_helper.from_array(np.array([1, 1, 2, 2, 2], np.float32), "scales"),
        external("kernel", TensorProto.FLOAT16, (4, 4, 3, 3, 3), 0),
        external("linear", TensorProto.FLOAT16, (4, 1), 864),
    ]
    made = helper.make_graph(
        nodes,
        "denoiser",
        [floats("latent", TensorProto.FLOAT, VOLUME), floats("timestep", TensorProto.FLOAT, ["batch"])],
        [floats("prediction", TensorProto.FLOAT, ["batch", 4, "2*d", "2*h", "2*w"])],
        inner,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


def types(model: Any) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    return {name: found[name] for node in model.graph.node for name in node.output}


def saved(tmp_path: Path, precision: str) -> Any:
    data = np.random.default_rng(0).standard_normal(436).astype(np.float16).tobytes()
    typed_graph(graph(), precision).save(tmp_path / "graph.onnx", data)
    model = onnx.load(str(tmp_path / "graph.onnx"))
    onnx.checker.check_model(model, full_check=True)
    return model, np.frombuffer(data, np.float16)


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
def test_precision_is_in_the_types(tmp_path: Path, precision: str, kind: int) -> None:
    model, data = saved(tmp_path, precision)
    found = types(model)
    assert found["features"] == found["timed"] == kind
    assert found["embedding"] == found["normed"] == found["prediction"] == TensorProto.FLOAT
    assert found["large"] == (TensorProto.FLOAT if precision == "bf16" else kind)  # TensorRT has no such Resize
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert weights["kernel32"].data_type == kind
    kernel = numpy_helper.to_array(weights["kernel32"]).astype(np.float32)
    np.testing.assert_allclose(kernel.reshape(-1), data[:432], rtol=2**-8 if precision == "bf16" else 0)
    np.testing.assert_array_equal(
        numpy_helper.to_array(weights["turned"]), data[432:].astype(np.float32).reshape(4, 1).T
    )
    assert "scales" in weights
    assert weights["scales"].data_type == TensorProto.FLOAT
    assert not {"kernel", "linear"} & weights.keys()
    casts = sum(node.op_type == "Cast" for node in model.graph.node)
    assert casts == {"fp32": 0, "fp16": 5, "bf16": 5}[precision]


def test_the_given_graph_stays_as_it_is() -> None:
    model = graph()
    before = model.SerializeToString()
    typed_graph(model, "fp16")
    assert model.SerializeToString() == before


def test_a_digest_is_of_all_but_weights() -> None:
    model, moved, other = graph(), graph(), graph()
    moved.graph.initializer[-1].external_data[1].value = "900"
    moved.producer_version = "another"
    other.graph.node[-1].op_type = "Add"
    digest = typed_graph(model, "fp16").digest
    assert typed_graph(moved, "fp16").digest == digest
    assert typed_graph(other, "fp16").digest != digest
    assert typed_graph(model, "bf16").digest != digest


def test_refuses_other_weights() -> None:
    model = graph()
    model.graph.initializer.append(external("table", TensorProto.INT64, (4,), 0))
    with pytest.raises(CtfastError, match="weights 'table' are int64"):
        typed_graph(model, "fp32")


def test_bfloat16_is_rounded_as_ml_dtypes_does() -> None:
    import ml_dtypes

    values = np.random.default_rng(0).standard_normal(10000).astype(np.float32)
    values = np.concatenate([values, np.array([1.00390625, 1.01171875, 0, -0.0, 3e38, 1e-40], np.float32)])
    np.testing.assert_array_equal(bfloat16_bits(values), values.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_tables_come_back_from_a_plan() -> None:
    table = Table(
        "0" * 64,
        {"latent": (("batch", 1), 4, ("d", 2))},
        {"latent": ((1, 4, 2), (2, 4, 8))},
        {"w": Weight(64, "float16", (2, 3), (1, 0), "bf16")},
        {"c": ("int64", "AQAAAAAAAAA=")},
    )
    again = Table.from_json(table.to_json())
    assert again == table
    assert again.problem({"latent": (1, 4, 8)}) is None
    assert (
        again.problem({"latent": (1, 4, 10)})
        == "input 'latent' has shape [1, 4, 10], and its engine takes [1, 4, 2] to [2, 4, 8]"
    )
    assert "takes" in (again.problem({"latent": (1, 4)}) or "")
    kind, values = again.values("c", b"")
    assert (kind, values.tobytes()) == ("int64", b"\1" + bytes(7))


def manifest(**rule: Any) -> PlanManifest:
    """The tiny plan's, with another rule of sizes."""
    network = {"backend": "openvino", "precision": "fp32", "weights_dtype": "float32"}
    ports = {"inputs": ["latent"], "outputs": ["prediction"]}
    sizes = {**tiny_plan.MANIFEST["sizes"], "rule": {"legal": [], "xy": [], "z": [], "multiple": 16, **rule}}
    conditioning = tiny_plan.MANIFEST["conditioning"] | {"controlnet": False}
    networks = {name: {**network, **ports} for name in ("denoiser", "vae_decoder", "vae_encoder")}
    value = {**tiny_plan.MANIFEST, "sizes": sizes, "conditioning": conditioning, "networks": networks}
    return PlanManifest.from_json(json.dumps(value))


AXES: dict[str, Any] = {
    "latent": (("batch", 1), 4, ("d", 2), ("h", 2), ("w", 2)),
    "middle": (("batch", 1), 16, ("d", 1), ("h", 1), ("w", 1)),
    "spacing": (("batch", 1), 3),
}


def test_ranges_of_a_network() -> None:
    """The tiny plan's default is 32 x 32 x 16 and its latent a quarter; guidance calls the denoiser on pairs."""
    found = network_ranges(manifest(xy=[32, 48], z=[16, 64]), "denoiser", AXES)
    assert found == {
        "latent": Range((1, 4, 8, 8, 4), (1, 4, 8, 8, 4), (2, 4, 12, 12, 16)),
        "middle": Range((1, 16, 4, 4, 2), (1, 16, 4, 4, 2), (2, 16, 6, 6, 8)),
        "spacing": Range((1, 3), (1, 3), (2, 3)),
    }


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        ({"legal": [[32, 32, 16], [64, 32, 128]]}, (8, 8, 4), (16, 8, 32)),
        ({}, (4, 4, 4), (8, 8, 4)),  # no end: up to the sizes that the manifest speaks of
    ],
)
def test_ranges_follow_the_rule_of_sizes(rule: dict[str, Any], low: Any, high: Any) -> None:
    found = network_ranges(manifest(**rule), "denoiser", AXES)["latent"]
    assert (found.low[2:], found.high[2:]) == (low, high)


STAGES = (
    Stage("conv_in", "latent", "a", 8, (1, 1), 1, mask=StageMask("output", 0, 0)),
    Stage(
        "up", "a", "b", 512, (1, 1), 1, up=(2, 2, 2), norm=StageNorm(4, 1e-6, "w", "b"), mask=StageMask("input", 1, 1)
    ),
    Stage("out", "b", "image", 1, (1, 1), 1, adds=None),
)
PROGRAM = Program("latent", 4, "image", STAGES)


def test_ranges_of_stages() -> None:
    tiny = manifest(xy=[32, 64], z=[16, 32])
    found = stage_ranges(tiny, PROGRAM, STAGES[1])
    assert found["x"] == Range((1, 3, 8, 8, 8), (1, 6, 8, 8, 8), (1, 10, 16, 16, 8))
    assert found["mask"] == Range((1, 3, 1, 1, 1), (1, 6, 1, 1, 1), (1, 10, 1, 1, 1))
    assert found["scale"] == found["shift"] == Range(*[(1, 1, 1, 1, 8)] * 3)
    assert stage_ranges(tiny, PROGRAM, STAGES[2])["x"].high == (1, 18, 32, 32, 512)


def test_no_tensor_is_larger_than_tensorrt_can_count() -> None:
    """A window of the network as a whole, and fewer rows of a stage."""
    huge = manifest(xy=[32, 512], z=[16, 768])
    network = replace(huge.networks["vae_decoder"], program=PROGRAM)
    huge = replace(huge, networks={**huge.networks, "vae_decoder": network})
    axes = {"latent": (("batch", 1), 4, ("d", 1), ("h", 1), ("w", 1))}
    high = network_ranges(huge, "vae_decoder", axes)["latent"].high
    assert ELEMENTS / 4 < 512 * 8 * np.prod(high[2:]) <= ELEMENTS
    assert network_ranges(huge, "vae_decoder", axes)["latent"].low == (1, 4, 1, 1, 1)
    rows = stage_ranges(huge, PROGRAM, STAGES[2])["x"].high
    assert ELEMENTS * 0.98 < np.prod(rows) <= ELEMENTS


def test_the_usual_shape_is_within_the_limits() -> None:
    """Even where it has smaller planes, of which TensorRT could count more rows."""
    wide = manifest(xy=[32, 1024], z=[16, 768])
    wide = replace(wide, sizes=replace(wide.sizes, default=(32, 32, 768)))
    for stage in STAGES:
        for each in stage_ranges(wide, PROGRAM, stage).values():
            assert all(a <= b <= c for a, b, c in zip(each.low, each.usual, each.high, strict=True))
