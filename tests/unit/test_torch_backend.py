"""The torch backend beyond what all backends have in common: operations, refusals, and when torch is imported."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

torch = pytest.importorskip("torch")

from support import staged_plan, tiny_networks, tiny_plan  # noqa: E402

import ctfast  # noqa: E402
from ctfast import _native, backends, decoding  # noqa: E402
from ctfast.backends import Source, open_backend  # noqa: E402
from ctfast.backends import torch as backend  # noqa: E402
from ctfast.backends.torch_graph import Graph  # noqa: E402
from ctfast.errors import DeviceError, PlanError, RequestError  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

FREE = [-1, 4, -1, -1, -1]
INPUT = np.random.default_rng(0).standard_normal((2, 4, 4, 6, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")


def whole(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))


def number(value: float) -> Any:
    return op.constant(np.float32(value))


def weights(*shape: int) -> Any:
    return op.constant(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def convolution(x: Any, **options: Any) -> Any:
    given = {"strides": [2, 1, 2], "pads_begin": [0, 1, 1], "pads_end": [1, 1, 0], "dilations": [1, 1, 1]} | options
    return op.convolution(x, weights(3, 4, 3, 3, 3), **given)


def transposed(x: Any) -> Any:
    one, two = [1] * 3, [2] * 3
    return op.convolution_backprop_data(x, weights(4, 3, 3, 3, 3), two, None, one, one, one, "explicit", one)


def shape_of(x: Any) -> Any:
    """Flat but for the batch, by way of the tensor's own shape."""
    batch = op.gather(op.shape_of(x), whole(0), whole(0))
    return op.reshape(x, op.concat([batch, whole(-1)], 0), False)


def attention(x: Any, **options: Any) -> Any:
    tokens = op.transpose(op.reshape(x, whole(0, 2, 2, -1), True), whole(0, 1, 3, 2))
    return op.scaled_dot_product_attention(tokens, op.multiply(tokens, number(0.3)), tokens, **options)


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "convolution": convolution,
    "transposed convolution": transposed,
    "group norm": lambda x: op.group_normalization(x, weights(4), weights(4), 2, 1e-3),
    "mvn of the last axes": lambda x: op.mvn(op.reshape(x, whole(0, 2, -1), True), whole(2), True, 1e-3, "inside_sqrt"),
    "mvn of an axis within": lambda x: op.mvn(x, whole(1, 3), True, 1e-3, "inside_sqrt"),
    "average": lambda x: op.avg_pool(x, [2] * 3, [0] * 3, [0] * 3, [2] * 3, False),
    "mean": lambda x: op.reduce_mean(x, whole(-1, 1), keep_dims=True),
    "nearest": lambda x: op.interpolate(
        x,
        op.constant(np.array([2, 3], np.float32)),
        "nearest",
        "scales",
        [0],
        [0],
        "asymmetric",
        nearest_mode="floor",
        axes=whole(2, 4),
    ),
    "trilinear": lambda x: op.interpolate(
        x, whole(8, 9, 8), "linear_onnx", "sizes", [0], [0], "half_pixel", axes=whole(2, 3, 4)
    ),
    "split": lambda x: op.subtract(*op.split(x, op.constant(np.int64(1)), 2).outputs()),
    "split as": lambda x: op.concat(op.variadic_split(x, op.constant(np.int64(-1)), whole(3, -1)).outputs()[::-1], 4),
    "slice": lambda x: op.slice(x, whole(1, -3), whole(100, -1), whole(2, 1), whole(3, 4)),
    "gather": lambda x: op.gather(x, whole(-1, 0, 2), whole(1)),
    "squeeze": lambda x: op.squeeze(op.unsqueeze(x, whole(0, -1)), whole(0)),
    "blocks to channels": lambda x: op.space_to_depth(x, "depth_first", 2),
    "channels to blocks": lambda x: op.depth_to_space(op.concat([x, x], 1), "depth_first", 2),
    "product": lambda x: op.matmul(op.reshape(x, whole(0, 4, -1), True), weights(5, 4), True, True),
    "attention": attention,
    "causal attention": lambda x: attention(x, causal=True),
    "one slope": lambda x: op.prelu(x, op.constant(np.full(1, 0.2, np.float32))),
    "slope per channel": lambda x: op.prelu(x, weights(4)),
    "swish": lambda x: op.swish(x, number(1.7)),
    "gelu": lambda x: op.gelu(x, "erf"),
    "clamp": lambda x: op.clamp(x, -0.5, 0.25),
    "powers": lambda x: op.sqrt(op.power(op.tanh(op.exp(op.sigmoid(x))), number(3.0))),
    "angles": lambda x: op.divide(op.sin(x), op.add(op.multiply(op.cos(x), number(0.5)), number(2.0))),
    "shape": shape_of,
    "conversion": lambda x: op.convert(op.convert(op.multiply(x, number(3.0)), "i64"), "f32"),
}


def graph_of(model: ov.Model, **changes: str) -> Graph:
    xml, stored = tiny_networks.to_ir(model)
    for old, new in changes.items():
        xml = xml.replace(f'type="{old}"', f'type="{new}"')
    return Graph("the graph", xml.encode(), memoryview(stored), ["x"], ["y"], torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_openvinos(name: str) -> None:
    x = tiny_networks._input("x", FREE)
    y = tiny_networks._named(OPERATIONS[name](x), "y")
    model = ov.Model([y], [x], "operation")
    wanted = tiny_networks.Reference(model)({"x": INPUT})["y"]
    found = graph_of(model).run({"x": torch.from_numpy(INPUT)})["y"].numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_unknown_operations_are_named() -> None:
    x = tiny_networks._input("x", FREE)
    model = ov.Model([tiny_networks._named(op.sigmoid(x), "y")], [x], "operation")
    with pytest.raises(PlanError, match="the graph: backend 'torch' does not know its operation 'Sigmoidal'"):
        graph_of(model, Sigmoid="Sigmoidal")
    backwards = ov.Model(
        [tiny_networks._named(op.slice(x, whole(-1), whole(0), whole(-1), whole(2)), "y")], [x], "operation"
    )
    with pytest.raises(PlanError, match="a slice that goes backwards"):
        graph_of(backwards).run({"x": torch.from_numpy(INPUT)})


@pytest.mark.parametrize("way", ["whole", "in_place"])
def test_plans_of_other_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Nothing but the graphs is needed: these networks are none of ctfast.networks."""
    path = staged_plan.write(tmp_path / "staged.plan")
    every = decoding.Routes.all
    monkeypatch.setattr(decoding.Routes, "all", lambda *given: [route for route in every(*given) if route.name == way])
    mask = np.full(tiny_plan.SIZE, tiny_plan.BODY, np.uint16)
    volumes = [
        ctfast.load(path, backend=name, precision="fp32", device="cpu", threads=1).generate(
            seed=1, steps=2, mask=mask, spacing=tiny_plan.SPACING
        )
        for name in ("openvino", "torch")
    ]
    assert [volume.meta["decode_strategy"]["name"] for volume in volumes] == [way, way]
    assert (np.abs(volumes[0].array.astype(int) - volumes[1].array) <= 1).mean() >= 0.999


def test_threads_are_those_asked_for(plan: Path) -> None:
    seen = []

    def generate() -> None:
        engine = ctfast.load(plan, backend="torch", device="cpu", threads=1)
        engine.generate(steps=1)
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=generate)
    worker.start()
    worker.join()
    assert seen == [1]


def test_refusals(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"backend 'torch' cannot be used: .*'cuda:99'"):
        ctfast.load(plan, backend="torch", device="cuda:99")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    manifest = Plan.open(plan).manifest
    assert backend.can_use(manifest, "cuda:1") is None
    assert backend.can_use(manifest, "cuda:2") == "there is no device 'cuda:2': torch finds 2, from cuda:0 on"
    assert open_backend("torch", Source(_native.Plan(plan), manifest, precision="fp32")).device == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device for 'cuda'" in (backend.can_use(manifest, "cuda") or "")
    assert open_backend("torch", Source(_native.Plan(plan), manifest, precision="fp32")).device == "cpu"
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    with pytest.raises(DeviceError, match=r"torch is not installed.*pip install 'ctfast\[torch\]'"):
        ctfast.load(plan, backend="torch")


def test_bf16_where_there_is_none(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = _native.build_info()
    monkeypatch.setattr(_native, "build_info", lambda: info | {"cpu": info["cpu"] | {"bf16": False}})
    with pytest.raises(DeviceError, match="precision 'bf16' is not available: this processor has no instructions"):
        ctfast.load(plan, backend="torch", device="cpu", precision="bf16")
    with pytest.raises(
        DeviceError, match="precision 'fp16' is not available: torch computes fp16 on CUDA devices only"
    ):
        ctfast.load(plan, backend="torch", device="cpu", precision="fp16")


def test_without_openvinos_file(plan: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A backend whose file is gone is one backend less."""
    backends._say_once.cache_clear()
    monkeypatch.setitem(sys.modules, "ctfast.backends.openvino", None)
    engine = ctfast.load(plan, device="cpu")
    assert engine.backend == "torch"
    assert engine.generate(seed=1, steps=1).meta["backend"] == "torch"
    assert [
        "using backend 'torch': openvino: its module is missing" in line.getMessage() for line in caplog.records
    ] == [True]
    with pytest.raises(DeviceError, match="backend 'openvino' cannot be used: its module is missing"):
        ctfast.load(plan, backend="openvino")


def test_torch_is_imported_only_when_asked_for(plan: Path) -> None:
    script = (
        "import sys, ctfast; from ctfast.cli.main import main; "
        "ctfast.load(sys.argv[1]).generate(steps=1); main(['info', sys.argv[1], '--quiet']); "
        "assert not [name for name in sys.modules if name.split('.')[0] == 'torch']; "
        "ctfast.load(sys.argv[1], backend='torch'); assert 'torch' in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", script, plan], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_engine_in_use_must_be_on_the_device_asked_for(plan: Path) -> None:
    engine = ctfast.load(plan, backend="torch", device="cpu")
    with pytest.raises(RequestError, match="the engine is loaded on 'cpu'"):
        ctfast.generate(engine, device="cuda:0")
