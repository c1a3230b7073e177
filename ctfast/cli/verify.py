"""``ctfast verify``: whether a plan's bytes are those that were built."""

from __future__ import annotations

import argparse
from typing import Any

from .common import ProgressBar, command_parser, emit


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "verify",
        "check a plan's checksums",
        "Compare the checksum of every section of a plan; exit code 3 if one differs.",
        "ctfast verify maisi_v2.plan",
    )
    parser.add_argument("plan", nargs="?", help="path of a plan or name of an embedded one (default: headneck)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..locate import plan_path
    from ..plan import Plan

    plan = Plan.open(plan_path(args.plan))
    name = plan.manifest.name
    with ProgressBar(args) as progress:
        plan.verify(lambda stage, done, total: progress(stage, done, total))
    result = {"path": plan.name, "name": name, "ok": True, "sections": len(plan.sections), "identity": plan.identity}
    emit(args, result, f"{plan.name}: ok, {len(plan.sections)} sections, identity {plan.identity}")
    return 0
