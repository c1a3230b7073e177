"""Checks of a manifest as a whole: keys that contradict each other, and sections that its networks need."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from .manifest import Network, PlanManifest, Sizes
from .manifest_program import engine_section, onnx_section, program_problems, stage_section
from .time_grids import time_grid_problems

# The files of a network, as sections `<network>/<file>`, by backend. The last one holds the weights.
BACKEND_SECTIONS: Mapping[str, tuple[str, ...]] = {"openvino": ("model.xml", "model.bin")}

# Bytes of one element of each type a tensor entry may have.
TENSOR_BYTES: Mapping[str, int] = {"float16": 2, "float32": 4, "int64": 8}


def contradictions(manifest: PlanManifest) -> list[str]:
    """Every problem of a manifest whose keys are each of the right type."""
    return [
        *_networks(manifest),
        *_sizes(manifest.sizes, manifest.latent.compression),
        *_labels(manifest),
        *_sampling(manifest),
        *time_grid_problems(manifest.schedule, manifest.format),
    ]


def problems_with_sections(manifest: PlanManifest, lengths: Mapping[str, int]) -> list[str]:
    """What the plan's sections (name and length in bytes) lack for the manifest's networks."""
    problems = []
    for name, network in manifest.networks.items():
        sections = [f"{name}/{file}" for file in BACKEND_SECTIONS[network.backend]]
        stages = network.program.stages if network.program is not None else ()
        needed = [*sections, *(stage_section(name, stage.name) for stage in stages)]
        if network.onnx is not None:
            needed += [onnx_section(name), *(onnx_section(name, stage.name) for stage in stages)]
        if network.tensorrt is not None:
            engines = [engine_section(name), *(engine_section(name, stage.name) for stage in stages)]
            needed += [section for engine in engines for section in (engine, f"{engine}.json")]
        missing = [section for section in needed if section not in lengths]
        problems += [f"network '{name}' needs the section '{section}', and there is none" for section in missing]
        if sections[-1] not in missing:
            problems += _tensors_outside(name, network, sections[-1], lengths[sections[-1]])
    return problems


def _tensors_outside(name: str, network: Network, section: str, length: int) -> Iterator[str]:
    for key, tensor in network.tensors.items():
        end = tensor.offset + math.prod(tensor.shape) * TENSOR_BYTES[tensor.dtype]
        if end > length:
            yield (
                f"tensor '{key}' of network '{name}' ends at byte {end} of section '{section}', "
                f"which has {length} bytes"
            )


def _networks(manifest: PlanManifest) -> Iterator[str]:
    if not manifest.networks:
        yield "networks: expected at least one, found none"
    for name, network in manifest.networks.items():
        if not re.fullmatch(r"[a-z0-9_]{1,64}", name):
            yield f"networks.{name}: expected a name of a-z, 0-9 and _, as it begins the names of sections"
        unknown = [dropped for dropped in network.drop_if_unused if dropped not in network.inputs]
        if unknown:
            yield f"networks.{name}.drop_if_unused: not among the inputs: {', '.join(unknown)}"
        if network.program is not None:
            shapes = {key: tensor.shape for key, tensor in network.tensors.items()}
            found = program_problems(network.program, network.inputs, shapes)
            yield from (f"networks.{name}.program.{problem}" for problem in found)
    if manifest.conditioning.controlnet:
        absent = [name for name in ("controlnet", "controlnet_condition") if name not in manifest.networks]
        if absent:
            yield f"conditioning.controlnet: is true, but networks has no {' and no '.join(absent)}"
        if manifest.labels is None:
            yield "conditioning.controlnet: is true, but labels is missing"


def _sizes(sizes: Sizes, compression: tuple[int, int, int]) -> Iterator[str]:
    rule = sizes.rule
    if rule.legal and (rule.xy or rule.z):
        yield "sizes.rule: expected either legal or xy and z, found both"
    for axis, factor, values in zip("xyz", compression, _listed(sizes), strict=True):
        bad = sorted({n for n in values if n % rule.multiple or n % factor})
        if bad:
            yield (
                f"sizes: {axis} = {', '.join(map(str, bad))} is not a multiple of both sizes.rule.multiple "
                f"({rule.multiple}) and latent.compression ({factor})"
            )
        elif not values and rule.multiple % factor:
            yield f"sizes.rule.multiple: {rule.multiple} is not a multiple of latent.compression ({factor}, {axis})"
    if not rule.allows(sizes.default):
        yield f"sizes.default: {list(sizes.default)} is not legal by sizes.rule, which says {rule.describe()}"
    ranges = {"spacing": sizes.spacing, "fov": sizes.fov}
    for key, limits in ranges.items():
        if limits is not None and any(a > b for a, b in zip(limits.low, limits.high, strict=True)):
            yield f"sizes.{key}: low {list(limits.low)} is above high {list(limits.high)}"
    if not sizes.spacing.allows(sizes.spacing.default):
        yield f"sizes.spacing.default: {list(sizes.spacing.default)} is not within {sizes.spacing.describe()}"


def _listed(sizes: Sizes) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The extents that the rule lists, per axis; empty where every multiple is legal."""
    if sizes.rule.legal:
        x, y, z = zip(*sizes.rule.legal, strict=True)
        return x, y, z
    return sizes.rule.xy, sizes.rule.xy, sizes.rule.z


def _labels(manifest: PlanManifest) -> Iterator[str]:
    labels = manifest.labels
    if labels is None:
        return
    limit = 2**labels.bits
    mentioned = {*labels.names, *labels.tumour_replacement, *([] if labels.body is None else [labels.body])}
    mentioned.update(label for among in labels.tumour_replacement.values() for label in among)
    too_large = sorted(label for label in mentioned if label >= limit)
    if too_large:
        yield f"labels: {', '.join(map(str, too_large))} cannot be written with labels.bits = {labels.bits}"
    if 0 in labels.names:
        yield "labels.names: 0 is the background and has no name"


def _sampling(manifest: PlanManifest) -> Iterator[str]:
    schedule, modality, intensity = manifest.schedule, manifest.modality, manifest.intensity
    if schedule.steps > schedule.train_steps:
        yield f"schedule.steps: {schedule.steps} is above schedule.train_steps = {schedule.train_steps}"
    start, end = schedule.beta_start, schedule.beta_end
    if start is not None and end is not None and not start < end < 1:
        yield f"schedule: expected beta_start < beta_end < 1, found {start} and {end}"
    if modality.default is not None and modality.default not in modality.names.values():
        yield f"modality.default: {modality.default} is not among the codes in modality.names"
    if manifest.conditioning.class_label and modality.default is None:
        yield "modality.default: is missing, but conditioning.class_label is true"
    if intensity.low is not None and intensity.high is not None and intensity.low >= intensity.high:
        yield f"intensity: low {intensity.low} is not below high {intensity.high}"
