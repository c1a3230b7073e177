"""The part of a manifest that describes a network as a program: stages that can run on a few rows of a volume.

A row is a plane of constant z. docs/plan_format.md describes every key, and what a stage's graph takes and gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from .json_fields import Fields

Size3 = tuple[int, int, int]

GRIDS = ("input", "output")

#: An extent along one axis as a function of the program's input: factor and constant.
_Extent = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class StageNorm:
    """A group norm of the tensor that a stage reads, whose statistics are those of the whole volume.

    ``weight`` and ``bias`` are state-dict keys of the network; the runtime makes scale and shift of them.
    """

    groups: int
    eps: float
    weight: str
    bias: str


@dataclass(frozen=True)
class StageMask:
    """Rows on which a stage takes a mask: those of the slab on ``grid``, ``before`` more in front and ``after`` behind.

    On the grid "input" the slab is the input without its halo, on "output" the rows that the stage computes.
    """

    grid: str
    before: int
    after: int


@dataclass(frozen=True)
class Stage:
    """One step of a program: a graph that computes rows of the tensor ``writes`` from rows of the tensor ``reads``.

    ``channels`` are those of ``writes``; ``adds`` is a tensor of its size that is added. ``up`` and ``down`` are the
    factors (x, y, z) between the two grids, ``halo`` the rows of input beyond a slab's own that the graph needs in
    front and behind. The first ``skip`` rows are computed and dropped. ``multiply_adds`` are per voxel of ``writes``.
    """

    name: str
    reads: str
    writes: str
    channels: int
    halo: tuple[int, int]
    multiply_adds: int
    up: Size3 = (1, 1, 1)
    down: Size3 = (1, 1, 1)
    skip: int = 0
    adds: str | None = None
    norm: StageNorm | None = None
    mask: StageMask | None = None


@dataclass(frozen=True)
class Program:
    """A network as stages in the order in which they are computed; the last one writes ``output``."""

    input: str
    input_channels: int
    output: str
    stages: tuple[Stage, ...]


def stage_section(network: str, stage: str) -> str:
    """Name of the section with a stage's graph; its constants are in the network's ``model.bin``."""
    return f"{network}/stages/{stage}.xml"


def onnx_section(network: str, stage: str | None = None) -> str:
    """Name of the section with an ONNX graph, a network's or a stage's; weights are in the network's ``model.bin``."""
    return f"{network}/model.onnx" if stage is None else f"{network}/stages/{stage}.onnx"


def engine_section(network: str, stage: str | None = None) -> str:
    """Name of the section with a TensorRT engine; what the engine was made of is in another one, ``<name>.json``."""
    return f"{network}/model.engine" if stage is None else f"{network}/stages/{stage}.engine"


def read_program(fields: Fields) -> Program:
    """A program out of a manifest; problems are noted in ``fields``."""
    result = Program(
        input=fields.text("input"),
        input_channels=fields.whole("input_channels", 1),
        output=fields.text("output"),
        stages=tuple(_stage(item) for item in fields.items("stages")),
    )
    fields.finish()
    return result


def _stage(fields: Fields) -> Stage:
    before, after = fields.wholes("halo", 0, 2)
    result = Stage(
        name=fields.text("name"),
        reads=fields.text("reads"),
        writes=fields.text("writes"),
        channels=fields.whole("channels", 1),
        halo=(before, after),
        multiply_adds=fields.whole("multiply_adds", 0),
        up=fields.triple("up") if fields.has("up") else (1, 1, 1),
        down=fields.triple("down") if fields.has("down") else (1, 1, 1),
        skip=fields.whole("skip", 0) if fields.has("skip") else 0,
        adds=fields.text("adds") if fields.has("adds") else None,
        norm=_norm(fields.child("norm")) if fields.has("norm") else None,
        mask=_mask(fields.child("mask")) if fields.has("mask") else None,
    )
    fields.finish()
    return result


def _norm(fields: Fields) -> StageNorm:
    result = StageNorm(
        groups=fields.whole("groups", 1),
        eps=fields.number("eps", positive=True),
        weight=fields.text("weight"),
        bias=fields.text("bias"),
    )
    fields.finish()
    return result


def _mask(fields: Fields) -> StageMask:
    result = StageMask(
        grid=fields.text("grid", GRIDS), before=fields.whole("before", 0), after=fields.whole("after", 0)
    )
    fields.finish()
    return result


def program_problems(program: Program, inputs: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Contradictions within a program, each beginning with its place ("stages.<name>: ...").

    Args:
        program: What to check; each value is of the right type.
        inputs: The network's inputs.
        shapes: Shapes of the network's tensors by state-dict key.
    """
    if program.input not in inputs:
        yield f"input: '{program.input}' is not among the network's inputs: {', '.join(inputs)}"
    if not program.stages:
        yield "stages: expected at least one, found none"
        return
    one: tuple[_Extent, ...] = ((Fraction(1), Fraction(0)),) * 3
    written: dict[str, tuple[int, tuple[_Extent, ...]]] = {program.input: (program.input_channels, one)}
    unread: set[str] = set()
    names: set[str] = set()
    for stage in program.stages:
        place = f"stages.{stage.name}"
        if not re.fullmatch(r"[a-z0-9_]{1,48}", stage.name):
            yield f"{place}: expected a name of a-z, 0-9 and _, as it names a section"
        if stage.name in names:
            yield f"{place}: the name comes twice"
        if stage.writes in written:
            yield f"{place}.writes: '{stage.writes}' is there already; each tensor is written once"
        names.add(stage.name)
        absent = [tensor for tensor in (stage.reads, stage.adds) if tensor is not None and tensor not in written]
        if absent:
            yield f"{place}: nothing before it writes {', '.join(map(repr, absent))}"
        channels, grid = written.get(stage.reads, (0, one))
        size = tuple(_after(stage, axis, extent) for axis, extent in enumerate(grid))
        if not absent:
            yield from (f"{place}{problem}" for problem in _stage_problems(stage, channels, shapes))
            if stage.adds is not None and written[stage.adds] != (stage.channels, size):
                yield f"{place}.adds: '{stage.adds}' has another size than '{stage.writes}', or other channels"
        written[stage.writes] = (stage.channels, size)
        unread = (unread | {stage.writes}) - {stage.reads, stage.adds}
    if program.stages[-1].writes != program.output:
        yield f"output: the last stage writes '{program.stages[-1].writes}', not '{program.output}'"
    elif unread - {program.output}:
        yield f"stages: nothing reads {', '.join(sorted(map(repr, unread - {program.output})))}"


def _after(stage: Stage, axis: int, extent: _Extent) -> _Extent:
    """Extent of what a stage writes along an axis, given that of what it reads."""
    factor = Fraction(stage.up[axis], stage.down[axis])
    return extent[0] * factor, extent[1] * factor - (stage.skip if axis == 2 else 0)


def _stage_problems(stage: Stage, channels: int, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """What is wrong with a stage that reads a tensor of ``channels`` channels."""
    if any(up > 1 and down > 1 for up, down in zip(stage.up, stage.down, strict=True)):
        yield f": an axis goes up or down, not both, but up is {list(stage.up)} and down is {list(stage.down)}"
    if stage.skip and stage.adds is not None:
        yield f": a stage that drops rows cannot add a tensor, but skip is {stage.skip} and adds is '{stage.adds}'"
    norm, mask = stage.norm, stage.mask
    if norm is not None:
        if channels % norm.groups:
            yield f".norm.groups: {channels} channels do not divide into {norm.groups} groups"
        for name, key in (("weight", norm.weight), ("bias", norm.bias)):
            if key not in shapes:
                yield f".norm.{name}: the network's tensors have no '{key}'"
            elif shapes[key] != (channels,):
                yield f".norm.{name}: expected '{key}' of shape [{channels}], found {list(shapes[key])}"
    if mask is not None and mask.grid == "input" and (mask.before > stage.halo[0] or mask.after > stage.halo[1]):
        yield f".mask: {[mask.before, mask.after]} rows of mask go beyond the halo {list(stage.halo)}"
