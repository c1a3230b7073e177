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
from ctfast.request import FLOW_SOLVERS

STEPS = (5, 8, 10, 15, 20, 30, 50)


def main() -> int:
    """Measure, print, and keep a row and a picture if asked to."""
    options = _options()
    load_before = records.load()
    engine = ctfast.load(options.engine, precision=options.precision, threads=options.threads)
    found = sweep(
        EngineSubject(engine),
        FLOW_SOLVERS,
        options.steps,
        range(options.seed, options.seed + options.volumes),
        reference_steps=options.reference_steps,
        observer=_Steps(),
    ).as_dict()
    print(table(found), file=sys.stderr)
    if options.picture is not None:
        options.picture.write_text(svg(found), encoding="utf-8")
    settings: dict[str, Any] = {
        "plan": found["plan"],
        **found["request"],
        "steps": list(options.steps),
        "seeds": found["seeds"],
        "threads": options.threads,
        "precision": found["precision"],
        "note": options.note,
    }
    figures = ("unit", "span", "reference", "baseline", "rows", "refined", "smallest", "seconds")
    records.give(options, records.row("sweep", settings, {key: found[key] for key in figures}, load_before))
    return 0


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
