"""The options of ``--report``, which shows a result as a page, and ``--from``, which takes one that was saved."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .common import ProgressBar, emit

# Options that say how a page looks.
_LOOKS = ("windows", "pictures")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "report", "One HTML page that needs nothing else: verdict, metrics, charts, pictures, worst cases."
    )
    group.add_argument("--report", metavar="HTML", help="write the page there, with GENERATED, --from or --compare")
    group.add_argument("--from", dest="saved", metavar="JSON", help="the page of a result that was saved with -o")
    group.add_argument(
        "--windows",
        metavar="NAME,NAME,...",
        help="of soft, bone, lung and brain (default: soft,bone,lung); the first is also shown with outlines of labels",
    )
    group.add_argument(
        "--pictures", type=int, metavar="N", help="volumes of each set to show besides the worst cases (default: 4)"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for what this module does by itself."""
    return args.saved is not None


def refuse_options(args: argparse.Namespace) -> None:
    """RequestError for options of this module that nothing would heed."""
    if args.report is not None:
        raise RequestError("--report: expected GENERATED --reference REAL, --from JSON or --compare OLD NEW with it")
    _refuse_looks(args)


def check(args: argparse.Namespace) -> None:
    """RequestError or OutputError for a page that cannot be made, before time is spent."""
    from ..evaluate.montage import windows_of
    from ..io.files import check_writable

    if args.report is None:
        _refuse_looks(args)
        return
    if not args.report.lower().endswith((".html", ".htm")):
        raise RequestError(f"--report: expected a name that ends in .html, found '{args.report}'")
    if args.pictures is not None and args.pictures < 0:
        raise RequestError(f"--pictures: expected a whole number from 0 on, found {args.pictures}")
    windows_of(windows(args))
    check_writable(args.report)


def windows(args: argparse.Namespace) -> list[str] | None:
    """The names of the windows, None for the default ones."""
    return None if args.windows is None else [name.strip() for name in args.windows.split(",")]


def looks(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of how a page looks."""
    chosen: dict[str, Any] = {"windows": windows(args), "seed": args.seed}
    return chosen if args.pictures is None else {**chosen, "pictures": args.pictures}


def run(args: argparse.Namespace) -> int:
    """Run what ``wanted`` saw."""
    if args.report is None:
        raise RequestError("--from: expected the page to write with it: --report report.html")
    if args.output is not None:
        raise RequestError("--from: the result is saved already; leave -o out")
    check(args)
    from ..evaluate.report import write_report
    from ..evaluate.result import Evaluation

    result = Evaluation.load(Path(args.saved))
    with ProgressBar(args) as progress:
        write_report(result, args.report, base=Path(args.saved).parent, progress=progress, **looks(args))
    emit(args, {"report": args.report}, f"{args.report}: report of '{args.saved}'")
    return 0


def _refuse_looks(args: argparse.Namespace) -> None:
    given = [name for name in _LOOKS if getattr(args, name) is not None]
    if given:
        raise RequestError(f"--{given[0]}: expected --report with it")
