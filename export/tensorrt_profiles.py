"""The shapes that engines are built for: the smallest, usual and largest of every input, from a plan's sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import GraphProto

from ctfast.backends.tensorrt_table import Axis
from ctfast.errors import CtfastError
from ctfast.manifest import PlanManifest
from ctfast.manifest_program import Program, Size3, Stage

Shape = tuple[int, ...]

#: TensorRT counts a tensor's elements in 32 bits.
ELEMENTS = 2**31 - 1

#: Networks that guidance calls on two volumes at once.
_PAIRED = ("denoiser", "controlnet")
#: Networks that are also called on windows of a volume.
_WINDOWED = ("vae_decoder", "vae_encoder")
#: Inputs whose grid is the image's; that of all others is the latent's.
_IMAGE = ("image", "condition")


@dataclass(frozen=True)
class Range:
    """Shapes of an input: the smallest, the one to be fastest at, and the largest."""

    low: Shape
    usual: Shape
    high: Shape


@dataclass(frozen=True)
class _Extents:
    """The same of a volume's voxels (x, y, z)."""

    low: Size3
    usual: Size3
    high: Size3


def axes_of(graph: GraphProto) -> dict[str, tuple[Axis, ...]]:
    """The axes of every input of a network's graph, from their names: "batch", "d", "4*d"."""
    return {
        value.name: tuple(
            _axis(dim.dim_param) if dim.dim_param else int(dim.dim_value) for dim in value.type.tensor_type.shape.dim
        )
        for value in graph.input
    }


def network_ranges(manifest: PlanManifest, name: str, axes: Mapping[str, tuple[Axis, ...]]) -> dict[str, Range]:
    """Shapes for a network as a whole.

    A VAE is also called on windows, so its smallest volume is one unit of its grid; its largest one is reduced until no
    tensor has more elements than TensorRT can count.
    """
    volume = next((given for given, shape in axes.items() if len(shape) == 5), None)
    if volume is None:
        raise CtfastError(f"network '{name}' takes no volume; please report this as a bug")
    extents = _sizes(manifest)
    ratio = (1, 1, 1) if volume in _IMAGE else manifest.latent.compression
    factors = [axis[1] if not isinstance(axis, int) else 1 for axis in axes[volume][2:]]
    windowed = name in _WINDOWED
    low = (1, 1, 1) if windowed else _units(extents.low, ratio, factors)
    usual, high = _units(extents.usual, ratio, factors), _units(extents.high, ratio, factors)
    program = manifest.networks[name].program
    if windowed and program is not None:
        high = _countable(high, _elements_per_voxel(program) * math.prod(factors))
        usual = (min(usual[0], high[0]), min(usual[1], high[1]), min(usual[2], high[2]))
    pair = 2 if name in _PAIRED else 1
    names = [axis[0] for axis in axes[volume] if not isinstance(axis, int)]
    roots = [dict(zip(names, (batch, *units), strict=True)) for batch, units in ((1, low), (1, usual), (pair, high))]
    return {given: Range(*(_filled(shape, root) for root in roots)) for given, shape in axes.items()}


def stage_ranges(manifest: PlanManifest, program: Program, stage: Stage) -> dict[str, Range]:
    """Shapes for a stage: all planes it is called on, and any number of rows that TensorRT can count."""
    sizes = _sizes(manifest)
    ratio = (1, 1, 1) if program.input in _IMAGE else manifest.latent.compression
    grids = [_grids(program, _units(size, ratio, (1, 1, 1))) for size in (sizes.low, sizes.usual, sizes.high)]
    channels = {program.input: program.input_channels, **{each.writes: each.channels for each in program.stages}}
    ranges: dict[str, list[Shape]] = {}
    for index, grid in enumerate(grids):
        reads = grid[stage.reads]
        after = [n * up // down for n, up, down in zip(reads, stage.up, stage.down, strict=True)]
        row = max(channels[stage.reads] * reads[0] * reads[1], stage.channels * after[0] * after[1] * stage.up[2])
        steps = 1 if index == 0 else max(1, min(reads[2], ELEMENTS // row - sum(stage.halo)) // stage.down[2])
        slab, rows = steps * stage.down[2], steps * stage.up[2]
        shapes = {"x": (1, slab + sum(stage.halo), reads[1], reads[0], channels[stage.reads])}
        if stage.norm is not None:
            shapes |= dict.fromkeys(("scale", "shift"), (1, 1, 1, 1, channels[stage.reads]))
        if stage.mask is not None:
            base = slab if stage.mask.grid == "input" else rows
            shapes["mask"] = (1, base + stage.mask.before + stage.mask.after, 1, 1, 1)
        if stage.adds is not None:
            shapes["residual"] = (1, rows, after[1], after[0], stage.channels)
        for name, shape in shapes.items():
            ranges.setdefault(name, []).append(shape)
    # Of smaller planes TensorRT can count more rows.
    return {name: Range(low, tuple(map(min, usual, high)), high) for name, (low, usual, high) in ranges.items()}


def _sizes(manifest: PlanManifest) -> _Extents:
    """What the plan's legal sizes reach from and to; a rule without an end ends at the sizes the manifest speaks of."""
    rule, usual = manifest.sizes.rule, manifest.sizes.default
    spoken = [usual, *(peak.size for peak in manifest.memory)]
    free = [(rule.multiple, *(size[axis] for size in spoken)) for axis in range(3)]
    x, y, z = (
        zip(*rule.legal, strict=True) if rule.legal else (rule.xy or free[0], rule.xy or free[1], rule.z or free[2])
    )
    return _Extents((min(x), min(y), min(z)), usual, (max(x), max(y), max(z)))


def _countable(size: Size3, per_voxel: int) -> Size3:
    """A size whose tensors have few enough elements: the longest axis is halved as often as needed."""
    extents = list(size)
    while per_voxel * math.prod(extents) > ELEMENTS and max(extents) > 1:
        longest = extents.index(max(extents))
        extents[longest] //= 2
    return extents[0], extents[1], extents[2]


def _units(size: Size3, ratio: Size3, factors: list[int] | Size3) -> Size3:
    x, y, z = (max(1, n // r // f) for n, r, f in zip(size, ratio, factors, strict=True))
    return x, y, z


def _elements_per_voxel(program: Program) -> int:
    """Elements of the largest tensor per voxel of the program's input."""
    grids = _grids(program, (64, 64, 64))
    return max(math.ceil(stage.channels * math.prod(grids[stage.writes]) / 64**3) for stage in program.stages)


def _grids(program: Program, size: Size3) -> dict[str, Size3]:
    """The extents (x, y, z) of every tensor of a program, given those of its input."""
    grids = {program.input: size}
    for stage in program.stages:
        x, y, z = (n * up // down for n, up, down in zip(grids[stage.reads], stage.up, stage.down, strict=True))
        grids[stage.writes] = (x, y, z - stage.skip)
    return grids


def _axis(text: str) -> Axis:
    factor, _, name = text.rpartition("*")
    return name.strip(), int(factor or 1)


def _filled(shape: tuple[Axis, ...], roots: Mapping[str, int]) -> Shape:
    return tuple(axis if isinstance(axis, int) else roots[axis[0]] * axis[1] for axis in shape)
