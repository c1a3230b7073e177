"""``ctfast info``: what a plan says about itself."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_memory_option, command_parser, emit


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "info",
        "show what a plan holds",
        "Show a plan's networks, legal sizes, labels, defaults, licence and origin, and the backends that can run it "
        "here; with --size or --memory, the ways to decode a volume instead, and the one that would be taken.",
        "ctfast info maisi_v2.plan --size 512 512 512 --memory 6GiB",
    )
    parser.add_argument("plan", nargs="?", help="path of a plan or name of an embedded one (default: headneck)")
    parser.add_argument(
        "--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels of the volume (default: the plan's)"
    )
    add_memory_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..backends import survey
    from ..locate import plan_path
    from ..plan import Plan
    from ..plan_info import decoding, describe_backends, describe_decoding

    plan = Plan.open(plan_path(args.plan))
    if args.size is None and args.memory is None:
        backends = survey(plan.manifest)
        emit(args, {**plan.summary(), "backends": backends}, f"{plan.describe()}\n{describe_backends(backends)}")
        return 0
    table = decoding(plan, args.size, args.memory)
    emit(args, {"plan": plan.manifest.name, "decoding": table}, describe_decoding(table))
    return 0
