"""The options of ``ctfast build`` that tell how TensorRT engines are made."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .extras import import_extra

BACKEND = "tensorrt"
BACKENDS = ("openvino", BACKEND)

#: Options with values, and switches, as attributes of the parsed arguments.
_VALUES = ("engines", "engine_precision", "device", "hardware", "memory", "timing_cache")
_SWITCHES = ("version_compatible", "weight_streaming", "no_refit")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "TensorRT engines (--backend tensorrt)",
        "Engines are built on the machine with the GPU, of checkpoints or of a plan given in place of a model. "
        "Needs TensorRT and CuPy: pip install 'ctfast[export,tensorrt]'.",
    )
    group.add_argument(
        "--engines",
        metavar="PLAN",
        help="take the engines of this plan, which has other weights; needs no GPU",
    )
    group.add_argument(
        "--engine-precision", metavar="TYPE", help="fp32, bf16, fp16 or fp8 (default: each network's own)"
    )
    group.add_argument("--device", metavar="NAME", help="cuda or cuda:N, the GPU to build for (default: cuda)")
    group.add_argument(
        "--hardware",
        metavar="LEVEL",
        help="what else may run them: none, same_compute_capability or ampere_plus (default: none)",
    )
    group.add_argument(
        "--version-compatible", action="store_true", help="later versions of TensorRT may run them; slower, larger"
    )
    group.add_argument(
        "--no-refit",
        action="store_true",
        help="keep the weights in the engines: faster, larger, never changed",
    )
    group.add_argument("--memory", metavar="SIZE", help="scratch memory that TensorRT may take, as in 6GiB")
    group.add_argument("--weight-streaming", action="store_true", help="allow weights to stay in the host's memory")
    group.add_argument("--timing-cache", metavar="FILE", help="kernels measured before; made if it is not there")


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``ctfast.export.tensorrt.build`` that ``ctfast.export.build`` does not have; {} for the latter."""
    given = [name for name in (*_VALUES, *_SWITCHES) if getattr(args, name)]
    if args.backend != BACKEND:
        if given:
            flag = given[0].replace("_", "-")
            raise RequestError(f"--{flag} is for engines: give --backend {BACKEND} with it, found '{args.backend}'")
        return {}
    tensorrt = import_extra("ctfast.export.tensorrt", "building engines", "export")
    values = {name: getattr(args, name) for name in ("device", "hardware", "memory") if getattr(args, name)}
    options = tensorrt.EngineOptions(
        precision=args.engine_precision,
        refit=not args.no_refit,
        version_compatible=args.version_compatible,
        weight_streaming=args.weight_streaming,
        timing_cache=None if args.timing_cache is None else Path(args.timing_cache),
        **values,
    )
    return {"engine": options, "engines": args.engines}


def exporter_of(args: argparse.Namespace) -> Any:
    """The module whose ``build`` makes what the arguments ask for."""
    if args.backend not in BACKENDS:
        raise RequestError(f"backend: expected {' or '.join(BACKENDS)}, found {args.backend!r}")
    base = import_extra("ctfast.export.build", "building plans", "export")
    return import_module("ctfast.export.tensorrt") if args.backend == BACKEND else base


def is_plan(args: argparse.Namespace) -> bool:
    """Whether a plan stands in place of a model, to which engines are added."""
    return bool(args.backend == BACKEND and Path(args.model).suffix == ".plan")
