"""The options of ``ctfast evaluate`` about steps and solvers: ``--sweep``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..request import FLOW_SOLVERS
from .common import ProgressBar, emit, load_engine

_SPELLINGS = {name.replace("_", ""): name for name in FLOW_SOLVERS}
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
        "--solver",
        metavar="NAME,NAME,...",
        help=f"of {', '.join(FLOW_SOLVERS)} (default: all of them)",
    )
    group.add_argument(
        "--time-grid",
        choices=("monai", "exact"),
        help="of all solvers (default: monai for euler, exact for the others)",
    )
    group.add_argument("--volumes", type=int, default=4, metavar="N", help="seeds to measure with (default: 4)")
    group.add_argument(
        "--reference-steps", type=int, default=200, metavar="N", help="of Heun's method (default: %(default)s)"
    )
    group.add_argument("--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels (default: the plan's)")
    group.add_argument("--picture", metavar="SVG", help="draw quality against network calls")


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for what this module does."""
    return args.sweep is not None


def run(args: argparse.Namespace) -> int:
    """Run what ``wanted`` saw."""
    from ..evaluate.subject import EngineSubject
    from ..evaluate.sweep import sweep
    from ..evaluate.sweep_text import svg, table
    from ..io.atomic import OutputFiles
    from ..io.files import check_writable
    from ..observer import observer_of

    steps = _steps(args.sweep)
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
    with OutputFiles() as files:
        for path, text in ((args.output, json.dumps(result, indent=1)), (args.picture, svg(result))):
            if path is not None:
                content = text.encode()
                files.add(Path(path), lambda file, content=content: file.write(content))  # type: ignore[misc]
    emit(args, result, table(result))
    return 0


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
