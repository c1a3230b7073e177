"""ctfast against MONAI on a GPU: correctness first, then both pipelines in turn at several sizes.

    python benchmarks/scripts/gpu.py --append benchmarks/results/gpu.jsonl          # under 9 minutes on one H200
    python benchmarks/scripts/gpu.py --profile 512 512 512                          # the ten most expensive kernels
    python benchmarks/scripts/gpu.py --dry-run                                      # the same code on the CPU, small

Both sides have the official architecture with the same random weights, bf16, and the same noise. MONAI runs at its best
here: fused attention, no splits, nothing emptied in between, windows of 80 latent voxels as in the official scripts,
kept on the GPU. ctfast decodes exactly. Times are of whole stages, results on this computer included; the first call in
a shape is not counted. --engine measures another plan alone, and so does --dry-run, the embedded one unless told
otherwise. Rows are kept as soon as they are measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import records
import torch
from gpu_checks import backend_errors, kernel_errors
from gpu_sides import Ours, Size3, ceilings, most_expensive
from ours import prepare

SIZES: tuple[Size3, ...] = ((256, 256, 128), (512, 512, 128), (512, 512, 512), (512, 512, 768))
#: The largest size also has to do with less memory than it would take.
CAPPED = "24GiB"
_LIMIT = 500.0  # seconds after which no further size is begun


def main() -> int:
    """Check, measure, print, and keep rows if asked to."""
    options = _options()
    device = "cpu" if options.dry_run else options.device
    if device != "cpu" and not torch.cuda.is_available():
        print("gpu.py: torch finds no CUDA device; --dry-run runs the same code on the CPU", file=sys.stderr)
        return 2
    begun, load_before = time.perf_counter(), records.load()
    models = None if options.engine or options.dry_run else prepare(options.cache, 0, ("bf16",))
    engine = options.engine if models is None else str(models.parent / "bf16.plan")
    ours = Ours(engine, device)
    if options.profile:
        print(most_expensive(ours, tuple(options.profile), options.steps))
        return 0
    sizes = [tuple(size) for size in options.sizes or ()] or ([ours.default_size] if options.dry_run else SIZES)
    settings = {"device": device, "steps": options.steps, "rounds": options.rounds, "threads": torch.get_num_threads()}
    about = {"gpu": ours.gpu(), "ceilings": ceilings(device)}
    _say(f"{about['gpu']}; {about['ceilings']}")
    errors = {"kernels": kernel_errors(device), "backend": backend_errors(engine, device, sizes[0])}
    _say(f"relative L2 from fp32: {errors}")
    records.give(options, records.row("gpu_checks", settings, {**about, **errors}, load_before))
    peer = None if options.no_peer or models is None else _peer(models, device)
    for size in sizes:
        for control in (False, True) if ours.has_controlnet else (False,):
            if time.perf_counter() - begun > _LIMIT:
                _say(f"{size}: not begun, the time is up")
                continue
            figures = _measure(ours, peer, size, control, options)
            asked = {**settings, "size": size, "control": control}
            records.give(options, records.row("gpu", asked, {**about, **figures}, load_before))
            _say(f"{size}{' with ControlNet' if control else ''}: {figures}")
    return 0


def _measure(ours: Ours, peer: Any, size: Size3, control: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of both sides, which take turns, and what they mean beside the machine's ceilings."""
    memory = CAPPED if size == SIZES[-1] else None
    sides: dict[str, Callable[[int], dict[str, float]]] = {
        "ctfast": lambda seed: ours.run(size, control, options.steps, seed, memory)
    }
    if peer is not None:
        sides["monai"] = lambda seed: peer.run(size, control, options.steps, seed)
    figures: dict[str, Any] = {}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for seed in range(options.rounds + 1):
        for name in list(taken):
            try:
                stages = sides[name](seed)
            except torch.OutOfMemoryError as error:
                figures[name] = {"out_of_memory": str(error).partition("\n")[0]}
                del taken[name]
                torch.cuda.empty_cache()
                continue
            if seed > 0:  # the first one compiles and records
                taken[name].append(stages)
    for name, rounds in taken.items():
        figures[name] = {stage: round(median(each[stage] for each in rounds), 4) for stage in rounds[0]}
    figures["work"] = ours.work(size, figures["ctfast"], options.steps, control)
    if len(taken) == 2:
        figures["ratio"] = round(figures["monai"]["total"] / figures["ctfast"]["total"], 2)
    return figures


def _peer(models: Path, device: str) -> Any:
    try:
        from peer.gpu_pipeline import GpuPipeline
    except ModuleNotFoundError as error:
        _say(f"without MONAI's side: {error}")
        return None
    return GpuPipeline(models, device)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a small plan")
    parser.add_argument("--size", dest="sizes", type=int, nargs=3, action="append", metavar=("X", "Y", "Z"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=int, nargs=3, metavar=("X", "Y", "Z"), help="name the most expensive kernels")
    parser.add_argument("--engine", help="measure this plan instead of the official architecture, without MONAI")
    parser.add_argument("--no-peer", action="store_true", help="leave MONAI out")
    parser.add_argument("--cache", type=Path, default=records.ROOT / "benchmarks" / "cache")
    records.add_output_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
