"""``ctfast verify``: whether a plan's bytes are those that were built, and compute what its checkpoints compute."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import PlanError, RequestError
from .common import ProgressBar, command_parser, emit
from .extras import import_extra
from .weights import WEIGHTS_HELP, given_weights


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "verify",
        "check a plan, or compare it with its checkpoints",
        "Compare the checksum of every section of a plan; with --against, run every network in fp32 on random input "
        "and compare it with torch. Exit code 3 if anything differs.",
        "ctfast verify maisi_v2.plan --against models/",
    )
    parser.add_argument("plan", nargs="?", help="path of a plan or name of an embedded one (default: headneck)")
    group = parser.add_argument_group("checkpoints", "Needs torch and onnx: pip install 'ctfast[export]'.")
    group.add_argument("--against", metavar="PATH", action="append", help=WEIGHTS_HELP)
    group.add_argument(
        "--description",
        metavar="MODEL",
        help="what the plan was built from: a published variant, or a JSON or YAML description (default: the plan's "
        "own variant)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the random input (default: 0)")
    group.add_argument("--threads", type=int, default=0, metavar="N", help="default: all that this process may use")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..locate import plan_path
    from ..plan import Plan

    if args.description is not None and not args.against:
        raise RequestError("--description goes with --against: there is nothing to compare the plan with")
    path = plan_path(args.plan)
    plan = Plan.open(path)
    with ProgressBar(args) as progress:
        plan.verify(lambda stage, done, total: progress(stage, done, total))
        checks = _compared(args, path, progress) if args.against else ()
    name = plan.manifest.name
    result = {"path": plan.name, "name": name, "ok": True, "sections": len(plan.sections), "identity": plan.identity}
    lines = [f"{plan.name}: ok, {len(plan.sections)} sections, identity {plan.identity}"]
    if not args.against:
        emit(args, result, lines[0])
        return 0
    left_out = [network for network in plan.manifest.networks if network not in {check.network for check in checks}]
    wrong = [check.network for check in checks if not check.ok]
    result |= {"ok": not wrong, "networks": [_told(check) for check in checks], "not_compared": left_out}
    lines += [_line(check) for check in checks]
    lines += [f"not compared, since no weights were given: {', '.join(left_out)}"] if left_out else []
    emit(args, result, "\n".join(lines))
    if wrong:
        # Said here and not raised, since with --json there is one object on stdout, and it has the figures.
        print(
            f"ctfast: error: '{plan.name}' does not compute what these checkpoints compute: {', '.join(wrong)}. Check "
            "that they are the files it was built from, or build it again",
            file=sys.stderr,
        )
        return PlanError.exit_code
    return 0


def _compared(args: argparse.Namespace, path: Path, progress: ProgressBar) -> Any:
    """One NetworkCheck for each network that there are weights for."""
    tools = import_extra("ctfast.export.verify", "comparing a plan with checkpoints", "export")
    weights = given_weights("--against", args.against)
    return tools.verify_against(
        path, weights, args.description, seed=args.seed, threads=args.threads, observer=progress
    )


def _told(check: Any) -> dict[str, Any]:
    return {
        "network": check.network,
        "ok": check.ok,
        # JSON has no infinity, which stands for a result that is not finite or of another shape.
        "graph_error": check.graph_error if check.graph_error < float("inf") else None,
        "weights_error": check.weights_error if check.weights_error < float("inf") else None,
        "altered": list(check.altered),
    }


def _line(check: Any) -> str:
    text = f"{check.network}: {'ok' if check.ok else 'DIFFERS'}, relative error {check.graph_error:.1e}"
    text += f", with the rounding of its weights {check.weights_error:.1e}"
    if check.altered:
        more = f" and {len(check.altered) - 3} more" if len(check.altered) > 3 else ""
        text += f"; other weights in {', '.join(check.altered[:3])}{more}"
    return text
