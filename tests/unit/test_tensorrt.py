"""TensorRT through a stand-in for the library: building, refusals, refitting, loading, running, cancelling.

What the stand-in cannot tell is what TensorRT itself does; docs/support_matrix.md lists that.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from support import fake_cupy, fake_tensorrt, killed_engines, tiny_models  # noqa: E402
from support.official_files import one_thread  # noqa: E402

import ctfast  # noqa: E402
from ctfast import _native  # noqa: E402
from ctfast.backends import Backend, Source, open_backend, survey  # noqa: E402
from ctfast.backends import tensorrt as backend_module  # noqa: E402
from ctfast.cli.main import main  # noqa: E402
from ctfast.errors import CancelledError, CtfastError, DeviceError, OutputError, PlanError, RequestError  # noqa: E402
from ctfast.export import build  # noqa: E402
from ctfast.export.tensorrt import EngineOptions, add_engines, reuse_engines  # noqa: E402
from ctfast.export.wrappers import Graph, graphs  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

pytestmark = pytest.mark.slow  # for the build of the plan

NETWORKS = replace(tiny_models.NETWORKS, mask_autoencoder=None, mask_denoiser=None)
#: Sizes that the engines take, in units of each network's grid.
UNITS = {
    "denoiser": (4, 4, 2),
    "controlnet": (4, 4, 2),
    "controlnet_condition": (8, 8, 4),
    "vae_decoder": (3, 2, 2),
    "vae_encoder": (2, 3, 2),
}
NAMES = tuple(UNITS)
#: A process that is killed has its own interpreter, in which nothing of ours runs.
PROCESSES = multiprocessing.get_context("forkserver")
LIMITS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan without engines."""
    folder = tmp_path_factory.mktemp("plain")
    files = tiny_models.write_checkpoints(folder, NETWORKS)
    with one_thread():
        return build(tiny_models.description(NETWORKS), files, folder / "tiny.plan", precision="bf16")


@pytest.fixture(scope="module")
def other(plain: Path) -> Path:
    """The same with other weights, as another checkpoint would give: every tensor is a little larger."""
    source = Plan.open(plain)
    sections = {each.name: bytearray(source.section(each.name)) for each in source.sections}
    for name, network in source.manifest.networks.items():
        data = sections[f"{name}/model.bin"]
        for tensor in network.tensors.values():
            values = np.frombuffer(data, tensor.dtype, math.prod(tensor.shape), tensor.offset)
            np.multiply(values, values.dtype.type(1.0625), out=values)
    path = plain.with_name("other.plan")
    ctfast.plan.write(path, source.manifest, {name: bytes(data) for name, data in sections.items()})
    return path


Use = Callable[..., fake_cupy.Machine]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Play a machine with TensorRT of a version, and a GPU."""

    def play(version: str = fake_tensorrt.VERSIONS[0], failure: str | None = None, **gpu: Any) -> fake_cupy.Machine:
        machine = fake_cupy.Machine(**gpu)
        for name, module in fake_cupy.modules(machine).items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(machine, version, failure))
        return machine

    return play


@pytest.fixture
def engines(plain: Path, tmp_path: Path, use: Use) -> Path:
    """A plan with engines in float32."""
    use()
    return add_engines(plain, tmp_path / "engines.plan", EngineOptions(precision="fp32"))


def opened(path: Path, **options: Any) -> Backend:
    return open_backend("tensorrt", Source(_native.Plan(path), Plan.open(path).manifest, **options))


@lru_cache
def made() -> dict[str, Graph]:
    roles = tiny_models.modules(NETWORKS).items()
    return {graph.name: graph for role, module in roles for graph in graphs(role, module, controlnet=True)}


def example(name: str, larger: int = 0, batch: int = 1) -> dict[str, Any]:
    """Inputs of a network; ``larger`` makes them longer along x."""
    x, y, z = UNITS[name]
    graph = made()[name]
    inputs = graph.example((x + larger, y, z), batch)
    return {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)}


def error(found: Any, wanted: Any) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def reference(path: Path) -> Backend:
    return open_backend("openvino", Source(_native.Plan(path), Plan.open(path).manifest, "cpu", "fp32", threads=1))


def told(path: Path, section: str = "denoiser/model.engine") -> dict[str, Any]:
    """What the stand-in's engine says of itself."""
    value: dict[str, Any] = json.loads(bytes(Plan.open(path).section(section)))
    return value


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_every_network(plain: Path, tmp_path: Path, use: Use, version: str, precision: str) -> None:
    use(version)
    path = add_engines(plain, tmp_path / "out.plan", EngineOptions(precision=precision))
    backend, wanted = opened(path), reference(path)
    assert (backend.device, backend.versions, backend.precision("denoiser")) == (
        "cuda:0",
        {"tensorrt": version},
        precision,
    )
    for name in NAMES:
        session, given = backend.open(name), example(name)
        found, expected = session.run(given), wanted.open(name).run(given)
        assert found.keys() == expected.keys()
        assert max(error(found[output], expected[output]) for output in expected) <= LIMITS[precision]
    entry = Plan.open(path).manifest.networks["denoiser"].tensorrt
    assert entry is not None
    assert (entry.version, entry.device, entry.compute_capability) == (version, fake_cupy.NAME, "9.0")


def test_weights_are_in_the_plan_once(plain: Path, engines: Path) -> None:
    before, after = Plan.open(plain), Plan.open(engines)
    for section in before.sections:
        assert bytes(after.section(section.name)) == bytes(before.section(section.name))
    made = {section.name for section in after.sections} - {section.name for section in before.sections}
    stages = [stage for name in NAMES for stage in (after.manifest.networks[name].program or _none).stages]
    assert len(made) == 2 * (len(NAMES) + len(stages))
    for name in made:
        if name.endswith(".engine"):
            state = told(engines, name)
            assert state["stripped"]
            assert state["refit"]
            assert not state["tf32"]


class _none:
    stages = ()


def test_stages(engines: Path) -> None:
    """Every stage as OpenVINO computes it, at both ends of what its engine takes."""
    plan = Plan.open(engines)
    backend, wanted = opened(engines), reference(engines)
    generator = np.random.default_rng(0)
    for name in ("vae_decoder", "vae_encoder"):
        program = plan.manifest.networks[name].program
        assert program is not None
        for stage in program.stages:
            limits = json.loads(bytes(plan.section(f"{name}/stages/{stage.name}.engine.json")))["limits"]
            session, other = backend.open_stage(name, stage.name), wanted.open_stage(name, stage.name)
            assert set(session.inputs) == set(limits)
            for end in (0, 1):
                given = {key: generator.standard_normal(shapes[end], np.float32) for key, shapes in limits.items()}
                assert error(session.run(given)["y"], other.run(given)["y"]) <= LIMITS["fp32"]


def test_generates(engines: Path) -> None:
    request: dict[str, Any] = {"size": tiny_models.SIZE, "seed": 5, "steps": 2, "spacing": (2, 2, 3)}
    names = ("tensorrt", "openvino")
    found, wanted = (ctfast.load(engines, backend=name, precision="fp32").generate(**request) for name in names)
    assert (found.meta["backend"], found.meta["device"]) == ("tensorrt", "cuda:0")
    assert (np.abs(found.array.astype(int) - wanted.array) <= 1).mean() >= 0.999


def test_graphs(engines: Path, use: Use) -> None:
    """The first run of a shape is ordinary, the second is captured, others replay; another shape begins anew."""
    machine = use()
    session, wanted = opened(engines).open("denoiser"), reference(engines).open("denoiser")
    for larger, captures, launches in ((0, 0, 0), (0, 1, 1), (0, 1, 2), (1, 1, 2), (1, 2, 3), (0, 2, 3), (0, 3, 4)):
        given = example("denoiser", larger)
        assert error(session.run(given)["prediction"], wanted.run(given)["prediction"]) <= LIMITS["fp32"]
        assert (machine.captures, machine.launches) == (captures, launches)
    held = len(machine.allocated)
    session.run(example("denoiser"))
    assert len(machine.allocated) == held


def test_dropped_inputs_are_zero(engines: Path) -> None:
    dropped = Plan.open(engines).manifest.networks["denoiser"].drop_if_unused
    given = {name: value for name, value in example("denoiser", 1, 2).items() if name not in dropped}
    session = opened(engines).open("denoiser", dropped)
    assert set(session.inputs) == set(given)
    wanted = reference(engines).open("denoiser", dropped).run(given)["prediction"]
    for _ in range(3):
        assert error(session.run(given)["prediction"], wanted) <= LIMITS["fp32"]


def test_refuses_a_size_it_was_not_built_for(engines: Path) -> None:
    session = opened(engines).open("denoiser")
    with pytest.raises(RequestError, match=r"input 'latent' has shape .* takes .* build the engines again"):
        session.run(example("denoiser", 5))
    assert session.run(example("denoiser"))  # and goes on


def test_too_little_memory_on_the_gpu(engines: Path, use: Use) -> None:
    use(limit=1000)
    with pytest.raises(DeviceError, match=r"too little memory for shapes latent \["):
        opened(engines).open("vae_decoder").run(example("vae_decoder"))


def test_weights_of_another_checkpoint(plain: Path, other: Path, engines: Path, tmp_path: Path, use: Use) -> None:
    """Engines go on with other weights, without a GPU."""
    use(count=0)
    tuned = reuse_engines(other, engines, tmp_path / "tuned.plan")
    assert bytes(Plan.open(tuned).section("denoiser/model.engine")) == bytes(
        Plan.open(engines).section("denoiser/model.engine")
    )
    use()
    given = example("denoiser")
    found = opened(tuned).open("denoiser").run(given)["prediction"]
    assert error(found, reference(other).open("denoiser").run(given)["prediction"]) <= LIMITS["fp32"]
    assert error(found, reference(plain).open("denoiser").run(given)["prediction"]) > 1e-2


def test_engines_of_another_graph_are_refused(other: Path, engines: Path, tmp_path: Path) -> None:
    donor = rewritten(engines, tmp_path, "vae_encoder/model.engine.json", lambda data: changed(data, "graph", "0" * 64))
    with pytest.raises(PlanError, match=r"'vae_encoder/model.engine' of .* was built of another graph than"):
        reuse_engines(other, donor, tmp_path / "no.plan")
    assert not (tmp_path / "no.plan").exists()


def rewritten(path: Path, folder: Path, section: str, spoil: Callable[[bytes], bytes]) -> Path:
    """The plan with another section, in ``folder``."""
    source = Plan.open(path)
    sections = {each.name: bytes(source.section(each.name)) for each in source.sections}
    sections[section] = spoil(sections[section])
    ctfast.plan.write(folder / "rewritten.plan", source.manifest, sections)
    return folder / "rewritten.plan"


def changed(data: bytes, key: str, value: Any) -> bytes:
    return json.dumps(json.loads(data) | {key: value}).encode()


@pytest.mark.parametrize("option", [{"refit": False}, {"version_compatible": True}])
def test_engines_with_their_weights(plain: Path, tmp_path: Path, use: Use, option: dict[str, Any]) -> None:
    use()
    path = add_engines(plain, tmp_path / "own.plan", EngineOptions(precision="fp32", **option))
    assert not told(path)["stripped"]
    given = example("denoiser")
    found = opened(path).open("denoiser").run(given)["prediction"]
    assert error(found, reference(path).open("denoiser").run(given)["prediction"]) <= LIMITS["fp32"]
    with pytest.raises(PlanError, match="holds its weights, which cannot be replaced"):
        reuse_engines(plain, path, tmp_path / "no.plan")


def test_options_reach_the_builder(plain: Path, tmp_path: Path, use: Use) -> None:
    use()
    options = EngineOptions("fp32", hardware="ampere_plus", memory="3MiB", weight_streaming=True)
    state = told(add_engines(plain, tmp_path / "out.plan", options))
    assert (state["hardware"], state["workspace"], state["streaming"]) == ("AMPERE_PLUS", 3 << 20, True)


def test_weight_streaming(plain: Path, tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = use()
    path = add_engines(plain, tmp_path / "out.plan", EngineOptions("fp32", weight_streaming=True))
    monkeypatch.setenv(backend_module.BUDGET, "1000")
    session = opened(path).open("denoiser")
    for _ in range(3):
        session.run(example("denoiser"))
    assert machine.captures == 0  # what is streamed is not in a graph
    monkeypatch.setenv(backend_module.BUDGET, "much")
    with pytest.raises(DeviceError, match="expected a number of bytes, found 'much'"):
        opened(path).open("denoiser")


def test_timing_cache(plain: Path, tmp_path: Path, use: Use, caplog: pytest.LogCaptureFixture) -> None:
    use()
    options = EngineOptions("fp32", timing_cache=tmp_path / "timing.cache")
    add_engines(plain, tmp_path / "out.plan", options)
    first = (tmp_path / "timing.cache").read_bytes()
    assert first.count(b".") > len(NAMES)
    add_engines(plain, tmp_path / "out.plan", options)
    assert (tmp_path / "timing.cache").read_bytes().startswith(first + b".")
    use(name="NVIDIA L4", capability="89")
    with caplog.at_level(logging.WARNING):
        add_engines(plain, tmp_path / "out.plan", options)
    assert "was made with another GPU" in caplog.text
    assert b"L4" in (tmp_path / "timing.cache").read_bytes()


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("Could not find any implementation for node {ForeignNode[conv]}", "found no way to compute a node"),
        ("Requested size was 123 bytes. cudaErrorMemoryAllocation: out of memory", "the GPU has too little memory"),
        ("volume of tensor exceeds 2147483647", "more elements than TensorRT can count"),
        ("CUDA initialization failure with error: 35", "does not run on this GPU or driver"),
        ("something new", "something new"),
    ],
)
def test_failures_are_explained(plain: Path, tmp_path: Path, use: Use, words: str, meaning: str) -> None:
    use(failure=words)
    with pytest.raises(DeviceError, match=meaning) as caught:
        add_engines(plain, tmp_path / "out.plan")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [1, 4, 9])
def test_cancel(plain: Path, tmp_path: Path, use: Use, moment: int) -> None:
    use()
    calls: list[str] = []

    def progress(stage: str, done: int, total: int) -> bool:
        assert 0 <= done <= total
        calls.append(stage)
        return len(calls) < moment

    with pytest.raises(CancelledError):
        add_engines(plain, tmp_path / "out.plan", observer=progress)
    assert len(calls) == moment
    assert list(tmp_path.iterdir()) == []


def test_an_observer_that_fails(plain: Path, tmp_path: Path, use: Use) -> None:
    use()

    def progress(stage: str, done: int, total: int) -> None:
        if "Tactic" in stage:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        add_engines(plain, tmp_path / "out.plan", observer=progress)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "engine precision: expected fp32, bf16, fp16, fp8, found 'int4'"),
        ({"hardware": "any"}, "hardware: expected none, same_compute_capability, ampere_plus, found 'any'"),
        ({"device": "cpu"}, "engines are built on 'cuda' or 'cuda:N', found 'cpu'"),
        ({"memory": "lots"}, "memory: expected bytes or text"),
    ],
)
def test_refuses_options(plain: Path, tmp_path: Path, use: Use, options: dict[str, Any], message: str) -> None:
    use()
    with pytest.raises(RequestError, match=message):
        add_engines(plain, tmp_path / "out.plan", EngineOptions(**options))


def test_fp8_says_what_to_install(plain: Path, tmp_path: Path, use: Use) -> None:
    use()
    with pytest.raises(RequestError, match=r"fp8 engines need 'modelopt.*pip install 'nvidia-modelopt\[onnx\]'"):
        add_engines(plain, tmp_path / "out.plan", EngineOptions(precision="fp8"))


def test_fp8_goes_through_modelopt(plain: Path, tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call, with the argument names of ModelOpt 0.47, and what becomes of its result."""
    use()
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", fake_tensorrt.modelopt(calls))
    path = add_engines(plain, tmp_path / "out.plan", EngineOptions(precision="fp8"))
    assert len(calls) == len(NAMES)
    entry = Plan.open(path).manifest.networks["denoiser"].tensorrt
    assert entry is not None
    assert (entry.precision, entry.refit) == ("fp8", False)
    given = example("denoiser")
    found = opened(path).open("denoiser").run(given)["prediction"]
    assert error(found, reference(path).open("denoiser").run(given)["prediction"]) <= LIMITS["fp32"]


def test_where_there_is_no_tensorrt(engines: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, use: Use) -> None:
    use(version="10.2.0")
    assert "TensorRT 10.2.0 is too old: 10.3 or later" in reason(engines)
    use(count=0)
    assert "CUDA finds no GPU: cudaErrorNoDevice" in reason(engines)
    use()
    assert "there is no device 'cuda:3': CUDA finds 1" in reason(engines, "cuda:3")
    assert "runs on NVIDIA GPUs only" in reason(engines, "cpu")
    assert "the plan has no TensorRT engine of" in reason(plain)
    for name in ("tensorrt", "cupy", "cupy.cuda"):
        monkeypatch.delitem(sys.modules, name)
    assert "tensorrt and cupy not installed. Install them with: pip install 'ctfast[tensorrt]'" in reason(engines)


def reason(path: Path, device: str = "auto") -> str:
    return backend_module.can_use(Plan.open(path).manifest, device) or ""


def test_survey_and_choice(engines: Path, plain: Path, use: Use, caplog: pytest.LogCaptureFixture) -> None:
    """Engines are taken where they run; a plan without them is not spoken of, one whose engines do not fit is."""
    use()
    rows = {row["name"]: row for row in survey(Plan.open(engines).manifest)}
    assert rows["tensorrt"]["usable"]
    choice = {
        path: open_backend("auto", Source(_native.Plan(path), Plan.open(path).manifest)) for path in (engines, plain)
    }
    assert [each.name for each in choice.values()] == ["tensorrt", "openvino"]
    assert "tensorrt" not in caplog.text
    use(name="NVIDIA L4", capability="89")
    with caplog.at_level(logging.WARNING):
        other = open_backend("auto", Source(_native.Plan(engines), Plan.open(engines).manifest))
    assert other.name == "openvino"
    assert "using backend 'openvino': tensorrt: the engine of" in caplog.text


def test_another_version_or_gpu_is_told_before_loading(engines: Path, use: Use) -> None:
    use(version=fake_tensorrt.VERSIONS[1])
    assert "was built with TensorRT 10.16.1.11" in reason(engines)
    assert "here is TensorRT 11.4.0.106. Build the engines again on this machine: ctfast build" in reason(engines)
    use(name="NVIDIA A100", capability="80")
    assert "built for NVIDIA H200 (compute capability 9.0); here is NVIDIA A100 (8.0)" in reason(engines)
    with pytest.raises(DeviceError, match=r"backend 'tensorrt' cannot be used: the engine of '.*' was built for"):
        opened(engines)


def test_compatible_engines_run_elsewhere(
    plain: Path, tmp_path: Path, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    use()
    wide = EngineOptions("fp32", version_compatible=True, hardware="ampere_plus")
    path = add_engines(plain, tmp_path / "wide.plan", wide)
    use(fake_tensorrt.VERSIONS[1], name="NVIDIA A100", capability="80")
    assert reason(path) == ""
    assert opened(path).open("denoiser").run(example("denoiser"))
    use(name="Tesla T4", capability="75")
    assert "here is Tesla T4 (7.5)" in reason(path)
    use("12.0.0.1")
    assert "here is TensorRT 12.0.0.1" in reason(path)
    use("10.4.0")
    assert "was built with TensorRT 10.16.1.11; here is TensorRT 10.4.0" in reason(path)
    same = add_engines_on(plain, tmp_path, use)
    use(name="NVIDIA H20")
    with caplog.at_level(logging.WARNING):
        assert reason(same) == ""
    assert "were built for NVIDIA H200; on NVIDIA H20 they may be slower" in caplog.text


def add_engines_on(plain: Path, folder: Path, use: Use) -> Path:
    use()
    return add_engines(plain, folder / "same.plan", EngineOptions("fp32"))


def test_precision_is_that_of_the_engines(engines: Path) -> None:
    assert opened(engines, precision="fp32").lacks("fp32") is None
    with pytest.raises(DeviceError, match="the plan's engines compute in fp32, as they were built"):
        opened(engines, precision="bf16")


@pytest.mark.parametrize(
    ("section", "spoil", "message"),
    [
        ("denoiser/model.engine", lambda data: b"?" + data[1:], "cannot read .* Serialization assertion"),
        (
            "denoiser/model.engine.json",
            lambda data: data[:-1],
            "the table of 'denoiser/model.engine' .* cannot be read",
        ),
        ("denoiser/model.engine.json", lambda data: shifted(data), "weights '.*' of .* are not in the plan"),
        ("denoiser/model.engine.json", lambda data: retyped(data), "does not take the plan's weights"),
    ],
)
def test_spoilt_plans(
    engines: Path, tmp_path: Path, section: str, spoil: Callable[[bytes], bytes], message: str
) -> None:
    spoilt = rewritten(engines, tmp_path, section, spoil)
    with pytest.raises(CtfastError, match=message) as caught:
        opened(spoilt).open("denoiser")
    assert "ctfast build" in str(caught.value)


def shifted(data: bytes) -> bytes:
    value = json.loads(data)
    next(iter(value["weights"].values()))["offset"] = 1 << 40
    return json.dumps(value).encode()


def retyped(data: bytes) -> bytes:
    value = json.loads(data)
    next(iter(value["weights"].values()))["type"] = "fp16"
    return json.dumps(value).encode()


def test_a_plan_without_onnx(plain: Path, tmp_path: Path, use: Use) -> None:
    use()
    source = Plan.open(plain)
    manifest = source.manifest.to_json()
    for network in manifest["networks"].values():
        network.pop("onnx")
    ctfast.plan.write(tmp_path / "old.plan", manifest, {e.name: source.section(e.name) for e in source.sections})
    with pytest.raises(PlanError, match=r"no ONNX graph of .* Build the plan again"):
        add_engines(tmp_path / "old.plan", tmp_path / "out.plan")


def test_no_room(plain: Path, use: Use) -> None:
    use()
    with pytest.raises(OutputError, match="does not exist"):
        add_engines(plain, plain.parent / "absent" / "out.plan")


def test_command(
    plain: Path,
    other: Path,
    tmp_path: Path,
    use: Use,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a plan, from checkpoints (whose plan is there already), and with engines taken from another plan."""
    use()
    first, second, third = (str(tmp_path / f"{name}.plan") for name in ("first", "second", "third"))
    options = ["--backend", "tensorrt", "--engine-precision", "fp32", "--timing-cache", str(tmp_path / "cache")]
    assert main(["build", str(plain), "-o", first, "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["path"] == first

    def build_plan(model: str, weights: Any, output: Path, **given: Any) -> Path:
        assert (model, given["precision"], "backend" in given) == ("rflow-ct", "bf16", False)
        return Path(shutil.copyfile(other, output))

    monkeypatch.setattr("ctfast.export.tensorrt.build_plan", build_plan)
    common = ["build", "rflow-ct", "--weights", str(tmp_path), "--quiet"]
    assert main([*common, "-o", second, *options]) == 0
    use(count=0)
    assert main([*common, "-o", third, "--backend", "tensorrt", "--engines", first]) == 0
    assert main([*common, "-o", str(tmp_path / "no.plan"), *options]) == 4
    assert "engines cannot be built here: CUDA finds no GPU" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"first.plan", "second.plan", "third.plan", "cache"}
    use()
    given = example("denoiser")
    results = [opened(Path(path)).open("denoiser").run(given)["prediction"] for path in (second, third)]
    np.testing.assert_array_equal(*results)


def test_from_python(plain: Path, tmp_path: Path, use: Use) -> None:
    use()
    path = ctfast.build(plain, None, tmp_path / "out.plan", backend="tensorrt", engine=EngineOptions("fp16"))
    assert opened(path).precision("denoiser") == "fp16"


def test_a_level_that_an_old_version_lacks(
    plain: Path, tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("10.3.0")
    monkeypatch.setattr(sys.modules["tensorrt"], "HardwareCompatibilityLevel", enum.Enum("L", "NONE"))
    with pytest.raises(DeviceError, match=r"TensorRT 10\.3\.0 has no hardware compatibility 'same_compute_capability'"):
        add_engines(plain, tmp_path / "out.plan", EngineOptions(hardware="same_compute_capability"))


def test_a_killed_build_leaves_nothing_that_stays(plain: Path, tmp_path: Path, use: Use) -> None:
    """SIGKILL while TensorRT builds: no plan is there, and the next build takes the folder away."""
    target, marker = tmp_path / "out" / "killed.plan", tmp_path / "marker"
    target.parent.mkdir()
    process = PROCESSES.Process(target=killed_engines.build_and_wait, args=(plain, target, marker))
    process.start()
    while process.is_alive() and not marker.exists():
        time.sleep(0.1)
    assert marker.exists()
    process.kill()
    process.join()
    assert [path.name.startswith(".ctfast-engines-") for path in target.parent.iterdir()] == [True]
    use()
    add_engines(plain, target, EngineOptions("fp32"))
    assert [path.name for path in target.parent.iterdir()] == ["killed.plan"]
    assert opened(target).open("denoiser").run(example("denoiser"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "openvino", "--hardware", "none"], "--hardware is for engines: give --backend tensorrt"),
        (["--no-refit"], "--no-refit is for engines"),
        ([], "--weights: expected a folder"),
        (["--backend", "tensorrt", "--dry-run"], "--weights: expected a folder"),
    ],
)
def test_command_refuses(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["build", str(plain), "-o", str(tmp_path / "out.plan"), *words]) == 2
    assert message in capsys.readouterr().err
