"""``ctfast evaluate``: what a plan's volumes are worth."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import RequestError
from . import evaluate_sweep
from .common import add_engine_options, command_parser


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "evaluate",
        "compare generated volumes with real ones",
        "Measure what solvers do in few steps.",
        "ctfast evaluate --sweep steps=5,10,20,30 --solver euler,ab2,unipc --picture sweep.svg",
    )
    parser.add_argument("-o", "--output", metavar="JSON", help="write the result there")
    parser.add_argument("--seed", type=int, default=0, help="the first (default: 0)")
    evaluate_sweep.add_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if evaluate_sweep.wanted(args):
        return evaluate_sweep.run(args)
    raise RequestError("expected what to measure: --sweep steps=N,N,... (see 'ctfast evaluate --help')")
