"""``ctfast build``: checkpoints to a plan."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .common import ProgressBar, by, command_parser, emit
from .engines import add_engine_arguments, engine_arguments, exporter_of, is_plan
from .weights import WEIGHTS_HELP, given_weights


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "build",
        "make a plan from checkpoints",
        "Make a plan from the checkpoints of a published model, or of one of your own that a description tells of. "
        "Needs torch, onnx and onnxscript: pip install 'ctfast[export]'.",
        "ctfast build rflow-ct --weights models/ -o maisi_v2.plan",
    )
    parser.add_argument(
        "model", help="rflow-ct, ddpm-ct, rflow-mr, rflow-mr-brain, or the path of a JSON or YAML description"
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        action="append",
        help=WEIGHTS_HELP,
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the plan to write")
    parser.add_argument("--backend", default="openvino", help="openvino (the default) or tensorrt: engines besides")
    parser.add_argument(
        "--precision",
        default="bf16",
        help="bf16, fp16 or fp32: what networks run in where the processor can; or int8: those that are called in "
        "every step are quantised, which needs ctfast[int8] (default: bf16)",
    )
    parser.add_argument(
        "--calibration", type=int, metavar="N", help="calls of each network that int8 is calibrated on (default: 32)"
    )
    parser.add_argument(
        "--weights-dtype", metavar="TYPE", help="float16 or float32 (default: float32 with fp32, else float16)"
    )
    parser.add_argument("--name", help="the plan's name (default: the variant's)")
    parser.add_argument(
        "--networks", metavar="ROLES", help="roles to include, with commas (default: all that are there)"
    )
    parser.add_argument("--keep-onnx", metavar="FOLDER", help="write ONNX files of the networks there, with weights")
    parser.add_argument(
        "--opset",
        type=int,
        default=20,
        help="20 or 23: version of the ONNX operators; with 23 norms and attention are one each (default: 20)",
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="where exported networks are kept, so that a build that was broken off goes on where it was (default: "
        "ctfast/export in $XDG_CACHE_HOME or ~/.cache; at most 8 GiB, what was used longest ago goes first)",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep no networks, and use none that were kept")
    parser.add_argument(
        "--dry-run", action="store_true", help="check files and weights, tell what a build would do, and write nothing"
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    exporter, engines = exporter_of(args), engine_arguments(args)
    start = time.perf_counter()
    request = {
        "backend": args.backend,
        "precision": args.precision,
        "name": args.name,
        "keep_onnx": args.keep_onnx,
        "opset": args.opset,
        "networks": args.networks.split(",") if args.networks else None,
        "weights_dtype": args.weights_dtype,
        "command": _command(args),
        "cache": None if args.no_cache else args.cache or _default_cache(),
    }
    if args.calibration is not None:
        request["calibration"] = args.calibration
    if args.weights is None and (args.dry_run or not is_plan(args)):
        raise RequestError("--weights: expected a folder or files with the checkpoints (see 'ctfast build --help')")
    weights = None if args.weights is None else given_weights("--weights", args.weights)
    with ProgressBar(args) as progress:
        if args.dry_run:
            job = exporter.prepare(args.model, weights, args.output, **request)
            _emit_outline(args, job, job.outline(progress))
            return 0
        path = exporter.build(args.model, weights, args.output, observer=progress, **request, **engines)
    _emit_plan(args, path, time.perf_counter() - start)
    return 0


def _default_cache() -> Path:
    from ..export.cache import default_folder

    return default_folder()


def _command(args: argparse.Namespace) -> str:
    """The command as the manifest tells it: of paths only the last part, since folders' names may be private."""
    words = ["ctfast", "build", Path(args.model).name]
    for entry in args.weights or ():
        role, sign, path = entry.partition("=")
        words += ["--weights", f"{role}={Path(path).name}" if sign else Path(entry).name]
    words += ["-o", Path(args.output).name, "--precision", args.precision]
    if args.opset != 20:
        words += ["--opset", str(args.opset)]
    for option in ("weights_dtype", "calibration", "name", "networks"):
        if getattr(args, option):
            words += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    return shlex.join(words)


def _emit_outline(args: argparse.Namespace, job: Any, outline: Any) -> None:
    files, manifest = job.files(), job.manifest
    cache = None if job.options.cache is None else str(job.options.cache.folder)
    result = {
        "dry_run": True,
        "output": str(job.target),
        "name": manifest["name"],
        "variant": manifest["variant"],
        "files": files,
        "networks": {
            network.name: {
                "parameters": network.parameters,
                "weights_dtype": network.weights_dtype,
                "weight_bytes": network.weight_bytes,
                "kept": network.kept,
            }
            for network in outline.networks
        },
        "sizes": manifest["sizes"],
        "plan_bytes": outline.plan_bytes,
        "disk_bytes": outline.disk_bytes,
        "peak_bytes": outline.peak_bytes,
        "seconds": round(outline.seconds),
        "cache": cache,
        "licence": manifest["licence"],
    }
    lines = [f"{role}: {entry['file']}, {entry['parameters']:,} parameters" for role, entry in files.items()]
    lines += [
        f"{network.name}: {network.weight_bytes / 1e6:.1f} MB as {network.weights_dtype}, "
        f"{'kept from an earlier build' if network.kept else 'to be exported'}"
        for network in outline.networks
    ]
    sizes = manifest["sizes"]
    lines += [
        f"sizes: {by(sizes['default'])} voxels of {by(sizes['spacing']['default'])} mm unless asked otherwise",
        f"licence: {_licence(manifest['licence'])}",
        f"cache: {cache or 'none'}",
        f"needs about {outline.peak_bytes / 2**30:.1f} GiB of memory, {outline.disk_bytes / 1e6:.0f} MB beside the "
        f"plan while it runs, and {_duration(outline.seconds)} of one core",
        f"would write {job.target}, about {outline.plan_bytes / 1e6:.1f} MB",
    ]
    emit(args, result, "\n".join(lines))


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _emit_plan(args: argparse.Namespace, path: Path, seconds: float) -> None:
    from ..plan import Plan

    plan = Plan.open(path)
    manifest = plan.manifest
    licence = {"class": manifest.licence.kind, "text": manifest.licence.text}
    result = {
        "path": str(path),
        "name": manifest.name,
        "variant": manifest.variant,
        "bytes": plan.file_size,
        "identity": plan.identity,
        "networks": list(manifest.networks),
        "licence": licence,
        "seconds": round(seconds, 1),
    }
    text = f"{path}: {', '.join(manifest.networks)}; {plan.file_size / 1e6:.1f} MB in {seconds:.0f} s"
    emit(args, result, f"{text}\nlicence of the weights: {_licence(licence)}")


def _licence(licence: Any) -> str:
    return f"{licence['class']}, {licence['text']}"
