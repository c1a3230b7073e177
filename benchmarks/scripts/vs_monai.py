"""ctfast against MONAI: the same official-architecture weights, the same noise, the same request, in turn.

    python benchmarks/scripts/vs_monai.py --latent 16 --pairs 5
    python benchmarks/scripts/vs_monai.py --latent 32 --pairs 3 --append benchmarks/results/vs_monai.jsonl
    python benchmarks/scripts/vs_monai.py --latent 32 --control --dtype bf16/autocast

Each side runs in a process of its own with the same number of threads. In every round the sides take their turns, and
ratios (MONAI's seconds over ctfast's) are formed within a round; printed are the medians over the rounds. What happens
once (reading weights, compiling) is timed apart. MONAI runs at its fastest: fused attention, no splits.

The weights are random, so the latent does not stay at unit scale: both sides divide it by the same constant before
decoding, as the official scripts do with their scale factor.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import records
from numpy.typing import NDArray
from ours import prepare
from pipelines import HU_OFFSET, HU_SCALE, Float32, Request, Size3
from sides import Side, limit_threads, run_apart

#: Comparisons by name (ours/MONAI's), and the sides that each needs.
COMPARISONS = {
    "bf16/fp32": ("ctfast bf16", "monai fp32"),
    "bf16/autocast": ("ctfast bf16", "monai autocast"),
    "fp32/fp32": ("ctfast fp32", "monai fp32"),
}
#: The order within a round: neighbours are compared with one another.
TURNS = ("monai fp32", "ctfast bf16", "monai autocast", "ctfast fp32")
STAGES = ("sample", "decode", "total")
#: In HU; stands for identical images.
LEAST_ERROR = 1e-6


class Measurement:
    """Both stages of every side, round by round, and the first round's results."""

    def __init__(self, request: Request, sides: Sequence[Side], seed: int) -> None:
        from ctfast import _native

        self.request = request
        self.sides = sides
        self.noise: Float32 = _native.fill_normal(seed, 0, (4, *request.latent))
        self.labels = _blocks_of_labels(request.image) if request.control else None
        self.seconds: dict[str, dict[str, list[float]]] = {side.name: {stage: [] for stage in STAGES} for side in sides}
        self.latents: dict[str, Float32] = {}
        self.images: dict[str, Float32] = {}
        self.scale = 0.0

    def warm_up(self) -> dict[str, float]:
        """Seconds that each side's first calls took."""
        return {side.name: round(side.call("warm_up", self.request, self.noise, self.labels), 2) for side in self.sides}

    def round(self, number: int) -> None:
        """One turn of each side; every other round in reverse order, so that a drift of the machine cancels."""
        for side in self.sides if number % 2 == 0 else reversed(self.sides):
            sampled = side.call("sample", self.request, self.noise, self.labels)
            if not self.scale:
                self.scale = float(f"{sampled.array.std():.3g}")
            # MONAI's way is windows; ctfast's is the whole volume.
            windowed = side.name.startswith("monai")
            decoded = side.call("decode", self.request, sampled.array, self.scale, windowed)
            for stage, value in zip(STAGES, (sampled.seconds, decoded.seconds), strict=False):
                self.seconds[side.name][stage].append(value)
            self.seconds[side.name]["total"].append(sampled.seconds + decoded.seconds)
            if number == 0:
                self.latents[side.name] = sampled.array
                self.images[side.name] = decoded.array
            _say(f"round {number + 1}: {side.name:14} sample {sampled.seconds:8.2f} s  decode {decoded.seconds:8.2f} s")

    def decode_alike(self) -> dict[str, float]:
        """Have ctfast decode in MONAI's windows, where MONAI does, so that images can be compared; returns seconds."""
        seconds = {}
        if self.request.windows_needed:
            for side in self.sides:
                if side.name.startswith("ctfast"):
                    latent = self.latents[side.name]
                    decoded = side.call("decode", self.request, latent, self.scale, True)
                    self.images[side.name], seconds[side.name] = decoded.array, round(decoded.seconds, 3)
        return seconds

    def agreement(self, one: str, other: str) -> dict[str, float]:
        """How close two sides' results are: ``one`` against ``other``."""
        image, reference = self.images[one], self.images[other]
        latent, latent_reference = self.latents[one], self.latents[other]
        shown = _hu(reference)
        error = math.sqrt(float(np.mean((_hu(image).astype(np.float64) - shown) ** 2)))
        inside = (shown > HU_OFFSET) & (shown < HU_OFFSET + HU_SCALE)
        return {
            "psnr_db": round(20 * math.log10(HU_SCALE / max(error, LEAST_ERROR)), 2),
            "image_rel_l2": _relative(image, reference),
            "latent_rel_l2": _relative(latent, latent_reference),
            "inside_window": round(float(inside.mean()), 3),
        }


def main() -> int:
    """Measure, print a table, and keep rows if asked to."""
    options = _options()
    limit_threads(options.threads)
    load_before = records.load()
    if load_before > 0.3:
        _say(f"note: the machine is busy (load {load_before}); ratios hold up better than times do")
    chosen = list(COMPARISONS) if options.dtype == "all" else [options.dtype]
    models = run_apart(prepare, options.cache, options.weights_seed)
    window = (options.roi,) * 3
    request = Request(_three(options.latent), options.steps, options.control, window, options.overlap)
    needed = {name for comparison in chosen for name in COMPARISONS[comparison]}
    sides = [Side(name, models, options.threads) for name in TURNS if name in needed]
    measured = Measurement(request, sides, options.seed)
    warm = measured.warm_up()
    for number in range(options.pairs):
        measured.round(number)
    alike = measured.decode_alike()
    once = {
        side.name: {"load_s": round(side.load_seconds, 2), "first_calls_s": warm[side.name], **side.call("about")}
        for side in sides
    }
    for side in sides:
        side.close()
    settings = {
        **asdict(request),
        "image": request.image,
        "threads": options.threads,
        "pairs": options.pairs,
        "weights": f"random, seed {options.weights_seed}",
        "scale": measured.scale,
    }
    rows = []
    for comparison in chosen:
        our_side, their_side = COMPARISONS[comparison]
        figures = {
            "comparison": comparison,
            "seconds": {
                name: {stage: records.summary(values) for stage, values in measured.seconds[name].items()}
                for name in (our_side, their_side)
            },
            "ratio": {stage: records.summary(_ratios(measured, our_side, their_side, stage)) for stage in STAGES},
            "agreement": measured.agreement(our_side, their_side),
            "once": {name: once[name] for name in (our_side, their_side)},
        }
        if our_side in alike:
            figures["decode_in_windows_s"] = {our_side: alike[our_side]}
        if comparison == "bf16/autocast" and "monai fp32" in measured.images:
            figures["against_monai_fp32"] = {
                name: measured.agreement(name, "monai fp32") for name in (our_side, their_side)
            }
        rows.append(records.row("vs_monai", settings, figures, load_before))
    _print_table(rows)
    records.give(options, rows)
    return 0


def _ratios(measured: Measurement, ours: str, theirs: str, stage: str) -> list[float]:
    pairs = zip(measured.seconds[theirs][stage], measured.seconds[ours][stage], strict=True)
    return [their_seconds / our_seconds for their_seconds, our_seconds in pairs]


def _hu(image: Float32) -> Float32:
    """HU on the window that volumes are clipped to, not rounded."""
    shown: Float32 = np.clip(image, 0.0, 1.0) * np.float32(HU_SCALE) + np.float32(HU_OFFSET)
    return shown


def _relative(one: Float32, other: Float32) -> float:
    difference = np.linalg.norm((one.astype(np.float64) - other).ravel())
    return float(f"{difference / np.linalg.norm(other.astype(np.float64).ravel()):.3g}")


def _blocks_of_labels(image: Size3) -> NDArray[np.uint16]:
    """A label map that uses every bit: cubes of eight voxels, each of another label."""
    x, y, z = np.indices(image) // 8
    labels: NDArray[np.uint16] = ((x * 37 + y * 11 + z * 5) % 256).astype(np.uint16)
    return labels


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    settings = rows[0]["settings"]
    size = " x ".join(str(extent) for extent in settings["latent"])
    control = ", with ControlNet" if settings["control"] else ""
    counts = f"{settings['steps']} steps, {settings['threads']} threads, {settings['pairs']} rounds"
    _say(f"\nlatent {size}{control}, {counts}")
    _say("ours/MONAI      stage      MONAI s   ctfast s   ratio (low to high)")
    for entry in rows:
        ours, theirs = COMPARISONS[entry["comparison"]]
        for stage in STAGES:
            their_time = entry["seconds"][theirs][stage]["median"]
            our_time = entry["seconds"][ours][stage]["median"]
            ratio = entry["ratio"][stage]
            _say(
                f"{entry['comparison']:15} {stage:8} {their_time:9.2f} {our_time:10.2f}   "
                f"{ratio['median']:5.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            )
        agreement = entry["agreement"]
        _say(
            f"{'':15} PSNR {agreement['psnr_db']:.1f} dB on [-1000, 1000] HU, relative L2 of the latent "
            f"{agreement['latent_rel_l2']:.1e}, of the image {agreement['image_rel_l2']:.1e}"
        )
        for name, against in entry.get("against_monai_fp32", {}).items():
            _say(f"{'':15} {name} against monai fp32: PSNR {against['psnr_db']:.1f} dB")


def _three(values: Sequence[int]) -> Size3:
    a, b, c = values if len(values) == 3 else (values[0],) * 3
    return a, b, c


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", type=int, nargs="+", default=[16], help="extent, one or three multiples of 8")
    parser.add_argument("--steps", type=int, default=30, help="default: 30")
    parser.add_argument("--pairs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--dtype", choices=("all", *COMPARISONS), default="all", help="ours/MONAI's (default: all)")
    parser.add_argument("--control", action="store_true", help="with the ControlNet, on a label map")
    parser.add_argument("--roi", type=int, default=20, help="MONAI's decoding window in latent voxels (default: 20)")
    parser.add_argument("--overlap", type=float, default=0.4, help="of the windows (default: 0.4)")
    parser.add_argument("--threads", type=int, default=2, help="for each side (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--weights-seed", type=int, default=1, help="of the weights")
    cache = records.ROOT / "build" / "benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="keeps weights and plans (default: %(default)s)")
    records.add_output_options(parser)
    options = parser.parse_args()
    if len(options.latent) not in (1, 3) or any(extent < 8 or extent % 8 for extent in options.latent):
        parser.error("--latent: expected one or three multiples of 8")
    if options.pairs < 1 or options.steps < 1 or options.threads < 1:
        parser.error("--pairs, --steps and --threads: expected whole numbers from 1 on")
    return options


if __name__ == "__main__":
    sys.exit(main())
