"""Every backend in every precision, beside MONAI: seconds per step and per decode, one after the other in one run.

    python benchmarks/scripts/backends.py --latent 16 --rounds 3
    python benchmarks/scripts/backends.py --latent 32 --rounds 1 --append benchmarks/results/backends.jsonl

The networks are the official ones with random weights. Each side runs in a process of its own, which ends before the
next begins, so that none is short of memory; a round is one turn of each, and ratios (MONAI fp32's seconds over a
side's) are formed within a round. A decode is of the whole latent at once: for MONAI that is faster than its windows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import records
from ours import prepare
from pipelines import Float32, Request
from sides import Side, limit_threads, run_apart

REFERENCE = "monai fp32"
#: What can be compared; those that a machine cannot run are left out, with the reason on the screen.
SIDES = (
    REFERENCE,
    "monai autocast",
    "ctfast openvino:fp32",
    "ctfast openvino:bf16",
    "ctfast openvino:fp16",
    "ctfast openvino:int8",
    "ctfast onnxruntime:fp32",
    "ctfast torch:fp32",
    "ctfast torch:bf16",
)


def main() -> int:
    """Measure, print a table, and keep a row if asked to."""
    options = _options()
    limit_threads(options.threads)
    load_before = records.load()
    precisions = {name.partition(":")[2] for name in options.sides} & {"bf16", "fp32", "int8"}
    models = run_apart(prepare, options.cache, options.weights_seed, sorted({"bf16", *precisions}))
    extent = (options.latent,) * 3
    request = Request(extent, options.steps, False, extent, 0.0)
    noise = _noise(request)
    seconds: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, float] = {}
    for number in range(options.rounds):
        for name in options.sides if number % 2 == 0 else reversed(options.sides):
            try:
                step, decode, peak = _turn(name, models, request, noise, options.threads)
            except RuntimeError as error:
                _say(f"{name}: left out: {str(error).strip().splitlines()[-1]}")
                continue
            kept = seconds.setdefault(name, {"step": [], "decode": []})
            kept["step"].append(step)
            kept["decode"].append(decode)
            memory[name] = max(memory.get(name, 0.0), peak)
            _say(f"round {number + 1}: {name:24} step {step:7.3f} s  decode {decode:7.2f} s  peak {peak:.2f} GiB")
    settings = {
        "latent": options.latent,
        "steps": options.steps,
        "rounds": options.rounds,
        "threads": options.threads,
        "weights": f"random, seed {options.weights_seed}",
    }
    figures = {
        "seconds": {
            name: {part: records.summary(all_) for part, all_ in kept.items()} for name, kept in seconds.items()
        },
        "ratio": {name: _ratios(seconds[REFERENCE], kept) for name, kept in seconds.items()},
        "peak_rss_gib": memory,
    }
    records.give(options, records.row("backends", settings, figures, load_before))
    return 0


def _turn(name: str, models: Path, request: Request, noise: Float32, threads: int) -> tuple[float, float, float]:
    """Seconds of a step and of a decode, and the peak of the memory, of one side in a fresh process."""
    side = Side(name, models, threads)
    try:
        side.call("warm_up", request, noise, None)
        sampled = side.call("sample", request, noise, None)
        decoded = side.call("decode", request, sampled.array, float(sampled.array.std()), False)
        return sampled.seconds / request.steps, decoded.seconds, side.call("about")["peak_rss_gib"]
    finally:
        side.close()


def _ratios(reference: dict[str, list[float]], side: dict[str, list[float]]) -> dict[str, Any]:
    return {
        part: records.summary([theirs / ours for theirs, ours in zip(reference[part], side[part], strict=True)])
        for part in side
    }


def _noise(request: Request) -> Float32:
    from ctfast import _native

    noise: Float32 = _native.fill_normal(0, 0, (4, *request.latent))
    return noise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", type=int, default=16, help="extent, a multiple of 8 (default: 16)")
    parser.add_argument("--steps", type=int, default=5, help="to take the mean over (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side (default: 3)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help="some of them")
    parser.add_argument("--threads", type=int, default=2, help="for each side (default: 2)")
    parser.add_argument("--weights-seed", type=int, default=1, help="of the weights")
    cache = records.ROOT / "build" / "benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="keeps weights and plans (default: %(default)s)")
    records.add_output_options(parser)
    options = parser.parse_args()
    if options.latent < 8 or options.latent % 8:
        parser.error("--latent: expected a multiple of 8")
    if REFERENCE not in options.sides:
        parser.error(f"--sides: expected '{REFERENCE}' among them")
    if min(options.steps, options.rounds, options.threads) < 1:
        parser.error("--steps, --rounds and --threads: expected whole numbers from 1 on")
    return options


if __name__ == "__main__":
    sys.exit(main())
