"""Manifest to and from JSON; the dataclasses are in manifest.py, every key is described in docs/plan_format.md."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import PlanError
from .json_fields import Fields, is_whole, shown
from .manifest import (
    FORMAT,
    Build,
    Conditioning,
    FieldOfView,
    Footprint,
    Intensity,
    Labels,
    Latent,
    Licence,
    MemoryPeak,
    Modality,
    Network,
    Onnx,
    PlanManifest,
    Schedule,
    Size3,
    SizeRule,
    Sizes,
    SpacingRange,
    TensorEntry,
    TensorRT,
    WeightsSource,
)
from .manifest_checks import BACKEND_SECTIONS, TENSOR_BYTES, contradictions
from .manifest_program import read_program
from .time_grids import TIME_GRIDS, read_tuned

_SOLVERS = {"rflow": ("euler", "heun", "ab2", "dpmpp_2m", "unipc"), "ddpm": ("ddpm", "ddim")}


def read(source: str | bytes | Mapping[str, Any], *, strict: bool) -> PlanManifest:
    """The manifest in ``source``; PlanError lists every problem at once. ``strict``: unknown keys are problems too."""
    value = source if isinstance(source, Mapping) else _parse(source)
    found = value.get("format") if isinstance(value, Mapping) else None
    if isinstance(found, int) and found > FORMAT:
        raise PlanError(
            f"the manifest was made for a newer ctfast: it has format {found}, and this ctfast reads up to {FORMAT}. "
            "Upgrade with: pip install -U ctfast"
        )
    problems: list[str] = []
    manifest = _manifest(Fields(value, "", problems, strict=strict))
    if not problems:
        problems = contradictions(manifest)
    if problems:
        plural = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        remedy = "Correct what is given to plan.write()" if strict else "Build the plan again with: ctfast build"
        raise PlanError(f"the manifest has {plural}: {'; '.join(problems)}. {remedy}")
    return manifest


def write(manifest: PlanManifest) -> dict[str, Any]:
    """The manifest as JSON-ready objects; optional keys that are not set are left out."""
    value = _plain(manifest)
    assert isinstance(value, dict)
    return {"format": value.pop("format"), **value}


def _plain(value: Any) -> Any:
    if isinstance(value, Licence):
        return {"class": value.kind, "text": value.text}
    if isinstance(value, Labels):
        plain = {"names": _plain(value.names), "bits": value.bits, "body": value.body}
        if value.tumour_replacement:
            plain["tumour_replacement"] = {
                str(label): among[0] if len(among) == 1 else list(among)
                for label, among in value.tumour_replacement.items()
            }
        return plain
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) is not None or field.default is not None
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _parse(text: str | bytes) -> object:
    def no_constant(name: str) -> float:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the manifest is not valid JSON ({error}). Build the plan again with: ctfast build") from None


def _manifest(fields: Fields) -> PlanManifest:
    manifest = PlanManifest(
        format=fields.whole("format", 1),
        name=fields.text("name"),
        family=fields.text("family"),
        variant=fields.text("variant"),
        revision=fields.text("revision"),
        modality=_modality(fields.child("modality")),
        networks={name: _network(child) for name, child in fields.children("networks")},
        latent=_latent(fields.child("latent")),
        intensity=_intensity(fields.child("intensity")),
        sizes=_sizes(fields.child("sizes")),
        schedule=_schedule(fields.child("schedule")),
        conditioning=_conditioning(fields.child("conditioning")),
        target=fields.mapping("target"),
        memory=tuple(_memory(item) for item in fields.items("memory")),
        weights=tuple(_weights(item) for item in fields.items("weights")),
        licence=_licence(fields.child("licence")),
        build=_build(fields.child("build")),
        labels=_labels(fields.child("labels")) if fields.has("labels") else None,
        data=fields.mapping("data") if fields.has("data") else None,
        model_card=fields.text("model_card", empty=True) if fields.has("model_card") else None,
    )
    fields.finish()
    return manifest


def _modality(fields: Fields) -> Modality:
    names = fields.mapping("names")
    for name, code in names.items():
        if not is_whole(code) or code < 0:
            fields.note(f"names.{name}", f"expected a whole number of at least 0, found {shown(code)}")
    result = Modality(default=fields.whole("default", 0) if fields.has("default") else None, names=names)
    fields.finish()
    return result


def _network(fields: Fields) -> Network:
    result = Network(
        backend=fields.text("backend", tuple(BACKEND_SECTIONS)),
        precision=fields.text("precision", ("bf16", "fp16", "fp32", "int8")),
        weights_dtype=fields.text("weights_dtype", ("float16", "float32", "int8")),
        inputs=fields.texts("inputs", at_least=1),
        outputs=fields.texts("outputs", at_least=1),
        drop_if_unused=fields.texts("drop_if_unused") if fields.has("drop_if_unused") else (),
        tensors={key: _tensor(item) for key, item in fields.children("tensors")} if fields.has("tensors") else {},
        footprint=_footprint(fields.child("footprint")) if fields.has("footprint") else None,
        program=read_program(fields.child("program")) if fields.has("program") else None,
        onnx=_onnx(fields.child("onnx")) if fields.has("onnx") else None,
        tensorrt=_tensorrt(fields.child("tensorrt")) if fields.has("tensorrt") else None,
    )
    fields.finish()
    return result


def _onnx(fields: Fields) -> Onnx:
    result = Onnx(opset=fields.whole("opset", 1), nodes=fields.whole("nodes", 1))
    fields.finish()
    return result


def _tensorrt(fields: Fields) -> TensorRT:
    result = TensorRT(
        version=fields.text("version"),
        device=fields.text("device"),
        compute_capability=fields.text("compute_capability"),
        precision=fields.text("precision", ("fp32", "bf16", "fp16", "fp8")),
        hardware=fields.text("hardware", ("none", "same_compute_capability", "ampere_plus")),
        version_compatible=fields.flag("version_compatible"),
        refit=fields.flag("refit"),
    )
    fields.finish()
    return result


def _footprint(fields: Fields) -> Footprint:
    result = Footprint(
        loaded_bytes=fields.whole("loaded_bytes", 0), bytes_per_voxel=fields.number("bytes_per_voxel", positive=True)
    )
    fields.finish()
    return result


def _tensor(fields: Fields) -> TensorEntry:
    result = TensorEntry(
        offset=fields.whole("offset", 0),
        shape=fields.wholes("shape", 0),
        dtype=fields.text("dtype", tuple(TENSOR_BYTES)),
        transposed=fields.flag("transposed") if fields.has("transposed") else False,
    )
    if result.transposed and len(result.shape) != 2:
        fields.note("transposed", f"only a tensor of 2 axes can be, and this one has {len(result.shape)}")
    fields.finish()
    return result


def _latent(fields: Fields) -> Latent:
    result = Latent(
        channels=fields.whole("channels", 1),
        compression=fields.triple("compression"),
        scale_factor=fields.number("scale_factor", positive=True),
    )
    fields.finish()
    return result


def _intensity(fields: Fields) -> Intensity:
    result = Intensity(
        kind=fields.text("kind", ("ct", "mr")),
        unit=fields.text("unit"),
        scale=fields.number("scale", positive=True),
        offset=fields.number("offset"),
        low=fields.number("low") if fields.has("low") else None,
        high=fields.number("high") if fields.has("high") else None,
        air=fields.number("air"),
    )
    fields.finish()
    return result


def _sizes(fields: Fields) -> Sizes:
    result = Sizes(
        default=fields.triple("default"),
        rule=_rule(fields.child("rule")),
        spacing=_spacing(fields.child("spacing")),
        fov=_fov(fields.child("fov")) if fields.has("fov") else None,
    )
    fields.finish()
    return result


def _rule(fields: Fields) -> SizeRule:
    legal: list[Size3] = []
    for size in fields.values("legal") if fields.has("legal") else ():
        if isinstance(size, (list, tuple)) and len(size) == 3 and all(is_whole(v) and v > 0 for v in size):
            legal.append((size[0], size[1], size[2]))
        else:
            fields.note("legal", f"expected 3 positive whole numbers for each size, found {shown(size)}")
    result = SizeRule(
        legal=tuple(legal),
        xy=fields.wholes("xy", 1) if fields.has("xy") else (),
        z=fields.wholes("z", 1) if fields.has("z") else (),
        multiple=fields.whole("multiple", 1) if fields.has("multiple") else 1,
    )
    fields.finish()
    return result


def _spacing(fields: Fields) -> SpacingRange:
    result = SpacingRange(
        default=fields.positive_triple("default"),
        low=fields.positive_triple("low"),
        high=fields.positive_triple("high"),
    )
    fields.finish()
    return result


def _fov(fields: Fields) -> FieldOfView:
    result = FieldOfView(low=fields.positive_triple("low"), high=fields.positive_triple("high"))
    fields.finish()
    return result


def _labels(fields: Fields) -> Labels:
    names: dict[int, str] = {}
    for key, name in fields.mapping("names").items():
        if not isinstance(name, str) or not name.strip():
            fields.note(f"names.{key}", f"expected a string that is not blank, found {shown(name)}")
        names[_label(fields, "names", key)] = name
    replacement: dict[int, tuple[int, ...]] = {}
    for key, among in fields.mapping("tumour_replacement").items() if fields.has("tumour_replacement") else ():
        choices = tuple(among) if isinstance(among, (list, tuple)) else (among,)
        if not choices or not all(is_whole(choice) and choice >= 0 for choice in choices):
            fields.note(f"tumour_replacement.{key}", f"expected a label or a list of labels, found {shown(among)}")
        replacement[_label(fields, "tumour_replacement", key)] = choices
    bits = fields.whole("bits", 1)
    if bits > 16:
        fields.note("bits", f"expected at most 16, since labels are uint16, found {bits}")
    result = Labels(
        names=names,
        bits=bits,
        body=fields.whole("body", 1) if fields.has("body") else None,
        tumour_replacement=replacement,
    )
    fields.finish()
    return result


def _label(fields: Fields, key: str, label: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,4}|0", label):
        return int(label)
    fields.note(key, f"expected labels as whole numbers in quotes, found {shown(label)}")
    return 0


def _schedule(fields: Fields) -> Schedule:
    kind = fields.text("kind", tuple(_SOLVERS))
    train_steps = fields.whole("train_steps", 1)
    result = Schedule(
        kind=kind,
        train_steps=train_steps,
        base_voxels=fields.whole("base_voxels", 1),
        transform=fields.flag("transform"),
        steps=fields.whole("steps", 1),
        solver=fields.text("solver", _SOLVERS.get(kind, ())),
        time_grid=fields.text("time_grid", TIME_GRIDS),
        beta_start=fields.number("beta_start", positive=True) if fields.has("beta_start") or kind == "ddpm" else None,
        beta_end=fields.number("beta_end", positive=True) if fields.has("beta_end") or kind == "ddpm" else None,
        tuned=read_tuned(fields.child("tuned"), _SOLVERS["rflow"], train_steps) if fields.has("tuned") else None,
    )
    fields.finish()
    return result


def _conditioning(fields: Fields) -> Conditioning:
    result = Conditioning(
        spacing=fields.flag("spacing"),
        region=fields.flag("region"),
        class_label=fields.flag("class_label"),
        controlnet=fields.flag("controlnet"),
    )
    fields.finish()
    return result


def _memory(fields: Fields) -> MemoryPeak:
    result = MemoryPeak(size=fields.triple("size"), peak_bytes=fields.whole("peak_bytes", 1))
    fields.finish()
    return result


def _weights(fields: Fields) -> WeightsSource:
    result = WeightsSource(
        network=fields.text("network"),
        source=fields.text("source"),
        sha256=fields.text("sha256"),
        licence=fields.text("licence"),
    )
    if result.sha256 and not re.fullmatch(r"[0-9a-f]{64}", result.sha256):
        fields.note("sha256", f"expected 64 hexadecimal digits, found {shown(result.sha256)}")
    fields.finish()
    return result


def _licence(fields: Fields) -> Licence:
    result = Licence(kind=fields.text("class"), text=fields.text("text"))
    fields.finish()
    return result


def _build(fields: Fields) -> Build:
    versions = fields.mapping("versions")
    for name, version in versions.items():
        if not isinstance(version, str):
            fields.note(f"versions.{name}", f"expected a string, found {shown(version)}")
    result = Build(
        command=fields.text("command"), ctfast=fields.text("ctfast"), date=fields.text("date"), versions=versions
    )
    fields.finish()
    return result
