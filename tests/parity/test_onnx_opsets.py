"""Networks written with single operators for norms and attention: opset 23, in files and in plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
from support import tiny_models  # noqa: E402
from support.official_files import one_thread  # noqa: E402

from ctfast import _native  # noqa: E402
from ctfast.backends import Source, open_backend  # noqa: E402
from ctfast.export import build  # noqa: E402
from ctfast.export.onnx import UNWANTED, export_onnx  # noqa: E402
from ctfast.export.wrappers import Graph, graphs  # noqa: E402
from ctfast.networks.network_set import NetworkSet  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

pytestmark = pytest.mark.slow

LIMIT = 1e-4  # ONNX Runtime's own norms and attention are less accurate than the patterns of opset 20
SIZES = (((1, 3, 2), 1), ((4, 1, 3), 2))  # in units of the coarsest grid, and the batch
NODES = {
    "vae_decoder": 33,
    "vae_encoder": 38,
    "denoiser": 257,
    "controlnet": 131,
    "controlnet_condition": 16,
    "mask_decoder": 24,
    "mask_denoiser": 276,
}


@pytest.fixture(scope="module")
def networks() -> dict[str, Graph]:
    made = [g for role, module in tiny_models.modules().items() for g in graphs(role, module, controlnet=True)]
    return {graph.name: graph for graph in made}


@pytest.mark.parametrize("name", NODES)
def test_norms_and_attention_are_single_operators(networks: dict[str, Graph], name: str, tmp_path: Path) -> None:
    graph = networks[name]
    with one_thread():
        path = export_onnx(graph, tmp_path / "net.onnx", opset=23).path
    model = onnx.load(str(path))
    operators = Counter(node.op_type for node in model.graph.node)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    assert sum(operators.values()) == NODES[name]
    assert not operators.keys() & ({"InstanceNormalization", "Softmax"} | UNWANTED)
    owned = {key.rpartition(".")[0] for key in graph.state}
    layers = [layer for path, layer in graph.module.named_modules() if path.removeprefix("network.") in owned]
    assert operators["GroupNormalization"] == sum(isinstance(layer, torch.nn.GroupNorm) for layer in layers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for size, batch in SIZES:
        inputs = graph.example(size, batch, seed=4)
        feed = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
        with one_thread(), torch.inference_mode():
            wanted = graph.module(*inputs)
        found = session.run(list(graph.outputs), feed)
        for array, tensor in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            assert np.linalg.norm(array - tensor.numpy()) <= LIMIT * np.linalg.norm(tensor.numpy())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("built")
    few = replace(tiny_models.FLOW, channels=(8,), head_channels=(8,))
    shapes = NetworkSet(autoencoder=tiny_models.VAE, denoiser=few)
    files = tiny_models.write_checkpoints(folder, shapes)
    description = tiny_models.description(shapes, labels=None)
    with one_thread():
        yield build(description, files, folder / "tiny.plan", precision="fp32", keep_onnx=folder / "onnx", opset=23)


def test_a_plan_has_the_opset_that_was_asked_for(built: Path) -> None:
    plan = Plan.open(built)
    for name, entry in plan.manifest.networks.items():
        assert entry.onnx is not None
        assert entry.onnx.opset == 23
        for data in (bytes(plan.section(f"{name}/model.onnx")), (built.parent / "onnx" / f"{name}.onnx").read_bytes()):
            model = onnx.load_from_string(data)
            assert model.opset_import[0].version == 23
            weights = {tensor.name for tensor in model.graph.initializer}
            computing = [
                node for node in model.graph.node if node.op_type != "Transpose" or node.input[0] not in weights
            ]
            assert len(computing) == entry.onnx.nodes
            assert "GroupNormalization" in {node.op_type for node in model.graph.node}


def test_openvinos_graphs_do_not_depend_on_the_opset(built: Path) -> None:
    """They are made from the patterns of opset 20, which OpenVINO reads; both compute the same."""
    plan, manifest = _native.Plan(built), Plan.open(built).manifest
    given: dict[str, Any] = {
        "latent": np.random.default_rng(0).standard_normal((1, 4, 2, 4, 3)).astype(np.float32),
        "timestep": np.array([300.0], np.float32),
        "class_label": np.array([2], np.int64),
        "spacing": np.array([[200.0, 200.0, 300.0]], np.float32),
    }
    found = []
    for backend in ("openvino", "onnxruntime"):
        opened = open_backend(backend, Source(plan, manifest, precision="fp32", threads=1))
        found.append(opened.open("denoiser").run(given)["prediction"])
    assert np.linalg.norm(found[0] - found[1]) <= LIMIT * np.linalg.norm(found[0])
