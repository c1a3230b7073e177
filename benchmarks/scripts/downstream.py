"""What a plan's volumes are worth as training data, as ``ctfast evaluate --downstream segmentation`` measures it.

python benchmarks/scripts/downstream.py --train prepared/train --reference prepared/val --labels 1 2 3 4 6 7 \
    --work work/downstream --append benchmarks/results/downstream.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import records

import ctfast
from ctfast.evaluate.downstream.folds import RATIOS
from ctfast.evaluate.downstream.run import FOLDS, default_settings, downstream
from ctfast.evaluate.downstream.text import table


def main() -> int:
    """Measure, print, and keep a row if asked to; finished runs in the work folder are not repeated."""
    options = _options()
    load_before = records.load()
    engine = None if options.generated is not None else ctfast.load(options.engine, threads=options.threads)
    result = downstream(
        options.train,
        options.reference,
        options.generated,
        engine=engine,
        copies=options.copies,
        ratios=options.ratios,
        folds=options.folds,
        real=options.real,
        labels=options.labels,
        settings=default_settings(options.seed, steps=options.steps)
        if options.steps
        else default_settings(options.seed),
        work=options.work,
        threads=options.threads,
        progress=_Tenths(),
    )
    print(table(result), file=sys.stderr)
    found = result.as_dict()
    names = {} if engine is None or engine.manifest.labels is None else engine.manifest.labels.names
    settings = {
        **found["settings"],
        "generation": found["generation"],
        "folds": found["runs"],
        "threads": options.threads,
        "note": options.note,
    }
    figures = {key: found[key] for key in ("labels", "arms", "comparisons", "per_patient", "seconds")}
    sets = {key: {"volumes": found[key]["volumes"], "patients": found[key]["patients"]} for key in _SETS}
    label_names = {str(label): names.get(label, str(label)) for label in result.labels}
    row = records.row("downstream", settings, {**sets, "label_names": label_names, **figures}, load_before)
    records.give(options, row)
    return 0


_SETS = ("real", "synthetic", "held_out")


class _Tenths:
    """A progress callback that prints a line for every tenth of a stage."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        tenth = (stage, 10 * done // max(total, 1))
        if tenth != self._said:
            print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)
            self._said = tenth


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="FOLDER", help="real volumes to train on")
    parser.add_argument("--reference", required=True, metavar="FOLDER", help="real volumes to judge on")
    parser.add_argument("--generated", metavar="FOLDER", help="synthetic volumes (default: made with the plan)")
    parser.add_argument("--engine", metavar="PLAN", help="default: the embedded default plan")
    parser.add_argument("--copies", type=int, default=1, help="volumes of each label map (default: 1)")
    parser.add_argument("--ratios", nargs="*", default=RATIOS, metavar="R:S", help="default: %(default)s")
    parser.add_argument("--folds", type=int, default=FOLDS, help="default: %(default)s")
    parser.add_argument("--steps", type=int, metavar="N", help="of each network (default: ctfast's)")
    parser.add_argument("--real", type=int, metavar="N", help="real volumes of N patients only")
    parser.add_argument("--labels", type=int, nargs="+", metavar="N", help="default: all that the sets share")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keeps generated volumes and finished runs")
    parser.add_argument("--note", default="", help="kept in the row")
    records.add_output_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
