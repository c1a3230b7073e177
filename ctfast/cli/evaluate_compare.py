"""The options of ``ctfast evaluate --compare OLD NEW``: two results side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import RequestError
from . import evaluate_report
from .common import ProgressBar, emit

# When something got clearly worse, and that was asked for.
_FAILED = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("comparison of two results", "Metric by metric: better, worse, or not clear.")
    group.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"), help="two results that were saved with -o")
    group.add_argument("--fail-on-worse", action="store_true", help="end with status 1 if a metric got clearly worse")


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for what this module does."""
    return args.compare is not None


def refuse_options(args: argparse.Namespace) -> None:
    """RequestError for options of this module without results to compare."""
    if args.fail_on_worse:
        raise RequestError("--fail-on-worse: expected --compare OLD NEW with it")


def run(args: argparse.Namespace) -> int:
    """Run what ``wanted`` saw."""
    from ..evaluate.compare import REFUSED, WORSE, compare
    from ..evaluate.compare_page import compare_page
    from ..evaluate.compare_text import table
    from ..evaluate.result import Evaluation
    from ..io.atomic import OutputFiles
    from ..io.files import check_writable
    from ..observer import observer_of

    evaluate_report.check(args)
    if args.output is not None:
        check_writable(args.output)
    old, new = (Evaluation.load(Path(path)) for path in args.compare)
    found = compare(old, new, seed=args.seed)
    if args.fail_on_worse and all(metric.verdict == REFUSED for metric in found.metrics):
        why = "; ".join(dict.fromkeys(metric.why for metric in found.metrics)) or "they have no metric in common"
        raise RequestError(f"--fail-on-worse: nothing of the two results can be compared: {why}")
    contents = {} if args.output is None else {args.output: found.to_json()}
    if args.report is not None:
        with ProgressBar(args) as progress:
            bases = [Path(path).parent for path in args.compare]
            page = compare_page(found, bases=bases, observer=observer_of(progress), **evaluate_report.looks(args))
        contents[args.report] = page
    with OutputFiles() as files:
        for path, content in contents.items():
            files.add_text(Path(path), content)
    emit(args, found.as_dict(), table(found))
    return _FAILED if args.fail_on_worse and found.with_verdict(WORSE) else 0
