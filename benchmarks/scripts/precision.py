"""What each precision costs and saves: how far volumes are from fp32, seconds per step and decode, size of the plan.

    ctfast build MODEL --weights ... -o fp32.plan --precision fp32        and so with bf16 and int8
    python benchmarks/scripts/precision.py --plan fp32=fp32.plan --plan bf16=bf16.plan --plan int8=int8.plan \\
        --phantom --append benchmarks/results/precision.jsonl

All plans are of the same checkpoints. fp16 runs from the plan for bf16 unless it has one of its own: both hold float16
weights. In every round each precision makes the same volume in turn, the first of a round changing from one to the
next, so that a busy moment is shared. A precision that the processor lacks is left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import records
from generation import HU_RANGE, LEAST_SQUARE

import ctfast
from ctfast.errors import DeviceError
from ctfast.phantom import phantom

TIERS = ("fp32", "bf16", "fp16", "int8")


def opened(plans: Mapping[str, Path], threads: int) -> dict[str, Any]:
    """An engine for each precision that there is a plan for and that this processor has."""
    engines = {}
    for tier in TIERS:
        path = plans.get(tier) or (plans.get("bf16") if tier == "fp16" else None)
        if path is None:
            continue
        try:
            asked = None if tier == "int8" else tier
            engines[tier] = ctfast.load(path, precision=asked, threads=threads, backend="openvino")
        except DeviceError as error:
            print(f"{tier}: left out: {error}", file=sys.stderr)
    return engines


def psnr(volume: Any, reference: Any) -> float:
    """Of the whole volume, on the HU window that it is clipped to."""
    error = float(np.mean((volume.array.astype(np.float64) - reference.array) ** 2))
    return 10 * math.log10(HU_RANGE**2 / max(error, LEAST_SQUARE))


def measure(engines: Mapping[str, Any], seeds: int, steps: int, masked: bool) -> dict[str, Any]:
    """Distances from fp32 and seconds by precision; the first volume of each is not counted."""
    names = list(engines)
    found: dict[str, dict[str, list[float]]] = {name: {"psnr": [], "step": [], "decode": []} for name in names}
    for engine in engines.values():
        engine.generate(seed=0, steps=1, mask=phantom(seed=0) if masked else None)
    ran_in: dict[str, Any] = {}
    for seed in range(seeds):
        mask = phantom(seed=seed) if masked else None
        turn = names[seed % len(names) :] + names[: seed % len(names)]
        volumes = {name: engines[name].generate(seed=seed, steps=steps, mask=mask) for name in turn}
        for name, volume in volumes.items():
            found[name]["psnr"].append(psnr(volume, volumes["fp32"]))
            found[name]["step"].append(volume.meta["timings"]["sample"] / steps)
            found[name]["decode"].append(volume.meta["timings"]["decode"])
            ran_in[name] = volume.meta["precision"]
    return {
        name: {
            "psnr_db": None if name == "fp32" else records.summary(values["psnr"], 2),
            "step_s": records.summary(values["step"], 5),
            "decode_s": records.summary(values["decode"], 4),
            "ran_in": ran_in[name],
        }
        for name, values in found.items()
    }


def main() -> int:
    """Measure, print, and keep a row if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="append", required=True, metavar="TIER=PATH", help="fp32 and bf16 at least")
    parser.add_argument("--seeds", type=int, default=3, help="volumes of each precision (default: 3)")
    parser.add_argument("--steps", type=int, default=30, help="default: 30")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--phantom", action="store_true", help="also with phantoms as masks, of the embedded plan's labels"
    )
    records.add_output_options(parser)
    options = parser.parse_args()
    plans = {tier: Path(path) for tier, _, path in (entry.partition("=") for entry in options.plan)}
    if not {"fp32", "bf16"} <= set(plans) <= set(TIERS):
        parser.error(f"--plan: expected at least fp32 and bf16, of {', '.join(TIERS)}; found {', '.join(plans)}")

    load_before = records.load()
    engines = opened(plans, options.threads)
    tiers = measure(engines, options.seeds, options.steps, masked=False)
    for tier, engine in engines.items():
        tiers[tier]["plan_bytes"] = engine.path.stat().st_size
    figures: dict[str, Any] = {"tiers": tiers}
    if options.phantom:
        masked = measure(engines, options.seeds, options.steps, masked=True)
        figures["with_mask"] = {
            name: {key: value for key, value in tier.items() if key != "decode_s"} for name, tier in masked.items()
        }
    plan = engines["fp32"]
    settings = {
        "plan": {"name": plan.manifest.name, "variant": plan.manifest.variant},
        "size": list(plan.manifest.sizes.default),
        "steps": options.steps,
        "seeds": options.seeds,
        "threads": options.threads,
    }
    entry = records.row("precision", settings, figures, load_before)
    for kind in ("tiers", "with_mask"):
        for name, tier in figures.get(kind, {}).items():
            close = "reference" if tier["psnr_db"] is None else f"{tier['psnr_db']['median']:.1f} dB"
            step = tier["step_s"]["median"] * 1e3
            print(f"{kind} {name}: {close}, {step:.1f} ms per step", file=sys.stderr)
    records.give(options, entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
