"""``ctfast train``: VAE, rectified flow and ControlNet from prepared crops."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .common import ProgressBar, command_parser, emit
from .extras import import_extra

TASKS = ("vae", "flow", "controlnet")


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "train",
        "train networks",
        "Train one network of a model on crops made by 'ctfast data prepare', or go on where an interrupted run "
        "stopped. The order is vae, flow, controlnet. Needs torch and MONAI: pip install 'ctfast[train]'. Several "
        "GPUs: torchrun --nproc-per-node N -m ctfast train ...",
        "ctfast train vae --config headneck --data prepared --output runs/vae\n"
        "  ctfast train flow --config headneck --data prepared --vae runs/vae/vae.pt --output runs/flow",
    )
    parser.add_argument("task", choices=TASKS, help="which network")
    parser.add_argument("--config", default="headneck", help="YAML file or name of a shipped one (default: headneck)")
    parser.add_argument("--data", metavar="DIR", help="prepared crops (default: data.root of the configuration)")
    parser.add_argument("--output", metavar="DIR", required=True, help="where checkpoints and logs go, and are found")
    parser.add_argument("--vae", metavar="FILE", help="flow, controlnet: vae.pt of 'train vae', or a plan")
    parser.add_argument("--flow", metavar="FILE", help="controlnet: checkpoint.pt of 'train flow', or a plan")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--from-plan", metavar="PLAN", help="begin with this plan's weights; it also stands in for --vae and --flow"
    )
    start.add_argument("--from-checkpoint", metavar="FILE", help="begin with the weights of a checkpoint")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after step N; the same command goes on")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all that this process may use")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    for name in ("stop_after", "threads"):
        given = getattr(args, name)
        if given is not None and given < 1:
            raise RequestError(f"--{name.replace('_', '-')}: expected 1 or more, found {given}")
    start, sources = _sources(args)
    trainer = import_extra(f"ctfast.train.{args.task}", "training", "train")
    distributed = import_extra("ctfast.train.distributed", "training", "train")
    config = import_extra("ctfast.train.config", "training", "train").load(args.config)
    if args.data is not None:
        config = replace(config, data=replace(config.data, root=args.data))
    if args.threads is not None:
        import_extra("torch", "training", "train").set_num_threads(args.threads)
    folder, began = Path(args.output), time.perf_counter()
    train = getattr(trainer, f"train_{args.task}")
    try:
        rank, _ = distributed.distributed()
        args.quiet = args.quiet or rank > 0
        with ProgressBar(args) as progress:
            path = train(config, *sources, folder, stop_after=args.stop_after, start=start, progress=progress)
    finally:
        distributed.leave()
    if rank == 0:
        _report(args, path, folder / "log.jsonl", time.perf_counter() - began)
    return 0


def _sources(args: argparse.Namespace) -> tuple[str | Path | None, list[Path]]:
    """What the network begins with, and the files of the networks it builds on."""
    plan = _plan(args.from_plan)
    start = args.from_checkpoint if plan is None else Path(plan.name)
    if args.task == "controlnet" and plan is not None and "controlnet" not in plan.manifest.networks:
        start = None  # it begins as a copy of the plan's denoiser
    needed = {"vae": (), "flow": ("vae",), "controlnet": ("vae", "flow")}[args.task]
    sources = []
    for name in needed:
        given = getattr(args, name) or (plan.name if plan is not None else None)
        if given is None:
            raise RequestError(
                f"train {args.task}: expected --{name} with the result of 'ctfast train {name}', or --from-plan"
            )
        if not Path(given).is_file():
            raise RequestError(f"--{name}: there is no file '{given}'; make it with 'ctfast train {name}'")
        sources.append(Path(given))
    return start, sources


def _plan(name: str | None) -> Any:
    if name is None:
        return None
    from ..locate import plan_path
    from ..plan import Plan

    return Plan.open(plan_path(name))


def _report(args: argparse.Namespace, path: Path, log: Path, seconds: float) -> None:
    """What was written, and the last figures of the log."""
    figures: dict[str, Any] = {}
    for line in log.read_text().splitlines():
        figures |= json.loads(line)
    result = {"checkpoint": str(path), "seconds": round(seconds, 1), "last": figures}
    said = ", ".join(f"{k} {v:g}" for k, v in figures.items() if k == "loss" or k.startswith("val_"))
    emit(args, result, f"{path}: step {figures.get('step', 0)}, {said}, {seconds:.0f} s")
