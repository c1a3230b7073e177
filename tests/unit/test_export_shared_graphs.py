"""Stages' files: their constants lie in the network's ``model.bin``, each once, and equal builds give equal bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402
from support.official_files import redraw  # noqa: E402
from support.program_walker import compiled  # noqa: E402

from ctfast.errors import CtfastError  # noqa: E402
from ctfast.export.constants import Constants  # noqa: E402
from ctfast.export.onnx import OPSET  # noqa: E402
from ctfast.export.openvino import fingerprint  # noqa: E402
from ctfast.export.shared_graphs import SharedWeights  # noqa: E402
from ctfast.export.stage_onnx import stage_model  # noqa: E402
from ctfast.export.stages import write_stages  # noqa: E402
from ctfast.export.tensors import ALIGNMENT, fits_half, locate  # noqa: E402
from ctfast.export.vae_program import decoder_program  # noqa: E402
from ctfast.manifest import TensorEntry  # noqa: E402
from ctfast.networks import AutoencoderConfig, AutoencoderKL  # noqa: E402

CONFIG = AutoencoderConfig(channels=(16, 32), blocks=(1, 1), groups=8, patch=2)


@dataclass(frozen=True)
class Files:
    """A network's files; the weights had ``before`` bytes before there were stages."""

    whole: Path
    weights: Path
    stages: dict[str, Path]
    onnx: dict[str, Path]
    table: dict[str, TensorEntry]
    before: int


def decoder_state() -> dict[str, Any]:
    state = redraw(AutoencoderKL(CONFIG), 5).state_dict()
    return {key: value for key, value in state.items() if key.startswith(("decoder.", "post_quant_conv."))}


def made(folder: Path, half: bool) -> Files:
    """The files of a decoder; in the place of its whole graph one that adds up its weights, but for the last one."""
    folder.mkdir()
    state = decoder_state()
    assert fits_half(state)
    total: Any = op.parameter([1], np.float32)
    parameter = total
    for tensor in list(state.values())[:-1]:
        axes = op.constant(np.arange(tensor.ndim))
        total = op.add(total, op.reduce_sum(op.constant(tensor.numpy()), axes, False))
    ov.save_model(ov.Model([total], [parameter]), str(folder / "model.xml"), compress_to_fp16=half)
    whole, weights = folder / "model.xml", folder / "model.bin"
    table = locate(whole, weights, state, half=half)
    before = weights.stat().st_size
    staged = decoder_program(CONFIG, Constants(weights, table))
    written = write_stages(staged, "vae_decoder", SharedWeights(whole, weights, table), folder / "stages", OPSET)
    stages, graphs = ({path.stem: path for path in written.values() if path.suffix == s} for s in (".xml", ".onnx"))
    return Files(whole, weights, stages, graphs, table, before)


@pytest.fixture(params=[False, True], ids=["float32", "float16"])
def half(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def files(tmp_path: Path, half: bool) -> Files:
    return made(tmp_path / "net", half)


def external(onnx_path: Path) -> list[tuple[int, int]]:
    """Offset and size of each constant of an ONNX graph that is not in the file itself."""
    found = []
    for tensor in onnx.load(str(onnx_path), load_external_data=False).graph.initializer:
        told = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            assert told["location"] == "model.bin"
            found.append((int(told["offset"]), int(told["length"])))
    return found


def stage_inputs(name: str, model: ov.Model, generator: np.random.Generator) -> dict[str, Any]:
    """Inputs of a stage for four rows of x."""
    inputs = {}
    for port in model.inputs:
        sizes = [4 if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape()]
        if name.endswith("_up") and port.any_name == "mask":
            sizes[1] = 6  # of the rows that four rows of input give
        if port.any_name == "residual":
            sizes[1] = 2
        inputs[port.any_name] = generator.standard_normal(sizes).astype(np.float32)
    return inputs


def constants(xml: Path) -> list[tuple[int, int]]:
    """Offset and size of each constant of an IR."""
    found = [layer.find("data") for layer in ET.parse(xml).iter("layer") if layer.get("type") == "Const"]
    return [(int(data.get("offset", 0)), int(data.get("size", 0))) for data in found if data is not None]


def test_stages_share_the_networks_weights(files: Files) -> None:
    assert files.weights.stat().st_size - files.before < 2048
    assert not list(files.whole.parent.glob("stages/*.bin"))
    kernels = {entry.offset for key, entry in files.table.items() if len(entry.shape) == 5}
    used = {offset for path in files.stages.values() for offset, _ in constants(path)}
    assert kernels <= used
    assert all(offset % ALIGNMENT == 0 for offset in used if offset >= files.before)


def test_nothing_is_in_the_weights_twice(files: Files) -> None:
    data = np.fromfile(files.weights, np.uint8)
    spans = {span for path in (files.whole, *files.stages.values()) for span in constants(path)}
    spans |= {span for path in files.onnx.values() for span in external(path)}
    for entry in files.table.values():
        spans.add((entry.offset, int(np.prod(entry.shape)) * np.dtype(entry.dtype).itemsize))
    places: dict[bytes, set[int]] = {}
    for offset, size in spans:
        places.setdefault(fingerprint(data[offset : offset + size]), set()).add(offset)
    assert all(len(offsets) == 1 for offsets in places.values())
    assert all(offset + size <= following for (offset, size), (following, _) in pairwise(sorted(spans)))


def test_norms_are_not_in_the_stages_but_in_the_weights(files: Files) -> None:
    norms = {entry.offset for key, entry in files.table.items() if ".norm" in key}
    assert norms
    assert norms.isdisjoint(offset for path in files.stages.values() for offset, _ in constants(path))


def test_stages_read_from_their_files_compute_what_was_described(files: Files) -> None:
    described = decoder_program(CONFIG, Constants(files.weights, files.table)).graphs
    weights = ov.Tensor(np.fromfile(files.weights, np.uint8))
    generator = np.random.default_rng(0)
    for name, path in files.stages.items():
        model = ov.Core().read_model(path.read_bytes(), weights)
        inputs = stage_inputs(name, model, generator)
        found, expected = compiled(model)(inputs), compiled(described[name])(inputs)
        np.testing.assert_array_equal(found, expected)


def test_onnx_graphs_of_stages_compute_what_the_others_do(files: Files) -> None:
    weights = ov.Tensor(np.fromfile(files.weights, np.uint8))
    generator = np.random.default_rng(1)
    assert files.onnx.keys() == files.stages.keys()
    for name, path in files.onnx.items():
        beside = files.weights.with_name(path.name)
        beside.write_bytes(path.read_bytes())
        onnx.checker.check_model(str(beside), full_check=True)
        model = ov.Core().read_model(files.stages[name].read_bytes(), weights)
        inputs = stage_inputs(name, model, generator)
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        assert {port.name for port in session.get_inputs()} == inputs.keys()
        (found,), expected = session.run(["y"], inputs), compiled(model)(inputs)
        assert found.shape == expected.shape
        assert float(np.linalg.norm(found - expected) / np.linalg.norm(expected)) < 1e-6


def test_onnx_graphs_of_stages_hold_no_weights(files: Files) -> None:
    for name, path in files.onnx.items():
        kernels = [span for span in constants(files.stages[name]) if span[1] > 1024]
        assert set(kernels) <= set(external(path))
        assert path.stat().st_size < 4096


def test_an_operation_without_a_rule_is_refused() -> None:
    x = op.parameter([1, 2, 2, 2, 4], np.float32)
    x.output(0).set_names({"x"})
    with pytest.raises(CtfastError, match=r"a stage of vae_decoder has the operation Tanh, for which"):
        stage_model(ov.Model([op.tanh(x)], [x]), "vae_decoder", OPSET)


def test_equal_builds_give_equal_files(files: Files, half: bool, tmp_path: Path) -> None:
    for _ in range(3):
        op.constant(np.zeros(1, np.float32))  # names that OpenVINO counts up go on elsewhere
    again = made(tmp_path / "again", half)
    assert files.weights.read_bytes() == again.weights.read_bytes()
    for name, path in files.stages.items():
        assert path.read_bytes() == again.stages[name].read_bytes()
        assert files.onnx[name].read_bytes() == again.onnx[name].read_bytes()
