"""``ctfast data phantom``: a label map drawn by code, to try mask conditioning without any data."""

from __future__ import annotations

import argparse
from typing import Any

from .common import by, command_parser, emit


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "phantom",
        "draw a head-and-neck label map",
        "Draw a parametric head-and-neck label map in the embedded plan's vocabulary; each seed is another patient.",
        "ctfast data phantom -o mask.nii.gz --seed 1 && ctfast generate --mask mask.nii.gz",
    )
    parser.add_argument("-o", "--output", metavar="FILE", default="mask.nii.gz", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="mm")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..phantom import SIZE, SPACING, phantom

    drawn = phantom(size=args.size or SIZE, spacing=args.spacing or SPACING, seed=args.seed)
    files = drawn.save(args.output)
    result = {**files.as_dict(), "seed": args.seed, "labels_present": drawn.meta["labels_present"]}
    where = f"{files.image}: {by(drawn.size)} voxels of {by(drawn.spacing, '.4g')} mm, seed {args.seed}"
    emit(args, result, where)
    return 0
