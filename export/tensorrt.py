"""Plans with TensorRT engines: built of a plan's ONNX graphs on the GPU that they are for, or taken from another plan.

An engine holds no weights unless it has to: those stay in the plan's ``model.bin`` and are put in when it is loaded. So
the plan still runs with its other backends, and engines go on with a checkpoint that was trained further.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ctfast import plan as plan_file
from ctfast.backends.tensorrt import gpu, gpu_problem
from ctfast.backends.tensorrt_api import load_api
from ctfast.backends.tensorrt_table import Table
from ctfast.errors import DeviceError, OutputError, PlanError, RequestError
from ctfast.export.build import Job
from ctfast.export.build import build as build_plan
from ctfast.export.build import prepare as prepare_plan
from ctfast.export.options import checked_output
from ctfast.export.scratch import folder_beside
from ctfast.export.sources import Weights
from ctfast.export.tensorrt_builder import HARDWARE, BuildSettings, EngineBuilder
from ctfast.export.tensorrt_fp8 import quantised
from ctfast.export.tensorrt_onnx import TypedGraph, typed_graph
from ctfast.export.tensorrt_profiles import axes_of, network_ranges, stage_ranges
from ctfast.io.atomic import OutputFiles
from ctfast.manifest import TensorRT
from ctfast.manifest_program import Stage, engine_section, onnx_section
from ctfast.memory import bytes_of
from ctfast.observer import Observer, Progress, observer_of, report
from ctfast.plan import Plan

PRECISIONS = ("fp32", "bf16", "fp16", "fp8")


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built.

    ``precision``: of all networks; None for each network's own, bf16 where TensorRT has no such. ``refit``: leave the
    weights in ``model.bin``. ``version_compatible`` (later versions of TensorRT can run it) and fp8 have them in the
    engine. ``hardware``: "none" (this GPU only), "same_compute_capability" or "ampere_plus". ``memory``: what TensorRT
    may take for scratch while it builds and runs, None for all. ``weight_streaming``: allow weights to stay with the
    host. ``timing_cache``: a file of measured kernels, which is made, and makes later builds short.
    """

    precision: str | None = None
    device: str = "cuda"
    refit: bool = True
    version_compatible: bool = False
    hardware: str = "none"
    memory: int | str | None = None
    weight_streaming: bool = False
    timing_cache: Path | None = None


def add_engines(
    plan: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: EngineOptions | None = None,
    observer: Progress | None = None,
) -> Path:
    """Write a plan that also has TensorRT engines of all networks and stages, built for the GPU of this machine.

    Args:
        plan: A plan with ONNX graphs.
        output: The plan to write, which may be the same file; it is there as a whole or not at all.
        options: How to build.
        observer: Called as observer(stage, done, total) at every step of TensorRT's; returning False cancels.

    Raises:
        RequestError: An option that there is not.
        PlanError: The plan has no ONNX graphs.
        DeviceError: No TensorRT, no GPU, or TensorRT cannot build an engine.
        OutputError, CancelledError: As for ``build``.
    """
    options = options or EngineOptions()
    settings = _checked(options)
    target, source = checked_output(output), Plan.open(plan)
    _check_graphs(source)
    _check_machine(options)
    api, (name, capability), watch = load_api(), gpu(options.device), observer_of(observer)
    graphs = list(_graphs(source))
    made: dict[str, TensorRT] = {}
    with folder_beside(target, "engines", "twice") as folder:
        cache = _cache_read(options.timing_cache)
        builder = EngineBuilder(api, options.device, settings, cache)
        sections: dict[str, Path | bytes] = {}
        for done, graph in enumerate(graphs):
            report(watch, f"build {graph.section}", done, len(graphs))
            precision = _precision(source, graph.network, options)
            built = TensorRT(
                api.__version__, name, capability, precision, options.hardware, options.version_compatible,
                _refit(options, precision),
            )  # fmt: skip
            path = folder / f"{done}.engine"
            table = _build_one(source, graph, built, builder, path, folder, watch)
            sections[graph.section], sections[f"{graph.section}.json"] = path, table.to_json()
            made[graph.network] = built
        _cache_write(options.timing_cache, builder.cache)
        report(watch, "write", len(graphs), len(graphs))
        _write(source, target, made, sections, folder)
    return target


def build(
    model: str | os.PathLike[str] | Mapping[str, Any],
    weights: Weights | None,
    output: str | os.PathLike[str],
    *,
    backend: str = "tensorrt",
    engine: EngineOptions | None = None,
    engines: str | os.PathLike[str] | None = None,
    observer: Progress | None = None,
    **options: Any,
) -> Path:
    """Make a plan with TensorRT engines.

    Args:
        model: As for ctfast.export.build; or a plan with ONNX graphs, and ``weights`` None.
        weights, output, observer: As for ctfast.export.build.
        backend: "tensorrt".
        engine: How to build the engines.
        engines: A plan whose engines are taken, as ``reuse_engines`` does; then none are built, and no GPU is needed.
        options: Further arguments of ctfast.export.build, such as ``precision``.

    Returns:
        ``output``.

    Raises:
        CtfastError: What ctfast.export.build, ``add_engines`` and ``reuse_engines`` raise.
    """
    target = checked_output(output)
    with folder_beside(target, "plan", "twice") as folder:
        base: str | os.PathLike[str]
        if weights is None and isinstance(model, (str, os.PathLike)):
            base = model
        else:
            if engines is None:
                _check_machine(engine or EngineOptions())
            base = build_plan(model, weights or {}, folder / target.name, observer=observer, **options)
        if engines is not None:
            return reuse_engines(base, engines, target)
        return add_engines(base, target, engine, observer)


def prepare(*arguments: Any, backend: str = "tensorrt", **options: Any) -> Job:
    """What ctfast.export.build.prepare tells of the plan that engines are built of."""
    return prepare_plan(*arguments, **options)


def reuse_engines(
    plan: str | os.PathLike[str],
    engines: str | os.PathLike[str],
    output: str | os.PathLike[str],
) -> Path:
    """Write a plan with the engines of another one, whose networks have the same shapes and other weights.

    No GPU and no TensorRT is needed: the weights are put into the engines when those are loaded.

    Args:
        plan: The plan with the weights, and with ONNX graphs.
        engines: The plan with the engines, which were built to be refitted.
        output: The plan to write.

    Raises:
        PlanError: A network differs in more than its weights, or its engines hold weights.
        OutputError: The plan cannot be written.
    """
    target, source, donor = checked_output(output), Plan.open(plan), Plan.open(engines)
    _check_graphs(source)
    made: dict[str, TensorRT] = {}
    sections: dict[str, Path | bytes] = {}
    for graph in _graphs(source):
        entry = donor.manifest.networks.get(graph.network)
        built = None if entry is None else entry.tensorrt
        if built is None or not built.refit:
            what = "holds its weights, which cannot be replaced" if built is not None else "is not there"
            raise PlanError(
                f"the engine of '{graph.network}' in '{donor.name}' {what}. Build engines of '{source.name}'"
            )
        found = Table.from_json(bytes(donor.section(f"{graph.section}.json")))
        typed = graph.typed(built.precision)
        if typed.digest != found.graph:
            raise PlanError(
                f"'{graph.section}' of '{donor.name}' was built of another graph than '{source.name}' has: the "
                "networks differ in more than their weights, or other versions of ctfast made them. Build engines of it"
            )
        table = Table(found.graph, found.axes, found.limits, typed.weights, typed.constants)
        sections[graph.section] = bytes(donor.section(graph.section))
        sections[f"{graph.section}.json"] = table.to_json()
        made[graph.network] = built
    with folder_beside(target, "engines", "twice") as folder:
        _write(source, target, made, sections, folder)
    return target


@dataclass(frozen=True)
class _Graph:
    """A graph of a plan that becomes an engine."""

    network: str
    stage: Stage | None
    section: str
    read: Callable[[], onnx.ModelProto]

    def typed(self, precision: str) -> TypedGraph:
        """The graph in the engine's precision; fp8 is put in later, into the float32 graph of a whole network."""
        return typed_graph(self.read(), {"fp8": "fp16" if self.stage else "fp32"}.get(precision, precision))


def _graphs(plan: Plan) -> Iterator[_Graph]:
    for name, network in plan.manifest.networks.items():
        for stage in (None, *(network.program.stages if network.program is not None else ())):
            section = onnx_section(name, stage.name if stage else None)

            def read(section: str = section) -> onnx.ModelProto:
                return onnx.load_from_string(bytes(plan.section(section)))

            yield _Graph(name, stage, engine_section(name, stage.name if stage else None), read)


def _build_one(
    plan: Plan, graph: _Graph, built: TensorRT, builder: EngineBuilder, path: Path, folder: Path, watch: Observer
) -> Table:
    """One engine in ``path``."""
    manifest, typed = plan.manifest, graph.typed(built.precision)
    program = manifest.networks[graph.network].program
    if graph.stage is None or program is None:
        axes = axes_of(typed.model.graph)
        ranges = network_ranges(manifest, graph.network, axes)
    else:
        axes, ranges = {}, stage_ranges(manifest, program, graph.stage)
    file = folder / "graph.onnx"
    typed.save(file, plan.section(f"{graph.network}/model.bin"))
    if built.precision == "fp8" and graph.stage is None:
        file = quantised(file, {name: each.usual for name, each in ranges.items()})
    builder.build(file, ranges, built.refit, path, graph.section, watch)
    for used in folder.glob("graph*"):
        used.unlink()
    limits = {name: (each.low, each.high) for name, each in ranges.items()}
    return Table(
        typed.digest, axes, limits, typed.weights if built.refit else {}, typed.constants if built.refit else {}
    )


def _checked(options: EngineOptions) -> BuildSettings:
    if options.precision not in (None, *PRECISIONS):
        raise RequestError(f"engine precision: expected {', '.join(PRECISIONS)}, found {options.precision!r}")
    if options.hardware not in HARDWARE:
        raise RequestError(f"hardware: expected {', '.join(HARDWARE)}, found {options.hardware!r}")
    if options.device == "auto" or not options.device.startswith("cuda"):
        raise RequestError(f"device: engines are built on 'cuda' or 'cuda:N', found {options.device!r}")
    memory = None if options.memory is None else bytes_of(options.memory)
    return BuildSettings(options.hardware, options.version_compatible, options.weight_streaming, memory)


def _check_machine(options: EngineOptions) -> None:
    reason = gpu_problem(options.device)
    if reason is not None:
        raise DeviceError(f"engines cannot be built here: {reason}")


def _check_graphs(plan: Plan) -> None:
    without = [name for name, network in plan.manifest.networks.items() if network.onnx is None]
    if without:
        raise PlanError(
            f"plan '{plan.name}' has no ONNX graph of {', '.join(without)}, of which engines are made: it was built by "
            "an older ctfast. Build the plan again with: ctfast build"
        )


def _precision(plan: Plan, network: str, options: EngineOptions) -> str:
    own = plan.manifest.networks[network].precision
    return options.precision or (own if own in PRECISIONS else "bf16")


def _refit(options: EngineOptions, precision: str) -> bool:
    """The lean runtime that version-compatible engines bring cannot refit, and fp8 weights are not those of a plan."""
    return options.refit and not options.version_compatible and precision != "fp8"


def _write(
    source: Plan, target: Path, made: Mapping[str, TensorRT], sections: Mapping[str, Path | bytes], folder: Path
) -> None:
    """The plan as it was, but for its engines."""
    manifest = source.manifest.to_json()
    for name, built in made.items():
        manifest["networks"][name]["tensorrt"] = asdict(built)
    kept: dict[str, bytes | memoryview | Path] = {
        each.name: source.section(each.name)
        for each in source.sections
        if not each.name.endswith((".engine", ".engine.json"))
    }
    plan_file.write(target, manifest, {**kept, **sections}, scratch=folder)


def _cache_read(path: Path | None) -> bytes:
    if path is None or not path.exists():
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OutputError(f"the timing cache '{path}' cannot be read: {error.strerror or error}") from error


def _cache_write(path: Path | None, data: bytes) -> None:
    """As a whole or not at all; two builds may share the file."""
    if path is None:
        return
    with OutputFiles() as files:
        files.add(path, lambda file: file.write(data))
