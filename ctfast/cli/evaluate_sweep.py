"""The options of ``ctfast evaluate`` about steps and solvers: ``--sweep`` and ``--tune``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..request import FLOW_SOLVERS
from .common import ProgressBar, emit, load_engine
from .extras import import_extra

_SPELLINGS = {name.replace("_", ""): name for name in FLOW_SOLVERS}
_TUNED_SOLVER = "ab2"
_SWEEP = "steps=5,8,10,15,20,30,50"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "steps and solvers", "Measures a plan by its own volumes in many steps; needs no reference."
    )
    group.add_argument(
        "--sweep",
        metavar="steps=N,N,...",
        help=f"measure every solver with these numbers of steps, as in {_SWEEP}, and find the fewest network calls "
        "that do what 30 steps of Euler do",
    )
    group.add_argument(
        "--tune",
        type=int,
        metavar="N",
        help="fit a time grid of N steps to the plan's model, for one solver, and measure it on other seeds",
    )
    group.add_argument(
        "--write", metavar="PLAN", help="with --tune, if the grid is better: a copy of the plan that has it as default"
    )
    group.add_argument(
        "--solver",
        metavar="NAME,NAME,...",
        help=f"of {', '.join(FLOW_SOLVERS)} (default: all of them for --sweep, {_TUNED_SOLVER} for --tune)",
    )
    group.add_argument(
        "--time-grid",
        choices=("monai", "exact"),
        help="of all swept solvers (default: monai for euler, exact for the others)",
    )
    group.add_argument(
        "--volumes", type=int, default=4, metavar="N", help="seeds to measure with, and as many to fit to (default: 4)"
    )
    group.add_argument(
        "--reference-steps", type=int, default=200, metavar="N", help="of Heun's method (default: %(default)s)"
    )
    group.add_argument("--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels (default: the plan's)")
    group.add_argument("--picture", metavar="SVG", help="draw quality against network calls")


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for what this module does."""
    return any(value is not None for value in (args.sweep, args.tune, args.write))


def run(args: argparse.Namespace) -> int:
    """Run what ``wanted`` saw."""
    if args.sweep is not None and args.tune is not None:
        raise RequestError("--sweep and --tune: expected one of them at a time")
    if args.tune is None and args.write is not None:
        raise RequestError("--write goes with --tune: there is no other time grid to write into a plan")
    return _sweep(args) if args.tune is None else _tune(args)


def _sweep(args: argparse.Namespace) -> int:
    from ..evaluate.subject import EngineSubject
    from ..evaluate.sweep import sweep
    from ..evaluate.sweep_text import svg, table
    from ..io.files import check_writable
    from ..observer import observer_of

    steps = _steps(args.sweep)
    if args.picture is not None and not args.picture.lower().endswith(".svg"):
        raise RequestError(f"--picture: it is an SVG; use a name that ends in .svg, found '{args.picture}'")
    solvers = solvers_of(args.solver)
    for path in (args.output, args.picture):
        if path is not None:
            check_writable(path)
    subject = EngineSubject(load_engine(args), {"size": args.size})
    with ProgressBar(args) as progress:
        result = sweep(
            subject,
            solvers,
            steps,
            seeds_of(args.seed, args.volumes),
            time_grid=args.time_grid,
            reference_steps=args.reference_steps,
            observer=observer_of(progress),
        ).as_dict()
    _save({args.output: json.dumps(result, indent=1), args.picture: svg(result)})
    emit(args, result, table(result))
    return 0


def _tune(args: argparse.Namespace) -> int:
    from ..evaluate.subject import EngineSubject
    from ..evaluate.tune_text import table
    from ..evaluate.tuned_plan import check_target, usual_grid_of, write_tuned
    from ..io.files import check_writable
    from ..observer import observer_of
    from ..plan import Plan

    tuning = import_extra("ctfast.evaluate.tune", "tuning a time grid", "evaluate")
    if args.picture is not None or args.time_grid is not None:
        raise RequestError("--picture and --time-grid go with --sweep")
    solvers = [_TUNED_SOLVER] if args.solver is None else solvers_of(args.solver)
    if len(solvers) != 1:
        raise RequestError(f"--tune: expected one solver, found {', '.join(solvers)}")
    seeds = seeds_of(args.seed, args.volumes)
    more = seeds_of(args.seed + args.volumes, args.volumes)
    for path in (args.output, args.write):
        if path is not None:
            check_writable(path)
    engine = load_engine(args)
    if args.write is not None:
        check_target(engine.path, args.write)
    with ProgressBar(args) as progress:
        observer = observer_of(progress)
        subject = EngineSubject(engine, {"size": args.size})
        tuned = tuning.tune(
            subject, solvers[0], args.tune, seeds, more, reference_steps=args.reference_steps, observer=observer
        )
        result = {**tuned.as_dict(), "written": None}
        if args.write is not None and tuned.better:
            grid = tuned.grid(usual_grid_of(Plan.open(engine.path)))
            identity = write_tuned(engine.path, args.write, grid, observer)
            result["written"] = {"path": args.write, "identity": identity}
    _save({args.output: json.dumps(result, indent=1)})
    emit(args, result, table(result))
    if args.write is not None and not tuned.better:
        # Said here and not raised, since with --json there is one object on stdout, and it has the figures.
        print("ctfast: error: the tuned grid is no better on other seeds: nothing was written", file=sys.stderr)
        return RequestError.exit_code
    return 0


def _save(texts: Mapping[str | None, str]) -> None:
    """Write texts to those of the files that were asked for, all or none."""
    from ..io.atomic import OutputFiles

    with OutputFiles() as files:
        for path, text in texts.items():
            if path is not None:
                files.add_text(Path(path), text)


def solvers_of(text: str | None) -> list[str]:
    """The solvers in a list, in ctfast's spelling; all if there is none."""
    if text is None:
        return list(FLOW_SOLVERS)
    names = [name.strip() for name in text.split(",")]
    return [_SPELLINGS.get(name.replace("_", "").replace("-", "").lower(), name) for name in names]


def seeds_of(first: int, count: int) -> list[int]:
    """``count`` seeds from the first on."""
    if count < 1:
        raise RequestError(f"--volumes: expected a whole number from 1 on, found {count}")
    return list(range(first, first + count))


def _steps(text: str) -> list[int]:
    key, sign, values = text.partition("=")
    words: list[Any] = [word.strip() for word in values.split(",")]
    if key.strip() != "steps" or not sign or not all(word.isdecimal() for word in words):
        raise RequestError(f"--sweep: expected numbers of steps as in {_SWEEP}, found '{text}'")
    return [int(word) for word in words]
