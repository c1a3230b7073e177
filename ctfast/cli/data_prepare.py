"""``ctfast data prepare``: scans of any field of view to aligned crops for training and evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import ProgressBar, command_parser, emit
from .extras import import_extra


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "prepare",
        "make crops for training out of scans",
        "Find the head and neck in CT scans, cut it out on a grid of 96 x 96 x 64 voxels of 4 x 4 x 3 mm, and label "
        "the body. Scans that do not match, or show too little, are left out and named.",
        "ctfast data prepare openkbp/ prepared/ && ctfast train vae --data prepared --output runs/vae",
    )
    parser.add_argument("source", help="folder with PATIENT_ct.nii.gz and, where there is one, PATIENT_seg.nii.gz")
    parser.add_argument("output", help="new or empty folder; gets train/, val/ and dataset.json")
    parser.add_argument("--validation", type=int, default=20, metavar="N", help="patients held out (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--ct-suffix", default="_ct.nii.gz", metavar="TEXT", help="how CTs' names end (%(default)s)")
    parser.add_argument(
        "--seg-suffix", default="_seg.nii.gz", metavar="TEXT", help="how label maps' names end (%(default)s)"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.6, help="least correlation with the template (default: %(default)s)"
    )
    parser.add_argument(
        "--min-coverage", type=float, default=0.95, help="least part of the crop inside the scan (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    preparation = import_extra("ctfast.data.prepare", "preparing data", "train")
    with ProgressBar(args) as bar:
        summary = preparation.prepare(
            Path(args.source),
            Path(args.output),
            validation=args.validation,
            seed=args.seed,
            ct_suffix=args.ct_suffix,
            seg_suffix=args.seg_suffix,
            min_score=args.min_score,
            min_coverage=args.min_coverage,
            progress=lambda done, total: bar("prepare", done, total),
        )
    counts = {split: sum(case.split == split for case in summary.cases) for split in ("train", "val")}
    result = {"output": args.output, **counts, "skipped": summary.skipped}
    lines = [f"{args.output}: {counts['train']} patients to train on, {counts['val']} held out"]
    lines += [f"left out {reason}" for reason in summary.skipped.values()]
    emit(args, result, "\n".join(lines))
    return 0
