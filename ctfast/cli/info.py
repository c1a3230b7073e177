"""``ctfast info``: what a plan says about itself."""

from __future__ import annotations

import argparse
from typing import Any

from .common import command_parser, emit


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "info",
        "show what a plan holds",
        "Show a plan's networks, legal sizes, labels, defaults, licence and origin.",
        "ctfast info maisi_v2.plan",
    )
    parser.add_argument("plan", nargs="?", help="path of a plan or name of an embedded one (default: headneck)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..locate import plan_path
    from ..plan import Plan

    plan = Plan.open(plan_path(args.plan))
    emit(args, plan.summary(), plan.describe())
    return 0
