"""What ``ctfast info`` tells about a plan, as JSON-ready objects and as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import RequestError
from .memory import bytes_of, free_bytes, text_of

if TYPE_CHECKING:
    from .manifest import Network, Size3
    from .plan import Plan

_WIDTH = 100
_INDENT = 16
_LINE = "  {:<12}{:>12}{:>8}{:>12}{:>6}"
_HEAD = _LINE.format("strategy", "peak", "work", "spilled", "fits")


def summary(plan: Plan) -> dict[str, Any]:
    """The manifest without its tables of tensors and stages, with each network's bytes and the file's own figures."""
    value = plan.manifest.to_json()
    lengths = {section.name: section.length for section in plan.sections}
    for name, network in value["networks"].items():
        del network["tensors"]
        network["stages"] = len((network.pop("program", None) or {}).get("stages", []))
        network["bytes"] = sum(length for section, length in lengths.items() if section.startswith(f"{name}/"))
    return {
        "path": plan.name,
        "bytes": plan.file_size,
        "identity": plan.identity,
        **value,
        "sections": [
            {"name": section.name, "bytes": section.length, "sha256": section.sha256} for section in plan.sections
        ],
    }


def describe(plan: Plan) -> str:
    """A page of text for people and bug reports; one line or paragraph per subject, no line break at the end."""
    manifest = plan.manifest
    sizes, schedule, build = manifest.sizes, manifest.schedule, manifest.build
    networks = summary(plan)["networks"]
    rows: list[tuple[str, Sequence[str]]] = [
        ("plan", [f"{manifest.name}, revision {manifest.revision} ({manifest.family}, {manifest.variant})"]),
        ("file", [f"{plan.name}, {_size(plan.file_size)}", f"identity {plan.identity}"]),
        (
            "networks",
            [
                f"{name}: {network.backend}, {network.precision}, weights {network.weights_dtype}, "
                f"{_size(networks[name]['bytes'])}{_stages(network)}"
                for name, network in manifest.networks.items()
            ],
        ),
        ("size", [f"default {_by(sizes.default)} voxels; legal: {sizes.rule.describe()}"]),
        ("spacing", [f"default {_by(sizes.spacing.default)} mm; legal: {sizes.spacing.describe()}"]),
    ]
    if sizes.fov is not None:
        rows.append(("field of view", [f"trained on {_by(sizes.fov.low)} to {_by(sizes.fov.high)} mm"]))
    rows.append(("intensity", [_intensity(plan)]))
    if manifest.modality.names:
        names = ", ".join(
            f"{code} {name}{' (default)' if code == manifest.modality.default else ''}"
            for name, code in manifest.modality.names.items()
        )
        rows.append(("modality", [names]))
    if manifest.labels is not None:
        rows.append(("labels", [", ".join(f"{label} {name}" for label, name in manifest.labels.names.items())]))
    conditions = [key.replace("_", " ") for key, given in vars(manifest.conditioning).items() if given]
    rows += [
        ("conditioning", [", ".join(conditions) or "none"]),
        (
            "schedule",
            [f"{schedule.kind}; default {schedule.steps} steps of {schedule.solver}, time grid {schedule.time_grid}"],
        ),
        ("memory", [f"{_by(peak.size)}: {_size(peak.peak_bytes)}" for peak in manifest.memory] or ["not predicted"]),
        (
            "weights",
            [f"{item.network}: {item.source}, {item.licence}, sha256 {item.sha256}" for item in manifest.weights],
        ),
        ("licence", [f"{manifest.licence.kind}: {manifest.licence.text}"]),
    ]
    if manifest.data is not None:
        rows.append(("data", [f"{key}: {value}" for key, value in manifest.data.items()]))
    rows.append(("built", [f"{build.date}, ctfast {build.ctfast}", build.command]))
    return "\n".join(_row(label, items) for label, items in rows)


def describe_backends(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which backends can run the plan on this machine, as lines that follow those of ``describe``."""
    said = [f"{row['name']}: {'usable' if row['usable'] else 'not usable: ' + row['reason']}" for row in rows]
    return _row("backends", said)


def decoding(plan: Plan, size: Sequence[int] | None, memory: int | str | None) -> dict[str, Any]:
    """How a volume of ``size`` (None: the default) would be decoded within ``memory`` (None: what is free), JSON-ready.

    Any size that the decoder can give is planned for, whether the plan generates it or not. "chosen" is the name of one
    of "strategies", or None where none fits. RequestError: sizes that the decoder cannot give, memory that is none.
    """
    from .decoding import Routes, quickest
    from .io.intensities import vae_size_problem

    manifest = plan.manifest
    image = _size3(manifest.sizes.default if size is None else size)
    problem = vae_size_problem(image, manifest)
    if problem is not None:
        raise RequestError(problem)
    budget = free_bytes() if memory is None else bytes_of(memory)
    native: Any = import_module("ctfast._native")
    wanted = manifest.networks["vae_decoder"].precision if "vae_decoder" in manifest.networks else "fp32"
    precision = wanted if native.build_info()["cpu"].get(wanted) else "fp32"
    x, y, z = (count // factor for count, factor in zip(image, manifest.latent.compression, strict=True))
    element_bytes = 2 if precision == "bf16" else 4  # float16 is not what stages exchange
    routes = Routes(native, plan, "vae_decoder", precision, element_bytes).all((x, y, z), budget)
    chosen = quickest(routes)
    return {
        "size": list(image),
        "precision": precision,
        "memory_bytes": budget,
        "strategies": [route.as_dict() for route in routes],
        "chosen": None if chosen is None else chosen.name,
    }


def describe_decoding(table: dict[str, Any]) -> str:
    """The same as lines of text."""
    budget = table["memory_bytes"]
    within = "any amount of memory" if budget is None else f"{text_of(budget)} of memory beyond the networks"
    lines = [f"decoding {_by(table['size'])} voxels in {table['precision']} within {within}:", _HEAD]
    for row in table["strategies"]:
        peak = "unknown" if row["peak_bytes"] is None else text_of(row["peak_bytes"])
        fits = "?" if row["peak_bytes"] is None else "yes" if row["fits"] else "no"
        mark = "  chosen" if row["name"] == table["chosen"] else ""
        lines.append(_LINE.format(row["name"], peak, f"{row['work']:.2f}", text_of(row["spilled_bytes"]), fits) + mark)
    if table["chosen"] is None:
        lines.append("none fits")
    return "\n".join(lines)


def _size3(size: Sequence[int]) -> Size3:
    x, y, z = size
    return x, y, z


def _row(label: str, items: Sequence[str]) -> str:
    lines: list[str] = []
    for item in items:
        lines += textwrap.wrap(item, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(f"{label if i == 0 else '':<{_INDENT}}{line}".rstrip() for i, line in enumerate(lines))


def _stages(network: Network) -> str:
    return "" if network.program is None else f", also in {len(network.program.stages)} stages"


def _intensity(plan: Plan) -> str:
    intensity = plan.manifest.intensity
    low = "unlimited" if intensity.low is None else f"{intensity.low:g}"
    high = "unlimited" if intensity.high is None else f"{intensity.high:g}"
    return f"{intensity.kind}, {low} to {high} {intensity.unit}"


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _size(count: int) -> str:
    """Bytes in decimal units, as file managers and the size limits in the documents count them."""
    if count < 1000:
        return f"{count} bytes"
    if count < 10**6:
        return f"{count / 10**3:.1f} kB"
    return f"{count / 10**6:.1f} MB" if count < 10**9 else f"{count / 10**9:.2f} GB"
