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

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402
from support.official_files import redraw  # noqa: E402
from support.program_walker import compiled  # noqa: E402

from ctfast.export.constants import Constants  # noqa: E402
from ctfast.export.openvino import fingerprint  # noqa: E402
from ctfast.export.shared_graphs import SharedWeights, write_stages  # noqa: E402
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
    stages = write_stages(staged, SharedWeights(whole, weights, table), folder / "stages")
    return Files(whole, weights, stages, table, before)


@pytest.fixture(params=[False, True], ids=["float32", "float16"])
def half(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def files(tmp_path: Path, half: bool) -> Files:
    return made(tmp_path / "net", half)


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
        inputs = {}
        for port in model.inputs:
            sizes = [4 if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape()]
            if name.endswith("_up") and port.any_name == "mask":
                sizes[1] = 6  # of the rows that four rows of input give
            if port.any_name == "residual":
                sizes[1] = 2
            inputs[port.any_name] = generator.standard_normal(sizes).astype(np.float32)
        found, expected = compiled(model)(inputs), compiled(described[name])(inputs)
        np.testing.assert_array_equal(found, expected)


def test_equal_builds_give_equal_files(files: Files, half: bool, tmp_path: Path) -> None:
    for _ in range(3):
        op.constant(np.zeros(1, np.float32))  # names that OpenVINO counts up go on elsewhere
    again = made(tmp_path / "again", half)
    assert files.weights.read_bytes() == again.weights.read_bytes()
    for name, path in files.stages.items():
        assert path.read_bytes() == again.stages[name].read_bytes()
