"""The options of ``ctfast evaluate --downstream``: what generated volumes are worth as training data."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import RequestError
from .common import ProgressBar, emit, load_engine
from .extras import import_extra

_TASKS = ("segmentation",)
# Options of this module, None unless given; and those about sets of volumes that it has no use for.
_OWN = ("ratios", "folds", "steps", "batch", "patch", "real", "labels", "patient", "copies", "work")
_OTHERS = ("preset", "features", "metrics", "paired", "round_trip", "cache", "limit")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "downstream",
        "Trains the same network on real volumes (--train), on synthetic ones (GENERATED, or made here with --engine "
        "from the label maps of --train), and on both, and judges it on --reference. All need label maps. Needs "
        "ctfast[train].",
    )
    group.add_argument("--downstream", choices=_TASKS, help="what the networks are for")
    group.add_argument(
        "--ratios", metavar="R:S,R:S,...", help="mixtures real:synthetic, as chances of drawing (default: 1:1,1:2)"
    )
    group.add_argument("--folds", type=int, metavar="K", help="networks per mixture, each without a fold (default: 3)")
    group.add_argument("--steps", type=int, metavar="N", help="of the optimiser, for every network (default: 1000)")
    group.add_argument("--batch", type=int, metavar="N", help="patches per step (default: 1)")
    group.add_argument(
        "--patch", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels of a patch (default: 64 64 48)"
    )
    group.add_argument("--real", type=int, metavar="N", help="use real volumes of N patients only")
    group.add_argument(
        "--labels", metavar="N,N,...", help="what to segment (default: all that the sets share, without the body)"
    )
    group.add_argument(
        "--patient", metavar="REGEX", help="finds the patient in a real volume's name (default: the whole name)"
    )
    group.add_argument("--copies", type=int, metavar="N", help="volumes made of each label map (default: 1)")
    group.add_argument(
        "--work", metavar="FOLDER", help="keep generated volumes and finished networks there, and go on from them"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for what this module does."""
    return args.downstream is not None


def refuse_options(args: argparse.Namespace) -> None:
    """RequestError for options of this module without ``--downstream``."""
    given = [name for name in _OWN if getattr(args, name) is not None]
    if given:
        raise RequestError(f"--{given[0]} goes with --downstream {_TASKS[0]}")


def run(args: argparse.Namespace) -> int:
    """Run what ``wanted`` saw."""
    from ..io.atomic import OutputFiles
    from ..io.files import check_writable

    for name in ("train", "reference"):
        if getattr(args, name) is None:
            raise RequestError(f"--downstream: expected a folder of real volumes with --{name}, found none")
    others = [name for name in _OTHERS if getattr(args, name)]
    if others:
        raise RequestError(f"--{others[0].replace('_', '-')} does not go with --downstream; leave it out")
    if args.generated is not None and args.copies is not None:
        raise RequestError(f"--copies: expected no folder of generated volumes with it, found '{args.generated}'")
    if args.output is not None:
        check_writable(args.output)
    module = import_extra("ctfast.evaluate.downstream.run", "training segmenters", "train")
    given = {"steps": args.steps, "batch": args.batch, "patch": None if args.patch is None else tuple(args.patch)}
    settings = module.default_settings(args.seed, **{key: value for key, value in given.items() if value is not None})
    choices = {
        "ratios": None if args.ratios is None else args.ratios.split(","),
        "folds": args.folds,
        "copies": args.copies,
    }
    with ProgressBar(args) as progress:
        result = module.downstream(
            args.train,
            args.reference,
            args.generated,
            engine=load_engine(args) if args.generated is None else None,
            real=args.real,
            labels=None if args.labels is None else _labels(args.labels),
            patient=args.patient,
            settings=settings,
            work=args.work,
            threads=args.threads,
            progress=progress,
            **{key: value for key, value in choices.items() if value is not None},
        )
    if args.output is not None:
        with OutputFiles() as files:
            files.add_text(Path(args.output), result.to_json())
    from ..evaluate.downstream.text import table

    emit(args, result.as_dict(), table(result))
    return 0


def _labels(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise RequestError(f"--labels: expected whole numbers as in 1,2,3, found '{text}'")
    return [int(word) for word in words]
