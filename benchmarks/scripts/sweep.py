"""Solvers and numbers of steps against a reference in many steps, as ``ctfast evaluate --sweep`` measures them.

python benchmarks/scripts/sweep.py --append benchmarks/results/sweep.jsonl --picture docs/images/sweep.svg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import records

import ctfast
from ctfast.evaluate.subject import EngineSubject
from ctfast.evaluate.sweep import REFERENCE_STEPS, sweep
from ctfast.evaluate.sweep_text import svg, table
from ctfast.evaluate.tune import tune
from ctfast.evaluate.tune_text import table as tune_table
from ctfast.request import FLOW_SOLVERS

STEPS = (5, 8, 10, 15, 20, 30, 50)


def main() -> int:
    """Measure, print, and keep a row and a picture if asked to."""
    options = _options()
    load_before = records.load()
    engine = ctfast.load(options.engine, precision=options.precision, threads=options.threads)
    subject = EngineSubject(engine)
    if options.tune is None:
        figures, found = _swept(subject, options)
    else:
        figures, found = _tuned(subject, options)
    settings: dict[str, Any] = {
        "plan": found["plan"],
        **found["request"],
        "threads": options.threads,
        "precision": found["precision"],
        "note": options.note,
    }
    if options.tune is None:
        settings |= {"steps": list(options.steps), "seeds": found["seeds"]}
    name = "sweep" if options.tune is None else "tune"
    records.give(options, records.row(name, settings, {key: found[key] for key in figures}, load_before))
    return 0


def _swept(subject: EngineSubject, options: argparse.Namespace) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The keys to keep, and what was found."""
    found = sweep(
        subject,
        FLOW_SOLVERS,
        options.steps,
        range(options.seed, options.seed + options.volumes),
        reference_steps=options.reference_steps,
        observer=_Steps(),
    ).as_dict()
    print(table(found), file=sys.stderr)
    if options.picture is not None:
        options.picture.write_text(svg(found), encoding="utf-8")
    return ("unit", "span", "reference", "baseline", "rows", "refined", "smallest", "seconds"), found


def _tuned(subject: EngineSubject, options: argparse.Namespace) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The same of a fit; as many seeds to fit to as to measure with."""
    middle = options.seed + options.volumes
    found = tune(
        subject,
        options.solver,
        options.tune,
        range(options.seed, middle),
        range(middle, middle + options.volumes),
        reference_steps=options.reference_steps,
        observer=_Steps(),
    ).as_dict()
    print(tune_table(found), file=sys.stderr)
    keys = ("unit", "span", "reference", "solver", "steps", "calls", "times", "parameters", "fit", "better", "check")
    return (*keys, "others"), found


class _Steps:
    """An observer that prints a line for every tenth of a stage."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> bool:
        tenth = (stage, 10 * done // max(total, 1))
        if tenth != self._said:
            print(f"{stage}: {done} of {total} network calls", file=sys.stderr, flush=True)
            self._said = tenth
        return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", metavar="PLAN", help="default: the embedded default plan")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="N", help="default: %(default)s")
    parser.add_argument("--tune", type=int, metavar="N", help="fit a time grid of so many steps instead")
    parser.add_argument("--solver", default="ab2", help="of that (default: ab2)")
    parser.add_argument("--reference-steps", type=int, default=REFERENCE_STEPS, help="default: %(default)s")
    parser.add_argument("--volumes", type=int, default=4, help="seeds (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="the first (default: 0)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: the plan's")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--picture", type=Path, metavar="SVG", help="quality against network calls")
    parser.add_argument("--note", default="", help="kept in the row")
    records.add_output_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
