"""Whole builds of tiny models: the plan computes what torch computes, at sizes it was not exported at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
native = pytest.importorskip("ctfast._native")

import onnx  # noqa: E402
import openvino as ov  # noqa: E402
from support import tiny_models  # noqa: E402
from support.official_files import one_thread, redraw  # noqa: E402
from support.program_walker import Run, compiled, walk  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import ctfast  # noqa: E402
from ctfast import plan_weights  # noqa: E402
from ctfast.backends import Source, open_backend  # noqa: E402
from ctfast.errors import PlanError, RequestError  # noqa: E402
from ctfast.export import build, build_from_modules  # noqa: E402
from ctfast.export.onnx import UNWANTED, export_onnx  # noqa: E402
from ctfast.export.openvino import convert  # noqa: E402
from ctfast.export.verify import verify_against  # noqa: E402
from ctfast.export.wrappers import GRAPHS, Graph, graphs  # noqa: E402
from ctfast.manifest import Onnx  # noqa: E402
from ctfast.manifest_program import onnx_section, stage_section  # noqa: E402
from ctfast.networks import ControlNet, ControlNetConfig, DenoiserConfig, DenoiserUNet  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

pytestmark = pytest.mark.slow

ROLES = tiny_models.NETWORKS.roles
NAMES = tuple(name for role in ROLES for name in GRAPHS[role])
SIZES = (((1, 3, 2), 1), ((4, 1, 3), 2))  # in units of the coarsest grid, and the batch
LIMIT = 1e-5


@dataclass(frozen=True)
class Built:
    plan: Path
    onnx: Path
    files: Mapping[str, Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("built")
    files = tiny_models.write_checkpoints(folder)
    with one_thread():
        path = build(tiny_models.description(), files, folder / "tiny.plan", keep_onnx=folder / "onnx")
        yield Built(path, folder / "onnx", files)


def all_graphs(networks: Mapping[str, nn.Module]) -> dict[str, Graph]:
    made = {}
    for role, network in networks.items():
        factor = tiny_models.MASK_SCALE_FACTOR if role == "mask_autoencoder" else 1.0
        made.update({g.name: g for g in graphs(role, network, controlnet=True, scale_factor=factor)})
    return made


def expected(graph: Graph, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    with torch.inference_mode():
        out = graph.module(*inputs)
    return {n: t.numpy() for n, t in zip(graph.outputs, out if isinstance(out, tuple) else (out,), strict=True)}


def worst(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    assert found.keys() == wanted.keys()
    assert all(found[name].shape == wanted[name].shape for name in wanted)
    return max(float(np.linalg.norm(found[n] - wanted[n]) / np.linalg.norm(wanted[n])) for n in wanted)


def run_ir(path: Path, feed: Mapping[str, Any]) -> dict[str, Any]:
    core = ov.Core()
    model = core.read_model(path)
    model.reshape({name: list(value.shape) for name, value in feed.items()})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    result = core.compile_model(model, "CPU", settings)(dict(feed))
    return {port.any_name: result[port] for port in result}


@pytest.mark.parametrize("name", NAMES)
def test_the_runtime_computes_what_torch_computes_with_the_plans_weights(built: Built, name: str) -> None:
    graph = all_graphs(tiny_models.modules())[name]
    stored = plan_weights.state_dict(Plan.open(built.plan), name)
    with torch.no_grad():
        for key, tensor in graph.state.items():
            tensor.copy_(torch.from_numpy(stored[key]))
    session = native.OpenVINOSession(native.Plan(str(built.plan)), name, "fp32", 1)
    for size, batch in SIZES:
        inputs = graph.example(size, batch, seed=3)
        feed = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
        assert worst(session.run(feed), expected(graph, inputs)) <= LIMIT


@pytest.mark.parametrize("name", ["vae_decoder", "vae_encoder"])
def test_programs_compute_what_the_whole_networks_do(built: Built, name: str) -> None:
    plan = Plan.open(built.plan)
    entry, weights = plan.manifest.networks[name], ov.Tensor(np.frombuffer(plan.section(f"{name}/model.bin"), np.uint8))
    assert entry.program is not None

    def open_stage(stage: str) -> Run:
        return compiled(ov.Core().read_model(bytes(plan.section(stage_section(name, stage))), weights))

    graph = all_graphs(tiny_models.modules())[name]
    session = native.OpenVINOSession(native.Plan(str(built.plan)), name, "fp32", 1)
    (x,) = graph.example((3, 5, 2), 1, seed=5)
    whole = np.concatenate([session.run({entry.inputs[0]: x.numpy()})[output] for output in entry.outputs], axis=1)
    turned = np.ascontiguousarray(x.numpy()[0].transpose(3, 2, 1, 0))
    found = walk(entry.program, open_stage, plan_weights.state_dict(plan, name), turned, slab=2).transpose(3, 2, 1, 0)
    assert found.shape == whole[0].shape
    assert np.linalg.norm(found - whole[0]) <= LIMIT * np.linalg.norm(whole[0])


def test_programs_take_hardly_any_room(built: Built) -> None:
    """Weights are there once: what the graphs add to them are index vectors and the like."""
    plan = Plan.open(built.plan)
    lengths = {section.name: section.length for section in plan.sections}
    assert {name for name, entry in plan.manifest.networks.items() if entry.program} == {"vae_decoder", "vae_encoder"}
    for name in ("vae_decoder", "vae_encoder"):
        entry = plan.manifest.networks[name]
        footprint = entry.footprint
        assert footprint is not None
        parameters = sum(int(np.prod(tensor.shape)) for tensor in entry.tensors.values())
        assert lengths[f"{name}/model.bin"] < 2 * parameters + 8192
        assert footprint.loaded_bytes == lengths[f"{name}/model.bin"] + 2 * parameters


@pytest.mark.parametrize("name", NAMES)
def test_full_precision_and_onnx_agree_with_torch(built: Built, name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    graph = all_graphs(tiny_models.modules())[name]
    made = convert(built.onnx / f"{name}.onnx", graph, tmp_path, half=False, weights=())
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(built.onnx / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    for size, batch in SIZES:
        inputs = graph.example(size, batch, seed=4)
        feed = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
        wanted = expected(graph, inputs)
        assert worst(run_ir(made.xml, feed), wanted) <= LIMIT
        answers = session.run(list(graph.outputs), feed)
        assert worst(dict(zip(graph.outputs, answers, strict=True)), wanted) <= LIMIT


#: Nodes of the ONNX graphs: a change is a change of what every runtime gets, so it should be one for the better.
NODES = {
    "vae_decoder": 53,
    "vae_encoder": 58,
    "denoiser": 369,
    "controlnet": 185,
    "controlnet_condition": 16,
    "mask_decoder": 44,
    "mask_denoiser": 372,
}

#: Nodes that only compute shapes: one for each way back from attention's tokens to the grid, and two to four for the
#: folding of voxels into channels, whose extents are products of two that are free.
SHAPES = {"vae_decoder": 2, "vae_encoder": 4, "denoiser": 4, "controlnet": 2, "mask_denoiser": 4}


@pytest.mark.parametrize("name", NAMES)
def test_onnx_graphs_have_the_nodes_they_need_and_no_more(built: Built, name: str) -> None:
    model = onnx.load(str(built.onnx / f"{name}.onnx"))
    operators = Counter(node.op_type for node in model.graph.node)
    assert sum(operators.values()) == NODES[name]
    assert operators["Shape"] == SHAPES.get(name, 0)
    assert not operators.keys() & {"Constant", "Identity", "Squeeze", "Slice", "Range", "Expand", "Where", "Tile"}
    assert not operators.keys() & UNWANTED
    entry = Plan.open(built.plan).manifest.networks[name].onnx
    assert entry == Onnx(opset=20, nodes=NODES[name])


@pytest.mark.parametrize("name", NAMES)
def test_onnx_files_say_what_they_take_and_give(built: Built, name: str) -> None:
    model = onnx.load(str(built.onnx / f"{name}.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties == {"ctfast.network": name, "ctfast.version": ctfast.__version__}
    for value in (*model.graph.input, *model.graph.output):
        told = {entry.key: entry.value for entry in value.metadata_props}
        assert set(told) == {"meaning", "unit", "range", "axes"}
        assert all(told.values())
        assert told["axes"].count(",") == len(value.type.tensor_type.shape.dim) - 1
        assert told["meaning"] in value.doc_string
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_graphs_of_a_plan_hold_no_weights(built: Built, name: str, tmp_path: Path) -> None:
    plan = Plan.open(built.plan)
    entry = plan.manifest.networks[name]
    (tmp_path / "model.bin").write_bytes(plan.section(f"{name}/model.bin"))
    spans: set[tuple[int, int]] = set()
    stages = () if entry.program is None else entry.program.stages
    for section in (onnx_section(name), *(onnx_section(name, stage.name) for stage in stages)):
        path = tmp_path / "model.onnx"
        path.write_bytes(plan.section(section))
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        places = {
            tensor.name: {item.key: item.value for item in tensor.external_data} for tensor in model.graph.initializer
        }
        spans |= {(int(place["offset"]), int(place["length"])) for place in places.values() if place}
        assert {place["location"] for place in places.values() if place} == {"model.bin"}
        if section == onnx_section(name):
            dead = {key for key in entry.tensors if "attn2.to_q" in key or "attn2.to_k" in key or "norm2" in key}
            assert entry.tensors.keys() - places.keys() <= (dead if name == "mask_denoiser" else set())
            for key in entry.tensors.keys() & places.keys():
                assert int(places[key]["offset"]) == entry.tensors[key].offset
    ordered = sorted(spans)
    assert all(offset + size <= following for (offset, size), (following, _) in pairwise(ordered))
    data = bytes(plan.section(f"{name}/model.bin"))
    contents = [data[offset : offset + size] for offset, size in ordered]
    assert len(set(contents)) == len(contents), "nothing is there twice"


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_what_torch_computes_with_the_plans_weights(built: Built, name: str) -> None:
    pytest.importorskip("onnxruntime")
    graph = all_graphs(tiny_models.modules())[name]
    stored = plan_weights.state_dict(Plan.open(built.plan), name)
    with torch.no_grad():
        for key, tensor in graph.state.items():
            tensor.copy_(torch.from_numpy(stored[key]))
    source = Source(native.Plan(str(built.plan)), Plan.open(built.plan).manifest, precision="fp32", threads=1)
    session = open_backend("onnxruntime", source).open(name)
    for size, batch in SIZES:
        inputs = graph.example(size, batch, seed=3)
        feed = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
        assert worst(session.run(feed), expected(graph, inputs)) <= LIMIT


def test_each_layer_is_one_operation(built: Built) -> None:
    for name, graph in all_graphs(tiny_models.modules()).items():
        operators = [node.op_type for node in onnx.load(str(built.onnx / f"{name}.onnx")).graph.node]
        owned = {key.rpartition(".")[0] for key in graph.state}
        layers = [layer for path, layer in graph.module.named_modules() if path.removeprefix("network.") in owned]
        kinds = {"Conv": nn.Conv3d, "ConvTranspose": nn.ConvTranspose3d, "InstanceNormalization": nn.GroupNorm}
        for operator, kind in kinds.items():
            assert operators.count(operator) == sum(isinstance(layer, kind) for layer in layers), (name, operator)


def test_every_weight_can_be_read_back(built: Built) -> None:
    plan = Plan.open(built.plan)
    for name, graph in all_graphs(tiny_models.modules()).items():
        stored = plan_weights.state_dict(plan, name)
        assert stored.keys() == graph.state.keys()
        for key, tensor in graph.state.items():
            rounded = tensor.numpy().astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(stored[key], rounded, err_msg=f"{name}: {key}")


def test_the_manifest_describes_the_networks(built: Built) -> None:
    plan = Plan.open(built.plan)
    plan.verify()
    manifest = plan.manifest
    assert tuple(manifest.networks) == NAMES
    runtime = native.Plan(str(built.plan))
    for name, entry in manifest.networks.items():
        session = native.OpenVINOSession(runtime, name, "fp32", 1)
        assert list(entry.inputs) == session.inputs
        assert sorted(entry.outputs) == sorted(session.outputs)
        assert (entry.precision, entry.weights_dtype) == ("bf16", "float16")
    residuals = manifest.networks["denoiser"].drop_if_unused
    assert residuals == manifest.networks["controlnet"].outputs
    assert manifest.conditioning.controlnet
    assert {peak.size for peak in manifest.memory} == {(xy, xy, z) for xy in (32, 64) for z in (16, 32)}
    assert {entry.network for entry in manifest.weights} == set(ROLES)


def test_dropped_residuals_are_zeros(built: Built) -> None:
    plan = native.Plan(str(built.plan))
    names = list(Plan.open(built.plan).manifest.networks["denoiser"].drop_if_unused)
    (graph,) = graphs("denoiser", tiny_models.modules()["denoiser"], controlnet=True)
    feed = {p.name: t.numpy() for p, t in zip(graph.inputs, graph.example((2, 3, 1), 1), strict=True)}
    zeros = {name: np.zeros_like(value) if name in names else value for name, value in feed.items()}
    whole = native.OpenVINOSession(plan, "denoiser", "fp32", 1)
    fewer = native.OpenVINOSession(plan, "denoiser", "fp32", 1, names)
    without = fewer.run({name: value for name, value in feed.items() if name not in names})
    assert worst(without, whole.run(zeros)) <= 1e-6
    assert worst(without, whole.run(feed)) > 1e-2


def test_the_plan_generates_encodes_and_decodes(built: Built) -> None:
    x, y, z = tiny_models.SIZE
    labels = np.full(tiny_models.SIZE, 200, np.uint16)
    labels[: x // 2] = 1
    labels[0] = 0
    mask = (labels, np.diag([*tiny_models.SIZES["spacing"]["default"], 1.0]))
    plain = ctfast.generate(engine=built.plan, steps=2, seed=5)
    masked = ctfast.generate(engine=built.plan, steps=2, seed=5, mask=mask)
    assert plain.array.shape == masked.array.shape == (x, y, z)
    assert (masked.array[0] == -1000).all()
    assert (plain.array[1:] != masked.array[1:]).mean() > 0.1
    latent = ctfast.encode(plain, engine=built.plan)
    assert latent.shape == (4, x // 4, y // 4, z // 4)
    assert ctfast.decode(latent, engine=built.plan).array.shape == (x, y, z)


def test_a_plan_is_verified_against_its_checkpoints(built: Built, tmp_path: Path) -> None:
    description = tiny_models.description()
    checks = verify_against(built.plan, built.files, description, threads=1)
    assert [check.network for check in checks] == list(NAMES)
    assert all(check.ok for check in checks)
    assert max(check.graph_error for check in checks) <= LIMIT
    assert 1e-5 < max(check.weights_error for check in checks) < 1e-2

    other = tiny_models.modules()["autoencoder"]
    with torch.no_grad():
        other.decoder.blocks[0].conv.conv.bias[0] += 1.0
    torch.save(other.state_dict(), tmp_path / "vae.pt")
    files = {"autoencoder": tmp_path / "vae.pt", "denoiser": built.files["denoiser"]}
    decoder, encoder, denoiser = verify_against(built.plan, files, description, threads=1)
    assert encoder.ok
    assert denoiser.ok
    assert not decoder.ok
    assert decoder.altered == ("decoder.blocks.0.conv.conv.bias",)
    assert decoder.weights_error > 1e-2


def test_verifying_needs_the_plans_own_networks(built: Built) -> None:
    with pytest.raises(RequestError, match="of variant 'tiny', which is none of rflow-ct"):
        verify_against(built.plan, built.files)
    with pytest.raises(PlanError, match="there is no such file"):
        verify_against(built.plan.with_name("no.plan"), built.files)


def test_weights_beyond_half_precision_stay_whole(tmp_path: Path) -> None:
    networks = tiny_models.modules()
    pair = {role: networks[role] for role in ("autoencoder", "denoiser")}
    pair["denoiser"] = DenoiserUNet(DenoiserConfig(4, 4, (8,), (8,), 1, 4, class_embeddings=0, spacing=False)).eval()
    with torch.no_grad():
        pair["autoencoder"].encoder.blocks[0].conv.conv.weight[0, 0, 0, 0, 0] = 1e5
    description = tiny_models.description(revision="1", family="maisi-v2", scale_factor=1.0, labels=None)
    profile = ctfast.export.describe.PROFILES["rflow-ct"]
    description |= {
        "modality": {"default": None, "names": {}},
        "intensity": vars(profile.intensity),
        "schedule": {key: value for key, value in vars(profile.schedule).items() if value is not None},
        "licence": {"class": "open", "text": "Apache-2.0"},
        "weights": [],
    }
    for key in ("base", "networks"):
        del description[key]
    with one_thread(), pytest.warns(UserWarning, match="vae_encoder has weights beyond float16's range"):
        path = build_from_modules(pair, description, tmp_path / "a.plan")
    plan = Plan.open(path)
    assert {name: entry.weights_dtype for name, entry in plan.manifest.networks.items()} == {
        "vae_decoder": "float16",
        "vae_encoder": "float32",
        "denoiser": "float16",
    }
    stored = plan_weights.state_dict(plan, "vae_encoder")
    assert all(np.array_equal(stored[key], pair["autoencoder"].state_dict()[key].numpy()) for key in stored)
    assert plan.manifest.networks["denoiser"].inputs == ("latent", "timestep")
    assert ctfast.generate(engine=path, steps=1, guidance=0.0).array.shape == tiny_models.SIZE


@pytest.mark.parametrize(
    ("config", "control"),
    [
        (tiny_models.DDPM, None),
        (
            replace(tiny_models.FLOW, patch=2, full_resample=False),
            ControlNetConfig(replace(tiny_models.FLOW, patch=2), 8, (4, 4, 4, 8), middle=False),
        ),
    ],
    ids=["ddpm", "patched"],
)
def test_other_shapes_of_networks(config: DenoiserConfig, control: ControlNetConfig | None, tmp_path: Path) -> None:
    networks: dict[str, nn.Module] = {"denoiser": redraw(DenoiserUNet(config), 1)}
    if control is not None:
        networks["controlnet"] = redraw(ControlNet(control), 2)
    with one_thread():
        for role, network in networks.items():
            for graph in graphs(role, network, controlnet=control is not None):
                export_onnx(graph, tmp_path / "net.onnx")
                made = convert(tmp_path / "net.onnx", graph, tmp_path, half=False, weights=())
                for size, batch in SIZES:
                    inputs = graph.example(size, batch, seed=4)
                    feed = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
                    assert worst(run_ir(made.xml, feed), expected(graph, inputs)) <= LIMIT
