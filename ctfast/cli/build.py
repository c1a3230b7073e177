"""``ctfast build``: checkpoints to a plan."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from .common import ProgressBar, command_parser, emit
from .extras import import_extra
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
        required=True,
        help=WEIGHTS_HELP,
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the plan to write")
    parser.add_argument("--backend", default="openvino", help="openvino (the default)")
    parser.add_argument(
        "--precision", default="bf16", help="bf16 or fp32: what networks run in where the processor can (default: bf16)"
    )
    parser.add_argument(
        "--weights-dtype", metavar="TYPE", help="float16 or float32 (default: float16 with bf16, else float32)"
    )
    parser.add_argument("--name", help="the plan's name (default: the variant's)")
    parser.add_argument(
        "--networks", metavar="ROLES", help="roles to include, with commas (default: all that are there)"
    )
    parser.add_argument("--keep-onnx", metavar="FOLDER", help="keep the ONNX files there")
    parser.add_argument("--dry-run", action="store_true", help="check files and weights, and write nothing")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    exporter = import_extra("ctfast.export.build", "building plans", "export")
    start = time.perf_counter()
    request = {
        "backend": args.backend,
        "precision": args.precision,
        "name": args.name,
        "keep_onnx": args.keep_onnx,
        "networks": args.networks.split(",") if args.networks else None,
        "weights_dtype": args.weights_dtype,
        "command": _command(args),
    }
    weights = given_weights("--weights", args.weights)
    with ProgressBar(args) as progress:
        if args.dry_run:
            job = exporter.prepare(args.model, weights, args.output, **request)
            job.check(progress)
            _emit_check(args, job)
            return 0
        path = exporter.build(args.model, weights, args.output, observer=progress, **request)
    _emit_plan(args, path, time.perf_counter() - start)
    return 0


def _command(args: argparse.Namespace) -> str:
    """The command as the manifest tells it: of paths only the last part, since folders' names may be private."""
    words = ["ctfast", "build", Path(args.model).name]
    for entry in args.weights:
        role, sign, path = entry.partition("=")
        words += ["--weights", f"{role}={Path(path).name}" if sign else Path(entry).name]
    words += ["-o", Path(args.output).name, "--precision", args.precision]
    for option in ("weights_dtype", "name", "networks"):
        if getattr(args, option):
            words += [f"--{option.replace('_', '-')}", getattr(args, option)]
    return shlex.join(words)


def _emit_check(args: argparse.Namespace, job: Any) -> None:
    files, licence = job.files(), job.manifest["licence"]
    result = {
        "dry_run": True,
        "output": str(job.target),
        "name": job.manifest["name"],
        "variant": job.manifest["variant"],
        "files": files,
        "licence": licence,
    }
    lines = [f"{role}: {entry['file']}, {entry['parameters']:,} parameters" for role, entry in files.items()]
    emit(args, result, "\n".join([*lines, f"licence: {_licence(licence)}", f"would write {job.target}"]))


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
