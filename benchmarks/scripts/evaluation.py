"""The report of a plan: volumes that it makes, free and from held-out label maps, against held-out scans.

    python benchmarks/scripts/evaluation.py prepared/val --train prepared/train --output out/evaluation \
        --report docs/headneck --append benchmarks/results/evaluation.jsonl

Free volumes are compared as a set, and with what was trained on; those of a scan's label map also organ by organ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import records

import ctfast
from ctfast.evaluate.report import write_report
from ctfast.evaluate.run import evaluate
from ctfast.evaluate.volumes import find_set

#: Name of each set, as its page and its row call it.
FREE, MASKED = "free", "from_label_maps"


def main() -> int:
    """Generate, evaluate, write pages, and keep rows if asked to."""
    options = _options()
    load_before = records.load()
    engine = ctfast.load(options.engine, threads=options.threads)
    rows = []
    for name in (FREE, MASKED):
        folder = options.output / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        requests = _free(options.count, folder) if name == FREE else _masked(options.reference, folder)
        for number, request in enumerate(requests):
            engine.generate(seed=number, **request)
            print(f"{name}: {number + 1}", file=sys.stderr, flush=True)
        # Relative, so that a page names no folder of the machine that it was made on.
        result = evaluate(
            os.path.relpath(folder),
            os.path.relpath(options.reference),
            train=os.path.relpath(options.train),
            replicates=options.bootstrap,
        )
        if options.report is not None:
            write_report(result, options.report / f"report_{name}.html")
        settings = {
            "set": name,
            "plan": {"name": engine.manifest.name, "sha256": engine.identity},
            "threads": options.threads,
            "note": options.note,
        }
        found = result.as_dict()
        figures = {key: found[key] for key in ("generated", "reference", "preset", "features", "metrics")}
        distances = [row for row in found["per_volume"] if "nearest_training" in row]
        figures["nearest"] = {
            which: [round(row["nearest_training"], 1) for row in distances if row["set"] == which]
            for which in ("generated", "reference")
        }
        rows.append(records.row("evaluation", settings, figures, load_before))
    records.give(options, rows)
    return 0


def _free(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"output": folder / f"volume_{number:03d}.nii.gz"}


def _masked(reference: Path, folder: Path) -> Iterator[dict[str, Any]]:
    for item in find_set(reference).items:
        if item.labels is not None:
            yield {"mask": item.labels, "output": folder / f"{item.name}.nii.gz"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="held-out scans as 'ctfast data prepare' writes them")
    parser.add_argument("--train", type=Path, required=True, metavar="FOLDER", help="the scans that were trained on")
    parser.add_argument("--output", type=Path, required=True, help="folder for the volumes")
    parser.add_argument("--engine", metavar="PLAN", help="default: the embedded default plan")
    parser.add_argument("--count", type=int, default=24, help="free volumes (default: 24)")
    parser.add_argument("--bootstrap", type=int, default=200, help="replicates behind intervals (default: 200)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write the pages there")
    parser.add_argument("--note", default="", help="kept in the rows")
    records.add_output_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
