"""Checkpoints to plans: load each network, export it, convert it, and write them all into one file."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openvino as ov
from torch import nn

from ctfast import plan as plan_file
from ctfast.errors import RequestError
from ctfast.export.cache import Part
from ctfast.export.constants import Constants
from ctfast.export.describe import Shapes, completed, described, with_networks
from ctfast.export.memory import footprint, predict
from ctfast.export.onnx import OPSET, onnx_model, save_onnx
from ctfast.export.onnx_weights import save_over_weights
from ctfast.export.openvino import convert
from ctfast.export.options import Options, checked_options, checked_output
from ctfast.export.outline import Outline, outline
from ctfast.export.quantize import quantized
from ctfast.export.scratch import folder_beside
from ctfast.export.shared_graphs import SharedWeights
from ctfast.export.sources import Model, Weights, resolve
from ctfast.export.stages import write_stages
from ctfast.export.tensors import fingerprints, locate
from ctfast.export.wrappers import GRAPHS, Graph, graphs
from ctfast.manifest import Onnx, PlanManifest
from ctfast.networks import AutoencoderKL, ControlNet, DenoiserUNet
from ctfast.observer import Observer, Progress, observer_of, report

_log = logging.getLogger(__name__)

#: Makes a network: its role in, the loaded module out.
Loader = Callable[[str], nn.Module]


def build(
    variant_or_config: str | os.PathLike[str] | Mapping[str, Any],
    weights: Weights,
    output: str | os.PathLike[str],
    backend: str = "openvino",
    precision: str = "bf16",
    name: str | None = None,
    observer: Progress | None = None,
    keep_onnx: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    *,
    networks: Collection[str] | None = None,
    weights_dtype: str | None = None,
    command: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    opset: int = OPSET,
    calibration: int | None = None,
) -> Path:
    """Make a plan from checkpoints.

    Args:
        variant_or_config: Name of a published variant or a description; see ctfast.export.sources.resolve.
        weights: Folder in one of the official layouts, or files by role.
        output: The plan. It is there as a whole or not at all.
        backend: "openvino".
        precision: What the plan's networks run in where the processor can: "bf16", "fp16" or "fp32"; with "int8" those
            that are called in every step are quantised (needs ``ctfast[int8]``) and the others run in bf16.
        name: The plan's name; the variant's unless given.
        observer: Called as observer(stage, done, total); returning False cancels.
        keep_onnx: Folder for ONNX files of the networks, with their weights, for use outside of ctfast.
        dry_run: Check files, weights and description, and write nothing.
        networks: Roles to include; None for all whose files are there.
        weights_dtype: "float16" or "float32"; by default float16 for bf16, float32 for fp32.
        command: What the manifest says the plan was made with.
        cache: Folder of networks that were exported before, to which this build's are added; see ctfast.export.cache.
        opset: Of all ONNX graphs: 20, or 23, in which norms and attention are single operators.
        calibration: How many calls of each network int8 is calibrated on; None for ctfast.export.options.CALIBRATION.

    Returns:
        ``output``.

    Raises:
        RequestError: Unknown variant, backend, precision, opset or network, or a description that cannot be used.
        CheckpointError: Files are missing or do not fit the networks.
        OutputError: The plan cannot be written.
        CancelledError: ``observer`` asked to stop.
    """
    job = prepare(
        variant_or_config,
        weights,
        output,
        backend,
        precision,
        name,
        keep_onnx,
        networks=networks,
        weights_dtype=weights_dtype,
        command=command,
        cache=cache,
        opset=opset,
        calibration=calibration,
    )
    if dry_run:
        job.outline(observer)
        return job.target
    watch = observer_of(observer)
    model = job.model
    scale_factor = model.scale_factor("mask_denoiser") if "mask_denoiser" in model.files else 1.0
    _write(job.target, job.manifest, tuple(model.files), model.load, job.shapes, job.options, watch, scale_factor)
    return job.target


@dataclass(frozen=True)
class Job:
    """A build whose request is in order: what is made from what, and where."""

    model: Model
    shapes: Shapes
    manifest: Mapping[str, Any]
    options: Options
    target: Path

    def outline(self, observer: Progress | None = None) -> Outline:
        """What the build would do; every network is loaded once, so that files that do not fit are told."""
        return outline(self.model, self.options, observer_of(observer))

    def files(self) -> dict[str, dict[str, Any]]:
        """File, checksum and number of parameters of each network, by role."""
        return {
            role: {
                "file": str(path),
                "sha256": self.model.checksums[role],
                "parameters": sum(tensor.numel() for tensor in self.model.checkpoints[role].state_dict.values()),
            }
            for role, path in self.model.files.items()
        }


def prepare(
    variant_or_config: str | os.PathLike[str] | Mapping[str, Any],
    weights: Weights,
    output: str | os.PathLike[str],
    backend: str = "openvino",
    precision: str = "bf16",
    name: str | None = None,
    keep_onnx: str | os.PathLike[str] | None = None,
    *,
    networks: Collection[str] | None = None,
    weights_dtype: str | None = None,
    command: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    opset: int = OPSET,
    calibration: int | None = None,
) -> Job:
    """Everything of ``build`` up to loading the first network; it takes the same arguments and raises the same."""
    options = checked_options(backend, precision, weights_dtype, keep_onnx, cache, opset, calibration)
    target = checked_output(output)
    model = resolve(variant_or_config, weights, networks)
    if command is None:
        command = f"ctfast.build({model.variant.name!r}, output={target.name!r}, precision={precision!r})"
    control = model.networks.controlnet if "controlnet" in model.files else None
    shapes = Shapes(model.networks.autoencoder, model.networks.denoiser, control.label_bits if control else 0)
    manifest = completed(described(model, name), shapes, command)
    _check_manifest(manifest, tuple(model.files))
    return Job(model, shapes, manifest, options, target)


def build_from_modules(
    modules: Mapping[str, nn.Module | Callable[[], nn.Module]],
    description: Mapping[str, Any],
    output: str | os.PathLike[str],
    *,
    precision: str = "bf16",
    weights_dtype: str | None = None,
    observer: Progress | None = None,
    keep_onnx: str | os.PathLike[str] | None = None,
    command: str = "ctfast.export.build_from_modules",
    mask_scale_factor: float = 1.0,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """Make a plan from networks in memory.

    Args:
        modules: Networks by role ("autoencoder", "denoiser", "controlnet", "mask_autoencoder", "mask_denoiser"), or
            functions that load one; the latter are called one at a time, and again for what the manifest needs.
        description: The manifest's keys in JSON form, without those in ctfast.export.describe.BUILT_KEYS, and with
            ``scale_factor``: name, family, variant, revision, modality, intensity, sizes, schedule, weights, licence,
            and labels, data and model_card if there are any.
        output, precision, weights_dtype, observer, keep_onnx, command, cache: As for ``build``.
        mask_scale_factor: What mask latents were multiplied by in training.

    Raises:
        RequestError, PlanError: The description cannot be used.
        OutputError, CancelledError: As for ``build``.
    """
    options = checked_options("openvino", precision, weights_dtype, keep_onnx, cache)
    target = checked_output(output)
    unknown = [role for role in modules if role not in GRAPHS]
    missing = [role for role in ("autoencoder", "denoiser") if role not in modules]
    if unknown or missing:
        raise RequestError(
            f"modules: expected at least autoencoder and denoiser, all of {', '.join(GRAPHS)}; "
            f"found {', '.join(modules) or 'none'}"
        )

    def load(role: str) -> nn.Module:
        module = modules[role]
        return module if isinstance(module, nn.Module) else module()

    autoencoder, denoiser = load("autoencoder"), load("denoiser")
    control = load("controlnet") if "controlnet" in modules else None
    if not isinstance(autoencoder, AutoencoderKL) or not isinstance(denoiser, DenoiserUNet):
        raise RequestError("modules: autoencoder must be an AutoencoderKL and denoiser a DenoiserUNet")
    bits = control.label_bits if isinstance(control, ControlNet) else 0
    shapes = Shapes(autoencoder.config, denoiser.config, bits)
    del autoencoder, denoiser, control
    manifest = completed(description, shapes, command)
    roles = tuple(role for role in GRAPHS if role in modules)
    _check_manifest(manifest, roles)
    _write(target, manifest, roles, load, shapes, options, observer_of(observer), mask_scale_factor)
    return target


def _check_manifest(manifest: Mapping[str, Any], roles: tuple[str, ...]) -> None:
    """Refuse a bad description before the long part, with stand-ins for the networks; PlanError lists what is wrong."""
    stand_in = {
        "backend": "openvino",
        "precision": "fp32",
        "weights_dtype": "float32",
        "inputs": ["latent"],
        "outputs": ["prediction"],
    }
    networks = {name: stand_in for role in roles for name in GRAPHS[role]}
    PlanManifest.from_json(with_networks(manifest, networks, ()), strict=True)


def _write(
    target: Path,
    manifest: Mapping[str, Any],
    roles: tuple[str, ...],
    load: Loader,
    shapes: Shapes,
    options: Options,
    watch: Observer,
    mask_scale_factor: float,
) -> None:
    total = sum(len(GRAPHS[role]) for role in roles)
    parts: dict[str, Part] = {}

    def write(path: Path, written: Mapping[str, Part]) -> None:
        entries = {name: part.entry for name, part in written.items()}
        footprints = {name: part.footprint for name, part in written.items()}
        whole = PlanManifest.from_json(with_networks(manifest, entries, ()), strict=True)
        memory = predict(footprints, whole.sizes, shapes.autoencoder.compression, shapes.label_bits)
        sections = {f"{name}/{file}": source for name, part in written.items() for file, source in part.files.items()}
        plan_file.write(
            path, with_networks(manifest, entries, [asdict(peak) for peak in memory]), sections, scratch=folder
        )

    with folder_beside(target, "build", "three times") as folder:
        for role in roles:
            report(watch, f"load {role}", len(parts), total)
            module = load(role)
            factor = mask_scale_factor if role == "mask_autoencoder" else 1.0
            for graph in graphs(role, module, controlnet="controlnet" in roles, scale_factor=factor):
                report(watch, f"export {graph.name}", len(parts), total)
                parts[graph.name] = _network(graph, module.config, folder, options)
            del module, graph
            gc.collect()
        if options.precision == "int8":
            parts = quantized(parts, write, folder, options.calibration, watch)
        report(watch, "write", total, total)
        write(target, parts)


def _network(graph: Graph, config: object, folder: Path, options: Options) -> Part:
    """One graph as files in ``folder``: exported, or taken from the cache."""
    if options.weights_dtype == "float16" and not options.half(graph):
        warnings.warn(f"{graph.name} has weights beyond float16's range; they are kept as float32", stacklevel=2)
    if options.cache is None:
        return _export(graph, folder, options)
    key = options.key(graph, config)
    part = options.cache.load(key, f"kept-{graph.name}", folder) if options.keep_onnx is None else None
    if part is None:
        part = _export(graph, folder, options)
        options.cache.keep(key, part)
    return part


def _export(graph: Graph, folder: Path, options: Options) -> Part:
    """Export one graph, and its stages if it has a program; all files are left in ``folder``."""
    half = options.half(graph)
    model = onnx_model(graph)
    onnx_file = save_onnx(model, graph, folder / f"{graph.name}.onnx")
    ir = convert(onnx_file.path, graph, folder, half=half, weights=fingerprints(graph.state) if half else ())
    if options.opset != OPSET:
        model = onnx_model(graph, options.opset)
        onnx_file = save_onnx(model, graph, onnx_file.path)
    for file in folder.glob(f"{graph.name}.onnx*"):
        if options.keep_onnx is None:
            file.unlink()
        else:
            options.keep_onnx.mkdir(parents=True, exist_ok=True)
            shutil.move(file, options.keep_onnx / file.name)
    table = locate(ir.xml, ir.weights, graph.state, half=half)
    _log.info("%s: ONNX %s; OpenVINO %s", graph.name, dict(onnx_file.operators), dict(ir.operations))
    shared = SharedWeights(ir.xml, ir.weights, table)
    files = {"model.xml": ir.xml, "model.bin": ir.weights, "model.onnx": folder / f"{graph.name}.onnx"}
    save_over_weights(model, files["model.onnx"], shared, table)
    staged = None if graph.program is None else graph.program(Constants(ir.weights, table))
    if staged is not None:
        files |= write_stages(staged, graph.name, shared, folder / graph.name, options.opset)
    found = footprint(graph, ov.Core().read_model(ir.xml), ir.weights.stat().st_size, options.exported)
    entry = {
        "backend": "openvino",
        "precision": options.exported,
        "weights_dtype": "float16" if half else "float32",
        "inputs": [port.name for port in graph.inputs],
        "outputs": list(graph.outputs),
        "drop_if_unused": list(graph.drop_if_unused),
        "tensors": {key: asdict(tensor) for key, tensor in table.items()},
        "footprint": asdict(found),
        "program": asdict(staged.program) if staged is not None else None,
        "onnx": asdict(Onnx(options.opset, sum(onnx_file.operators.values()))),
    }
    return Part(entry, found, files)
