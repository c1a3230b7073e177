"""``ctfast evaluate``: what generated volumes are worth, and what solvers do in few steps."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import RequestError
from . import evaluate_compare, evaluate_downstream, evaluate_report, evaluate_sets, evaluate_sweep
from .common import add_engine_options, command_parser


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "evaluate",
        "compare generated volumes with real ones",
        "Compare a folder of generated volumes with one of real ones; or, with --compare, two results of that; or, "
        "with --sweep, measure what solvers do in few steps; or, with --tune, fit a time grid to a plan; or, with "
        "--downstream, train segmenters on real and on generated volumes.",
        "ctfast evaluate generated/ --reference prepared/val --train prepared/train -o evaluation.json "
        "--report report.html\n"
        "  ctfast evaluate --compare old.json new.json --fail-on-worse\n"
        "  ctfast evaluate --sweep steps=5,10,20,30 --solver euler,ab2,unipc --picture sweep.svg",
    )
    parser.add_argument("-o", "--output", metavar="JSON", help="write the result there")
    parser.add_argument("--seed", type=int, default=0, help="the first (default: 0)")
    evaluate_sets.add_options(parser)
    evaluate_report.add_options(parser)
    evaluate_compare.add_options(parser)
    evaluate_sweep.add_options(parser)
    evaluate_downstream.add_options(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if evaluate_compare.wanted(args) or evaluate_report.wanted(args):
        return _run_on_saved(args)
    evaluate_compare.refuse_options(args)
    if evaluate_downstream.wanted(args):
        if evaluate_sweep.wanted(args):
            raise RequestError("--downstream: expected no sweep of solvers and no tuning with it; run them one by one")
        evaluate_report.refuse_options(args)
        return evaluate_downstream.run(args)
    evaluate_downstream.refuse_options(args)
    if evaluate_sets.wanted(args) and evaluate_sweep.wanted(args):
        raise RequestError(f"expected either volumes to judge or a sweep of solvers, found both ('{args.generated}')")
    if evaluate_sets.wanted(args):
        return evaluate_sets.run(args)
    evaluate_sets.refuse_options(args)
    evaluate_report.refuse_options(args)
    if evaluate_sweep.wanted(args):
        return evaluate_sweep.run(args)
    raise RequestError(
        "expected volumes to judge, as in 'ctfast evaluate GENERATED --reference REAL', --compare "
        "OLD NEW, --sweep steps=N,N,..., or --tune N (see 'ctfast evaluate --help')"
    )


def _run_on_saved(args: argparse.Namespace) -> int:
    """What needs results that were saved before and no volumes to judge."""
    if args.generated is not None or evaluate_sweep.wanted(args) or evaluate_downstream.wanted(args):
        found = "--sweep, --tune or --downstream" if args.generated is None else f"'{args.generated}'"
        raise RequestError(
            f"--compare and --from take results that were saved with -o, and nothing to measure; found {found}"
        )
    if evaluate_compare.wanted(args) and evaluate_report.wanted(args):
        raise RequestError("expected either --compare or --from, found both")
    evaluate_sets.refuse_options(args)
    if evaluate_compare.wanted(args):
        return evaluate_compare.run(args)
    evaluate_compare.refuse_options(args)
    return evaluate_report.run(args)
