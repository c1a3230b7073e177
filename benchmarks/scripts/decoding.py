"""The exact decode: how exact, whether seamless, in what memory and time, and against MONAI's sliding window.

    python benchmarks/scripts/decoding.py --exactness --seams --planner --saving --scans prepared/val \\
        --append benchmarks/results/decoding.jsonl
    python benchmarks/scripts/decoding.py --memory --large-seams --monai --windows 2 \\
        --append benchmarks/results/decoding.jsonl

The decoder has the official shape with random weights in every layer, its last one scaled so that images of noise fill
the range of a trained decoder's; with --scans, latents of real CT are decoded by the embedded plan too. Each part is
measured only if asked for; a row is appended as soon as it is measured, and a part that fails leaves the others alone.

- --exactness: every way of decoding under several budgets, against torch's fp32 decode of the whole;
- --seams: jumps at the borders of slabs and of windows, over those one voxel beside, on the --scans;
- --large-seams: the same on noise of latent 64^3;
- --memory: each decode in a fresh process, in bf16: seconds, peak memory beyond the networks, and what was predicted;
- --monai: MONAI's sliding window on the same latent and weights (--windows of its equal windows are timed and the rest
  counted as they were) in fp32 and under bf16 autocast, with ours beside it;
- --saving: a volume of 512^3 to .nii.gz;
- --planner: what the planner would do for large volumes on a GPU; computed, not measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import records
from decode_sides import monai_windows, ours, saving
from sides import limit_threads, run_apart

from ctfast.locate import plan_path

Size3 = tuple[int, int, int]
Figures = Mapping[str, Any]
GIB = 1 << 30

#: Latents that exactness is measured on: two even ones, and one whose extents no slab divides.
EXACT = ((8, 8, 8), (9, 7, 11), (16, 16, 16))
#: Latent, and the budgets in GiB that it is decoded within.
WITHIN: Mapping[Size3, tuple[float, ...]] = {(64, 64, 64): (6, 3), (128, 128, 32): (10,)}
#: MONAI's window for the official size of 256^3, and overlaps: the official one, of which MONAI makes steps of 16 and 8
#: windows, and two thirds to one digit more, which gives steps of 15 (rounded down from 15.998) and 27 windows.
ROI, OVERLAPS = 48, (0.6666, 0.6667)
#: Image sizes and memory of the planner's table, and what the card is taken to do.
PLANNED = ((512, 512, 512), (512, 512, 768))
CARDS_GIB = (8, 16, 24, 48, 80)
CARD = {"rate": 200e12, "spill_rate": 25e9}


def main() -> int:
    """Measure what was asked for."""
    options = _options()
    limit_threads(options.threads)
    failed = []
    for name, part in PARTS.items():
        if not getattr(options, name):
            continue
        load_before = records.load()
        try:
            for figures in part(options):
                settings = {"part": name, "threads": options.threads, "weights_seed": options.weights_seed}
                entry = records.row("decoding", settings, figures, load_before)
                print(f"{name}: {_line(figures)}", file=sys.stderr, flush=True)
                if options.append is not None:
                    records.append(options.append, [entry])
        except (Exception, SystemExit):
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def exactness(options: argparse.Namespace) -> Iterator[Figures]:
    """A row per latent."""
    import decode_checks
    from real_latents import chosen

    scans = chosen(options.scans, options.limit) if options.scans else []
    yield from decode_checks.exactness(_home(options), EXACT, scans, options.engine, options.threads)


def seams(options: argparse.Namespace) -> Iterator[Figures]:
    """A row per scan, decoded by the embedded plan."""
    import decode_checks
    from decoder import Decoder
    from real_latents import chosen, embedded_vae, encoded

    vae = embedded_vae(options.engine)
    decoder = Decoder(options.engine, "fp32", options.threads)
    for path in chosen(options.scans, options.limit):
        case = encoded(vae, path)
        latent = (case.latent * decoder.manifest.latent.scale_factor).numpy()
        every = decode_checks.every_way(decoder, decode_checks.size_of(latent))
        found = decode_checks.seams(decoder, latent, every, (12, 12, 8), 0.4)
        yield {"weights": "embedded plan", "case": case.name, "precision": "fp32", "ways": found}


def large_seams(options: argparse.Namespace) -> Iterator[Figures]:
    """One row: noise through the full width."""
    import decode_checks
    import full_width
    from decoder import Decoder

    size = _three(options.seam_latent)
    decoder = Decoder(_home(options) / full_width.PLANS["bf16"], "bf16", options.threads)
    window = (size[0] // 2, size[1] // 2, size[2] // 2)
    within = decode_checks.ways_within(decoder, size, [int(gib * GIB) for gib in options.seam_gib])
    found = decode_checks.seams(decoder, full_width.noise(size).numpy(), within, window, 0.4)
    yield {"weights": "random, full width", "case": "noise", "latent": list(size), "precision": "bf16", "ways": found}


def memory(options: argparse.Namespace) -> Iterator[Figures]:
    """A row per latent and budget; where the machine can, after one without a budget, whose time is the measure."""
    import full_width

    path = _home(options) / full_width.PLANS["bf16"]
    for latent, budgets in _within(options).items():
        whole = None
        if latent[0] * latent[1] * latent[2] <= options.largest_whole**3:
            whole = run_apart(ours, path, "bf16", options.threads, latent, None, options.repeats)
            yield {"latent": list(latent), "precision": "bf16", "memory_gib": None, **whole}
        for gib in budgets:
            found = run_apart(ours, path, "bf16", options.threads, latent, int(gib * GIB), options.repeats)
            if whole is not None and "seconds" in found and "seconds" in whole:
                found["time_to_whole"] = round(min(found["seconds"]) / min(whole["seconds"]), 3)
            yield {"latent": list(latent), "precision": "bf16", "memory_gib": gib, **found}


def monai(options: argparse.Namespace) -> Iterator[Figures]:
    """A row per precision and overlap of MONAI's, with our decode just before."""
    import full_width

    home, latent = _home(options), _three(options.monai_latent)
    ways: dict[str, Any] = {}
    for precision, gib in (("bf16", None), ("bf16", 6.0), ("fp32", None)):
        budget = None if gib is None else int(gib * GIB)
        path = home / full_width.PLANS[precision]
        label = f"{precision} {'whole' if gib is None else f'within {gib:g} GiB'}"
        if options.monai_precision in (precision, "both"):
            ways[label] = run_apart(ours, path, precision, options.threads, latent, budget, options.repeats)
    for dtype in ("fp32", "autocast"):
        arguments = (options.threads, latent, options.roi, OVERLAPS, options.windows)
        for theirs in run_apart(monai_windows, home / full_width.STATE, dtype, *arguments):
            ratios = {
                label: round(min(found["seconds"]) / theirs["seconds"], 4)
                for label, found in ways.items()
                if "seconds" in found
            }
            yield {"latent": list(latent), "monai": theirs, "ours": ways, "ratio": ratios}


def writing(options: argparse.Namespace) -> Iterator[Figures]:
    """One row."""
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        yield run_apart(saving, Path(folder), options.saving_extent, options.threads)


def planner(options: argparse.Namespace) -> Iterator[Figures]:
    """A row per size and card: every way, and the one that would be taken."""
    import full_width
    from decoder import Decoder

    decoder = Decoder(_home(options) / full_width.PLANS["bf16"], "bf16", options.threads)
    for size in PLANNED:
        latent = (size[0] // 4, size[1] // 4, size[2] // 4)
        for gib in CARDS_GIB:
            found = decoder.strategies(
                latent, element_bytes=2, budget=gib * GIB, whole_bytes=decoder.whole_bytes(latent), **CARD
            )
            ways = [
                {
                    "way": each.name,
                    "peak_gib": round(each.peak_bytes / GIB, 2),
                    "work": round(each.work, 3),
                    "spilled_gib": round(each.spilled_bytes / GIB, 1),
                    "seconds": round(each.seconds, 2),
                    "fits": each.fits,
                }
                for each in found
            ]
            fitting = [each for each in ways if each["fits"]]
            taken = min(fitting, key=lambda each: float(str(each["seconds"])))["way"] if fitting else None
            yield {"computed": True, "image": list(size), "memory_gib": gib, **CARD, "ways": ways, "taken": taken}


#: What can be measured, by option.
PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Figures]]] = {
    "exactness": exactness,
    "seams": seams,
    "large_seams": large_seams,
    "memory": memory,
    "monai": monai,
    "saving": writing,
    "planner": planner,
}


def _home(options: argparse.Namespace) -> Path:
    """The folder with the plans of the full-width decoder."""
    import full_width

    home: Path = run_apart(full_width.prepare, options.cache, options.weights_seed)
    return home


def _within(options: argparse.Namespace) -> Mapping[Size3, tuple[float, ...]]:
    if options.memory_latent is None:
        return WITHIN
    return {_three(options.memory_latent): tuple(options.memory_gib)}


def _three(values: list[int]) -> Size3:
    a, b, c = values if len(values) == 3 else (values[0],) * 3
    return a, b, c


def _line(figures: Figures) -> str:
    """Figures in a line, and its ways in lines below."""
    line = ", ".join(f"{name} {value}" for name, value in figures.items() if len(str(value)) < 100)
    ways = figures.get("ways", [])
    return line + "".join(f"\n    {_line(way)}" for way in ways)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PARTS:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    parser.add_argument("--engine", type=Path, metavar="PLAN", help="another build of the embedded plan")
    parser.add_argument("--scans", type=Path, nargs="+", default=[], help="CT (.nii.gz) or folders of *ct.nii.gz")
    parser.add_argument("--limit", type=int, default=3, help="scans of a folder (default: 3)")
    parser.add_argument("--seam-latent", type=int, nargs="+", default=[64], help="one or three (default: 64)")
    parser.add_argument("--seam-gib", type=float, nargs="+", default=[6, 3], help="its budgets (default: 6 3)")
    parser.add_argument("--memory-latent", type=int, nargs="+", help="one or three, instead of 64^3 and 128 x 128 x 32")
    parser.add_argument("--memory-gib", type=float, nargs="+", default=[1.0], help="budgets of --memory-latent")
    parser.add_argument("--largest-whole", type=int, default=64, help="latent^3 to decode whole at most (default: 64)")
    parser.add_argument("--monai-latent", type=int, nargs="+", default=[64], help="one or three (default: 64)")
    parser.add_argument("--monai-precision", choices=("bf16", "fp32", "both"), default="bf16", help="ours")
    parser.add_argument("--roi", type=int, default=ROI, help=f"MONAI's window in latent voxels (default: {ROI})")
    parser.add_argument("--windows", type=int, default=27, help="of MONAI's, timed (default: 27, all there are)")
    parser.add_argument("--saving-extent", type=int, default=512, help="of the volume written (default: 512)")
    parser.add_argument("--repeats", type=int, default=2, help="of ours; the quickest counts (default: 2)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--weights-seed", type=int, default=1)
    cache = records.ROOT / "build" / "benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="keeps weights and plans (default: %(default)s)")
    parser.add_argument("--append", type=Path, metavar="JSONL", help="add the rows to this file")
    options = parser.parse_args()
    if not any(getattr(options, name) for name in PARTS):
        parser.error(
            f"nothing to measure: give one or more of {', '.join('--' + name.replace('_', '-') for name in PARTS)}"
        )
    options.engine = Path(plan_path(options.engine))
    options.cache.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
