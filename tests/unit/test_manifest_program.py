"""Programs in manifests: reading, writing, every problem named with its place, and the sections they need."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from support import plan_bytes

from ctfast import plan as plan_file
from ctfast.errors import PlanError
from ctfast.manifest import Footprint, Onnx, PlanManifest
from ctfast.manifest_program import Program, Stage, StageMask, StageNorm, onnx_section, stage_section

NORM = {"groups": 2, "eps": 1e-6, "weight": "norm.weight", "bias": "norm.bias"}
TENSORS = {
    "norm.weight": {"offset": 0, "shape": [8], "dtype": "float16"},
    "norm.bias": {"offset": 16, "shape": [8], "dtype": "float16"},
}
PROGRAM: dict[str, Any] = {
    "input": "latent",
    "input_channels": 4,
    "output": "image",
    "stages": [
        {"name": "in", "reads": "latent", "writes": "in", "channels": 8, "halo": [1, 1], "multiply_adds": 864},
        {"name": "a", "reads": "in", "writes": "a", "adds": "in", "channels": 8, "halo": [0, 0], "multiply_adds": 64}
        | {"norm": NORM, "mask": {"grid": "input", "before": 0, "after": 0}},
        {"name": "up", "reads": "a", "writes": "image", "channels": 1, "halo": [1, 1], "multiply_adds": 216}
        | {"up": [2, 2, 2], "mask": {"grid": "output", "before": 1, "after": 1}, "skip": 1},
    ],
}


def manifest(*path: Any, value: Any = None, delete: bool = False) -> dict[str, Any]:
    """The tiny manifest whose decoder has PROGRAM, changed at ``path`` within the program."""
    result = copy.deepcopy(plan_bytes.MANIFEST)
    network = result["networks"]["vae_decoder"]
    network |= {"tensors": copy.deepcopy(TENSORS), "program": copy.deepcopy(PROGRAM)}
    network["footprint"] = {"loaded_bytes": 1000, "bytes_per_voxel": 2.5}
    place: Any = network["program"]
    for key in path[:-1]:
        place = place[key]
    if delete:
        del place[path[-1]]
    elif path:
        place[path[-1]] = value
    return result


def problem(value: dict[str, Any]) -> str:
    with pytest.raises(PlanError) as caught:
        PlanManifest.from_json(value, strict=True)
    return str(caught.value)


def test_reading() -> None:
    network = PlanManifest.from_json(json.dumps(manifest()), strict=True).networks["vae_decoder"]
    norm = StageNorm(groups=2, eps=1e-6, weight="norm.weight", bias="norm.bias")
    mask = StageMask("output", 1, 1)
    assert network.footprint == Footprint(loaded_bytes=1000, bytes_per_voxel=2.5)
    assert network.program == Program(
        "latent",
        4,
        "image",
        (
            Stage("in", "latent", "in", 8, (1, 1), 864),
            Stage("a", "in", "a", 8, (0, 0), 64, adds="in", norm=norm, mask=StageMask("input", 0, 0)),
            Stage("up", "a", "image", 1, (1, 1), 216, up=(2, 2, 2), skip=1, mask=mask),
        ),
    )


def test_round_trip() -> None:
    read = PlanManifest.from_json(manifest(), strict=True)
    assert PlanManifest.from_json(json.dumps(read.to_json()), strict=True) == read


def test_plans_without_programs_are_still_read_and_written_as_they_were() -> None:
    read = PlanManifest.from_json(plan_bytes.MANIFEST, strict=True)
    assert read.networks["vae_decoder"].program is None
    assert read.networks["vae_decoder"].footprint is None
    assert read.networks["vae_decoder"].onnx is None
    assert read.to_json() == plan_bytes.MANIFEST


REQUIRED = [
    *[(key,) for key in ("input", "input_channels", "output", "stages")],
    *[("stages", 0, key) for key in ("name", "reads", "writes", "channels", "halo", "multiply_adds")],
    *[("stages", 1, "norm", key) for key in ("groups", "eps", "weight", "bias")],
    *[("stages", 1, "mask", key) for key in ("grid", "before", "after")],
]


@pytest.mark.parametrize("path", REQUIRED, ids=lambda path: ".".join(map(str, path)))
def test_every_key_is_checked(path: tuple[Any, ...]) -> None:
    place = "networks.vae_decoder.program." + ".".join(map(str, path)).replace("stages.", "stages[", 1)
    place = place.replace("stages[0", "stages[0]").replace("stages[1", "stages[1]")
    assert f"{place}: expected" in problem(manifest(*path, delete=True))
    assert f"{place}: expected" in problem(manifest(*path, value=-1))


CONTRADICTIONS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("input",), "image", "program.input: 'image' is not among the network's inputs: latent"),
    (("stages",), [], "program.stages: expected at least one, found none"),
    (("stages", 0, "name"), "In/1", "program.stages.In/1: expected a name of a-z, 0-9 and _"),
    (("stages", 0, "name"), "a", "program.stages.a: the name comes twice"),
    (("stages", 1, "writes"), "in", "program.stages.a.writes: 'in' is there already"),
    (("stages", 0, "writes"), "latent", "program.stages.in.writes: 'latent' is there already"),
    (("stages", 1, "reads"), "b", "program.stages.a: nothing before it writes 'b'"),
    (("stages", 1, "adds"), "image", "program.stages.a: nothing before it writes 'image'"),
    (("stages", 1, "adds"), "latent", "program.stages.a.adds: 'latent' has another size than 'a', or other channels"),
    (("stages", 2, "adds"), "a", "program.stages.up.adds: 'a' has another size"),
    (("stages", 1, "up"), [1, 2, 1], "program.stages.a.adds: 'in' has another size"),
    (("stages", 1, "skip"), 1, "program.stages.a: a stage that drops rows cannot add a tensor"),
    (("stages", 2, "down"), [1, 1, 2], "program.stages.up: an axis goes up or down, not both"),
    (("stages", 1, "norm", "groups"), 3, "program.stages.a.norm.groups: 8 channels do not divide into 3 groups"),
    (("stages", 1, "norm", "weight"), "n", "program.stages.a.norm.weight: the network's tensors have no 'n'"),
    (("stages", 0, "channels"), 6, "norm.weight: expected 'norm.weight' of shape [6], found [8]"),
    (("stages", 1, "mask", "after"), 1, "program.stages.a.mask: [0, 1] rows of mask go beyond the halo [0, 0]"),
    (("output",), "a", "program.output: the last stage writes 'image', not 'a'"),
    (("stages", 2, "reads"), "in", "program.stages: nothing reads 'a'"),
    (("stages", 0, "halo"), [1], "stages[0].halo: expected a list of 2 whole numbers"),
    (("stages", 1, "speed"), 1, "program.stages[1].speed: unknown key"),
]


@pytest.mark.parametrize(("path", "value", "words"), CONTRADICTIONS, ids=[words for *_, words in CONTRADICTIONS])
def test_contradictions(path: tuple[Any, ...], value: Any, words: str) -> None:
    assert words in problem(manifest(*path, value=value))


def test_a_footprint_is_checked() -> None:
    spoilt = manifest()
    spoilt["networks"]["vae_decoder"]["footprint"] = {"loaded_bytes": -1, "bytes_per_voxel": 0}
    message = problem(spoilt)
    assert "vae_decoder.footprint.loaded_bytes: expected a whole number of at least 0" in message
    assert "vae_decoder.footprint.bytes_per_voxel: expected a positive number" in message


def test_every_stage_needs_its_section(tmp_path: Path) -> None:
    sections = dict(plan_bytes.SECTIONS) | {"vae_decoder/model.bin": bytes(32)}
    sections |= {stage_section("vae_decoder", name): b"<net/>" for name in ("in", "up")}
    with pytest.raises(PlanError, match=r"needs the section 'vae_decoder/stages/a\.xml', and there is none"):
        plan_file.write(tmp_path / "tiny.plan", manifest(), sections)
    sections["vae_decoder/stages/a.xml"] = b"<net/>"
    plan_file.write(tmp_path / "tiny.plan", manifest(), sections)
    program = plan_file.Plan.open(tmp_path / "tiny.plan").manifest.networks["vae_decoder"].program
    assert program is not None
    assert [stage.name for stage in program.stages] == ["in", "a", "up"]


def test_onnx_graphs_are_told_of_and_each_needs_its_section(tmp_path: Path) -> None:
    told = manifest()
    told["networks"]["vae_decoder"]["onnx"] = {"opset": 20, "nodes": 7}
    sections = dict(plan_bytes.SECTIONS) | {"vae_decoder/model.bin": bytes(32)}
    for stage in ("in", "a", "up"):
        sections |= {stage_section("vae_decoder", stage): b"<net/>", onnx_section("vae_decoder", stage): b""}
    with pytest.raises(PlanError, match=r"needs the section 'vae_decoder/model\.onnx', and there is none"):
        plan_file.write(tmp_path / "tiny.plan", told, sections)
    sections[onnx_section("vae_decoder")] = b""
    del sections["vae_decoder/stages/a.onnx"]
    with pytest.raises(PlanError, match=r"needs the section 'vae_decoder/stages/a\.onnx', and there is none"):
        plan_file.write(tmp_path / "tiny.plan", told, sections)
    sections["vae_decoder/stages/a.onnx"] = b""
    plan_file.write(tmp_path / "tiny.plan", told, sections)
    networks = plan_file.Plan.open(tmp_path / "tiny.plan").manifest.networks
    assert networks["vae_decoder"].onnx == Onnx(opset=20, nodes=7)
    assert networks["denoiser"].onnx is None
    told["networks"]["vae_decoder"]["onnx"] = {"opset": 0}
    message = problem(told)
    assert "vae_decoder.onnx.opset: expected a whole number of at least 1, found 0" in message
    assert "vae_decoder.onnx.nodes: expected a whole number of at least 1, found nothing" in message
