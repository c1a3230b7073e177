"""What is done to a graph on its way to OpenVINO, on a network that has a bit of everything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnx  # noqa: E402
import openvino as ov  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from openvino import opset13 as op  # noqa: E402
from support.official_files import one_thread, redraw  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ctfast.errors import CtfastError  # noqa: E402
from ctfast.export.onnx import export_onnx  # noqa: E402
from ctfast.export.openvino import Ir, convert  # noqa: E402
from ctfast.export.tensors import fingerprints, locate  # noqa: E402
from ctfast.export.wrappers import Graph, Port  # noqa: E402
from ctfast.networks.blocks import timestep_embedding  # noqa: E402


class Net(nn.Module):
    """A norm over groups, a time embedding, an attention over voxels whose count comes from the coarse residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.time = nn.Linear(32, 8)
        self.tokens = nn.Linear(8, 8)
        self.last = nn.Conv3d(8, 4, 3, padding=1)
        self.spare = nn.Parameter(torch.ones(5))

    def forward(self, latent: Tensor, timestep: Tensor, residual: Tensor) -> Tensor:
        time = self.time(timestep_embedding(timestep, 32))
        h = F.silu(self.norm(self.first(latent) + time[:, :, None, None, None]))
        coarse = F.avg_pool3d(h, 2) + residual
        tokens = coarse.flatten(2).transpose(1, 2)[:, None]
        attended = F.scaled_dot_product_attention(tokens, self.tokens(tokens), tokens)[:, 0]
        coarse = coarse + attended.transpose(1, 2).unflatten(2, coarse.shape[2:])
        out: Tensor = self.last(F.interpolate(coarse, scale_factor=2.0, mode="trilinear") + h)
        return out


BATCH = ("batch", 1)


def grid(channels: int, factor: int) -> tuple[Any, ...]:
    return (BATCH, channels, ("d", factor), ("h", factor), ("w", factor))


@pytest.fixture(scope="module")
def graph() -> Graph:
    network = redraw(Net(), 0).eval()
    ports = (
        Port("latent", grid(4, 2)),
        Port("timestep", (BATCH,), low=0.0, high=1000.0),
        Port("residual", grid(8, 1)),
    )
    return Graph("net", network, ports, ("prediction",), network.state_dict(), ("residual",))


@pytest.fixture(scope="module")
def onnx_path(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with one_thread():
        path = tmp_path_factory.mktemp("onnx") / "net.onnx"
        export_onnx(graph, path, {"ctfast.variant": "test"})
        yield path


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def ir(request: Any, graph: Graph, onnx_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ir, bool]:
    folder = tmp_path_factory.mktemp("ir")
    return convert(onnx_path, graph, folder, half=request.param, weights=fingerprints(graph.state)), request.param


def compiled(model: ov.Model, tensors: dict[str, Tensor], precision: str) -> Any:
    model.reshape({name: list(tensor.shape) for name, tensor in tensors.items()})
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    return ov.Core().compile_model(model, "CPU", settings)


def run(model: ov.Model, tensors: dict[str, Tensor], precision: str = "f32") -> Any:
    found = compiled(model, tensors, precision)({name: tensor.numpy() for name, tensor in tensors.items()})
    return found["prediction"]


def named(graph: Graph, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {port.name: tensor for port, tensor in zip(graph.inputs, tensors, strict=True)}


def error(found: Any, expected: Tensor) -> float:
    return float(np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected.numpy()))


def computes(precision: str) -> None:
    """Skip the test where the processor does not compute in ``precision``, bf16 or f16."""
    if {"bf16": "BF16", "f16": "FP16"}[precision] not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"this processor computes no {precision}")


def test_the_onnx_file_is_standard_and_says_what_it_is(graph: Graph, onnx_path: Path) -> None:
    model = onnx.load(str(onnx_path))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: entry.value for entry in model.metadata_props}.items() >= {
        "ctfast.network": "net",
        "ctfast.variant": "test",
    }.items()
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    axes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert axes["latent"] == ["batch", 4, "2*d", "2*h", "2*w"]
    assert axes["residual"] == ["batch", 8, "d", "h", "w"]
    assert axes["timestep"] == ["batch"]


def test_large_weights_go_to_a_file_of_their_own(graph: Graph, tmp_path: Path) -> None:
    with one_thread():
        written = export_onnx(graph, tmp_path / "net.onnx", one_file_bytes=1000)
    assert written.external
    assert (tmp_path / "net.onnx").stat().st_size < (tmp_path / "net.onnx.data").stat().st_size * 20
    made = convert(tmp_path / "net.onnx", graph, tmp_path, half=False, weights=())
    tensors = graph.example((1, 2, 1), batch=1)
    expected = graph.module(*tensors).detach()
    assert error(run(ov.Core().read_model(made.xml), named(graph, tensors)), expected) < 1e-5


@pytest.mark.parametrize(("size", "batch"), [((1, 1, 1), 1), ((5, 2, 3), 1), ((3, 4, 2), 3)])
def test_results_are_those_of_torch_at_other_sizes(
    graph: Graph, ir: tuple[Ir, bool], size: tuple[int, int, int], batch: int
) -> None:
    made, half = ir
    tensors = graph.example(size, batch, seed=5)
    with torch.inference_mode():
        expected = graph.module(*tensors)
    found = run(ov.Core().read_model(made.xml), named(graph, tensors))
    assert error(found, expected) < (2e-3 if half else 1e-5)


def test_a_dropped_residual_counts_as_zero_and_no_size_hangs_on_it(graph: Graph, ir: tuple[Ir, bool]) -> None:
    made, half = ir
    model = ov.Core().read_model(made.xml)
    (residual,) = [node for node in model.get_parameters() if node.get_friendly_name() == "residual"]
    residual.output(0).replace(op.constant(np.zeros([1] * 5, np.float32)).output(0))
    model.remove_parameter(residual)
    latent, timestep, zeros = graph.example((3, 2, 4), batch=1)
    with torch.inference_mode():
        expected = graph.module(latent, timestep, zeros * 0)
    assert error(run(model, {"latent": latent, "timestep": timestep}), expected) < (2e-3 if half else 1e-5)


def test_only_weights_are_halved(graph: Graph, ir: tuple[Ir, bool]) -> None:
    made, half = ir
    table = locate(made.xml, made.weights, graph.state, half=half)
    assert set(table) == set(graph.state)
    assert {entry.dtype for entry in table.values()} == {"float16" if half else "float32"}
    data = made.weights.read_bytes()
    frequencies = np.exp(-math.log(10000.0) * np.arange(16, dtype=np.float32) / 16)
    constants = [
        np.array(node.data).ravel()
        for node in ov.Core().read_model(made.xml).get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f32
    ]
    assert any(c.size == 16 and np.allclose(c, frequencies, rtol=1e-6) for c in constants)
    for key, entry in table.items():
        found = np.frombuffer(data, entry.dtype, math.prod(entry.shape), entry.offset).reshape(entry.shape)
        np.testing.assert_array_equal(found, graph.state[key].numpy().astype(entry.dtype))


def test_the_same_graph_gives_the_same_bytes(graph: Graph, onnx_path: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = convert(onnx_path, graph, tmp_path / name, half=True, weights=fingerprints(graph.state))
        files.append((made.xml.read_bytes(), made.weights.read_bytes()))
    assert files[0] == files[1]


def test_every_norm_is_one_mvn_and_nothing_loops(ir: tuple[Ir, bool]) -> None:
    operations = ir[0].operations
    assert operations["MVN"] == 1
    assert operations["Convolution"] == 2
    assert operations["ScaledDotProductAttention"] == 1
    assert not operations.keys() & {"If", "Loop", "TensorIterator", "ScatterNDUpdate", "GroupNormalization"}


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_time_steps_keep_their_precision(graph: Graph, ir: tuple[Ir, bool], precision: str) -> None:
    """Near 1000, bf16 has steps of 4: these two would be one and the same."""
    computes(precision)
    latent, _, residual = graph.example((4, 4, 4), batch=1)
    found, expected = [], []
    for step in (977.25, 978.75):
        tensors = (latent, torch.tensor([step]), residual)
        with torch.inference_mode():
            expected.append(graph.module(*tensors))
        found.append(torch.from_numpy(run(ov.Core().read_model(ir[0].xml), named(graph, tensors), precision).copy()))
    difference = expected[1] - expected[0]
    assert float(difference.norm() / expected[0].norm()) > 0.05, "the test's own network ignores time"
    assert error((found[1] - found[0]).numpy(), difference) < 0.1


def test_results_are_not_rounded_to_bf16(graph: Graph, ir: tuple[Ir, bool]) -> None:
    computes("bf16")
    tensors = graph.example((4, 6, 6), batch=1)
    found = run(ov.Core().read_model(ir[0].xml), named(graph, tensors), "bf16")
    kept = (found.view(np.uint32) & 0xFFFF != 0).mean()
    assert kept > 0.95


def test_a_graph_with_lost_inputs_is_refused(graph: Graph, onnx_path: Path, tmp_path: Path) -> None:
    other = Graph("net", graph.module, (*graph.inputs, Port("more", (BATCH,))), ("image",), graph.state)
    with pytest.raises(CtfastError, match=r"inputs latent, timestep, residual.*outputs prediction"):
        convert(onnx_path, other, tmp_path, half=False, weights=())


class Grown(nn.Module):
    """Writes into part of a tensor, which torch exports as ScatterND."""

    def forward(self, latent: Tensor) -> Tensor:
        out = latent.clone()
        out[:, torch.tensor([0, 2])] = 1.0
        return out


def test_operators_that_run_badly_are_refused(tmp_path: Path) -> None:
    scatter = Graph("net", Grown(), (Port("latent", grid(4, 1)),), ("image",), {})
    with one_thread(), pytest.raises(CtfastError, match="ScatterND"):
        export_onnx(scatter, tmp_path / "net.onnx")
