"""The options of ``ctfast evaluate GENERATED --reference REAL``: figures of a set of volumes beside a real one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import RequestError
from . import evaluate_report
from .common import ProgressBar, emit, load_engine
from .extras import import_extra

# Options that need a set to go with.
_OPTIONS = ("train", "preset", "features", "metrics", "paired", "round_trip", "cache", "limit")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("generated", nargs="?", metavar="GENERATED", help="folder with the volumes to judge")
    group = parser.add_argument_group(
        "sets of volumes",
        "Folders hold NAME_ct.nii.gz and NAME_seg.nii.gz, or what ctfast writes. Needs ctfast[evaluate].",
    )
    group.add_argument("--reference", metavar="REAL", help="folder with real volumes that were not trained on")
    group.add_argument("--train", metavar="FOLDER", help="the volumes trained on, to tell whether some were memorised")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="how volumes are shown to the feature network: native, maisi-v2, jade, medsyn2 or foundation-vae "
        "(default: maisi-v2 with --features, else native)",
    )
    group.add_argument(
        "--features",
        metavar="FILE",
        action="append",
        help="weights of RadImageNet's ResNet-50, the FID's Inception or MedicalNet's ResNet-50; may be given twice, "
        "for slices and for volumes (default: random weights, whose figures are comparable with nothing)",
    )
    group.add_argument(
        "--metrics", metavar="NAME,NAME,...", help="metrics or groups of them (default: all that the sets allow)"
    )
    group.add_argument("--paired", action="store_true", help="volumes of the same name belong together")
    group.add_argument(
        "--round-trip", action="store_true", help="also encode and decode the reference volumes with the plan"
    )
    group.add_argument("--cache", metavar="FOLDER", help="keep features there for the next time")
    group.add_argument("--limit", type=int, metavar="N", help="use the first N volumes of both sets")
    group.add_argument(
        "--bootstrap", type=int, default=200, metavar="N", help="replicates behind the intervals (default: %(default)s)"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for what this module does."""
    return args.generated is not None


def refuse_options(args: argparse.Namespace) -> None:
    """RequestError for options of this module without volumes to judge."""
    given = [name for name in ("reference", *_OPTIONS) if getattr(args, name)]
    if given:
        raise RequestError(f"--{given[0].replace('_', '-')}: expected a folder of volumes in front of it")


def run(args: argparse.Namespace) -> int:
    """Run what ``wanted`` saw."""
    from ..io.atomic import OutputFiles
    from ..io.files import check_writable
    from ..observer import observer_of

    if args.reference is None:
        raise RequestError(f"'{args.generated}': expected a set to compare it with: --reference FOLDER")
    if args.output is not None:
        check_writable(args.output)
    evaluate_report.check(args)
    module = import_extra("ctfast.evaluate.run", "evaluating", "evaluate")
    engine = load_engine(args) if args.round_trip else None
    with ProgressBar(args) as progress:
        result = module.evaluate(
            args.generated,
            args.reference,
            train=args.train,
            preset=args.preset,
            features=args.features or (),
            metrics=None if args.metrics is None else [name.strip() for name in args.metrics.split(",")],
            paired=args.paired,
            engine=engine,
            cache=args.cache,
            limit=args.limit,
            replicates=args.bootstrap,
            seed=args.seed,
            progress=progress,
        )
        contents = {} if args.output is None else {args.output: result.to_json()}
        if args.report is not None:
            from ..evaluate.report import report_page

            page = report_page(result, observer=observer_of(progress), **evaluate_report.looks(args))
            contents[args.report] = page
    with OutputFiles() as files:
        for path, content in contents.items():
            files.add_text(Path(path), content)
    emit(args, result.as_dict(), _table(result))
    return 0


def _table(result: Any) -> str:
    """The metrics as a table, what was left out, and what the figures may not be used for."""
    sets = (result.generated, result.reference)
    lines = [f"{each.path}: {each.volumes} volumes" for each in sets]
    lines.append(f"preset {result.preset}, features of {result.features.network}")
    width = max((len(metric.name) for metric in result.metrics), default=0)
    for metric in result.metrics:
        interval = (
            "" if metric.low is None or metric.high is None else f"{_number(metric.low)} to {_number(metric.high)}"
        )
        beside = metric.parts.get("reference")
        more = f"reference {_number(beside)}" if isinstance(beside, float) else ""
        mark = "" if metric.comparable else "*"
        row = f"{metric.name + mark:{width + 1}}  {_number(metric.value):>9} {metric.unit:3} {interval:>22}  {more}"
        lines.append(row.rstrip())
    if any(not metric.comparable for metric in result.metrics):
        lines.append("* not comparable with figures in papers")
    lines += [f"left out: {', '.join(names)}: {reason}" for reason, names in result.skipped_by_reason().items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
