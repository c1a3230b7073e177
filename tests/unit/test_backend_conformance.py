"""Every backend that this machine has, on one plan: each network, the exact decode and a volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from support import tiny_models  # noqa: E402
from support.official_files import one_thread  # noqa: E402

import ctfast  # noqa: E402
from ctfast import _native  # noqa: E402
from ctfast.backends import BACKENDS, Backend, Source, open_backend  # noqa: E402
from ctfast.decoding import Routes  # noqa: E402
from ctfast.errors import CtfastError, DeviceError  # noqa: E402
from ctfast.export import build  # noqa: E402
from ctfast.export.wrappers import Graph, graphs  # noqa: E402
from ctfast.manifest import PlanManifest  # noqa: E402
from ctfast.plan import Plan  # noqa: E402
from ctfast.sessions import Sessions  # noqa: E402

pytestmark = pytest.mark.slow  # for the build of the plan

# A machine without a GPU skips that, and says why.
PLACES = [
    ("openvino", "cpu"),
    ("torch", "cpu"),
    ("torch", "cuda"),
    ("onnxruntime", "cpu"),
    ("onnxruntime", "cuda"),
]
LIMIT = 1e-5  # relative L2 error in fp32
HALF_LIMIT = 5e-2  # and in bf16, of networks with weights as large as random ones are
NETWORKS = replace(tiny_models.NETWORKS, mask_autoencoder=None, mask_denoiser=None)
NAMES = ("denoiser", "controlnet", "controlnet_condition", "vae_decoder", "vae_encoder")
SIZES = (((1, 3, 2), 1), ((4, 1, 3), 2))  # in units of each network's coarsest grid, and the batch


@dataclass(frozen=True)
class Built:
    path: Path
    plan: _native.Plan
    manifest: PlanManifest
    graphs: Mapping[str, Graph]

    def open(self, place: tuple[str, str], precision: str = "fp32") -> Backend:
        """A backend; skips the test where there is no such device, or no bf16 on it."""
        name, device = place
        try:
            return open_backend(name, Source(self.plan, self.manifest, device, precision, threads=1))
        except DeviceError as error:
            if (device, precision) == ("cpu", "fp32"):
                raise
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    files = tiny_models.write_checkpoints(folder, NETWORKS)
    with one_thread():
        path = build(tiny_models.description(NETWORKS), files, folder / "tiny.plan", precision="fp32")
    made = [
        graph
        for role, module in tiny_models.modules(NETWORKS).items()
        for graph in graphs(role, module, controlnet=True)
    ]
    return Built(path, _native.Plan(path), Plan.open(path).manifest, {graph.name: graph for graph in made})


def expected(graph: Graph, inputs: tuple[Any, ...]) -> dict[str, Any]:
    with one_thread(), torch.inference_mode():
        out = graph.module(*inputs)
    return {n: t.numpy() for n, t in zip(graph.outputs, out if isinstance(out, tuple) else (out,), strict=True)}


def error(found: Any, wanted: Any) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == np.float32
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_all_backends_are_here() -> None:
    """But for TensorRT, whose engines are made for a GPU; test_tensorrt.py has a stand-in for it."""
    assert {name for name, _ in PLACES} == set(BACKENDS) - {"tensorrt"}


@pytest.mark.parametrize("place", PLACES, ids=" on ".join)
@pytest.mark.parametrize("name", NAMES)
def test_networks(built: Built, place: tuple[str, str], name: str) -> None:
    graph = built.graphs[name]
    session = built.open(place).open(name)
    assert set(session.inputs) == {port.name for port in graph.inputs}
    with pytest.raises(CtfastError, match="|".join(port.name for port in graph.inputs)):
        session.run({})
    for seed, (size, batch) in enumerate(SIZES):
        inputs = graph.example(size, batch, seed)
        given = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
        found, wanted = session.run(given), expected(graph, inputs)
        assert found.keys() == wanted.keys()
        assert max(error(found[output], wanted[output]) for output in wanted) <= LIMIT


@pytest.mark.parametrize("place", PLACES, ids=" on ".join)
def test_denoiser_without_residuals(built: Built, place: tuple[str, str]) -> None:
    graph = built.graphs["denoiser"]
    dropped = built.manifest.networks["denoiser"].drop_if_unused
    session = built.open(place).open("denoiser", dropped)
    assert set(session.inputs) == {port.name for port in graph.inputs} - set(dropped)
    for seed, (size, batch) in enumerate(SIZES):
        inputs = {
            port.name: torch.zeros_like(tensor) if port.name in dropped else tensor
            for port, tensor in zip(graph.inputs, graph.example(size, batch, seed), strict=True)
        }
        found = session.run({name: tensor.numpy() for name, tensor in inputs.items() if name not in dropped})
        assert error(found["prediction"], expected(graph, tuple(inputs.values()))["prediction"]) <= LIMIT


@pytest.mark.parametrize("place", PLACES, ids=" on ".join)
@pytest.mark.parametrize("name", ["denoiser", "vae_decoder", "vae_encoder"])
def test_networks_in_bf16(built: Built, place: tuple[str, str], name: str) -> None:
    """Close to float32, and not the same: otherwise nothing was computed in bf16."""
    backend = built.open(place, "bf16")
    graph, session = built.graphs[name], backend.open(name)
    inputs = graph.example((2, 2, 2), 1)
    given = {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}
    found, wanted = session.run(given), expected(graph, inputs)
    assert backend.ran_in(name, session) == "bf16"
    for output in wanted:
        assert 10 * LIMIT < error(found[output], wanted[output]) <= HALF_LIMIT


@pytest.mark.parametrize("budget", [None, 1])
@pytest.mark.parametrize("place", PLACES, ids=" on ".join)
@pytest.mark.parametrize("name", ["vae_decoder", "vae_encoder"])
def test_exact_in_stages(built: Built, place: tuple[str, str], name: str, budget: int | None) -> None:
    """Every way, with its largest slabs and with the smallest."""
    built.open(place)
    sessions = Sessions(_native, built.plan, built.manifest, "fp32", 1, "", *place)
    routes = Routes(_native, Plan.open(built.path), name, "fp32", sessions.element_bytes(name))
    program, native = routes.program, routes.native_program
    assert program is not None
    assert native is not None
    graph = built.graphs[name]
    (given,) = graph.example((3, 2, 4), 1)
    wanted = np.concatenate(list(expected(graph, (given,)).values()), axis=1)[0]  # the program has one output
    rows = np.ascontiguousarray(given[0].numpy().transpose(3, 2, 1, 0))
    stages = {stage.name: stage for stage in program.stages}
    staged = [route for route in routes.all(given.shape[2:], budget) if route.strategy is not None]
    assert {route.name for route in staged} == {"in_place", "spill", "recompute"}
    device = sessions.backend.on_device

    def open_stage(stage: str) -> Any:
        return sessions.stage(name, stages[stage], program.input, program.output)

    for route in staged:
        parts: list[Any] = []

        def take(_: int, part: Any, parts: list[Any] = parts) -> None:
            parts.append(part.copy())

        options: dict[str, Any] = {"element_bytes": routes.element_bytes}
        if device is None:
            _native.run_program(native, open_stage, rows, route.strategy, sink=take, threads=1, **options)
        else:
            options |= {"intensities": None, "stage": "decode", "observer": lambda *_: True, "take": take}
            device.run_program(sessions.workspace(name), native, open_stage, rows, route.strategy, **options)
        found = np.concatenate(parts).transpose(3, 2, 1, 0)
        assert error(found, wanted) <= LIMIT


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("place", PLACES[1:], ids=" on ".join)
def test_generated_volumes(built: Built, place: tuple[str, str], masked: bool) -> None:
    """The same seed gives the same volume, whatever computes it."""
    built.open(place)
    labels = np.full(tiny_models.SIZE, 200, np.uint16)
    labels[:8], labels[12:20, 8:20, 4:12] = 0, 1
    request = {"seed": 5, "steps": 3, "spacing": (2, 2, 3), "mask": labels if masked else None}
    volumes = {}
    for name, device in (("openvino", "cpu"), place):
        engine = ctfast.load(built.path, backend=name, device=device, precision="fp32", threads=1)
        assert (engine.backend, engine.device) == (name, device)
        volumes[name] = engine.generate(**request)
        assert (volumes[name].meta["backend"], volumes[name].meta["device"]) == (name, device)
    ours, theirs = (volumes[name].array.astype(int) for name in ("openvino", place[0]))
    assert (np.abs(ours) < 1000).mean() > 0.1  # of what is clipped nothing could be told
    assert (np.abs(ours - theirs) <= 1).mean() >= 0.999
