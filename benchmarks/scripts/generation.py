"""How long one volume takes, how much memory, and whether the same seed gives the same volume.

    python benchmarks/scripts/generation.py --append benchmarks/results/generation.jsonl
    python benchmarks/scripts/generation.py --engine my.plan --runs 3 --threads 4

Four things are measured on the embedded default (or --engine): the command ``ctfast generate`` in a fresh process
each time (wall clock and peak memory of the process), ``ctfast.generate`` in a fresh process (import, first and
second volume), volumes of one seed on one and two threads, decoded whole and through windows, and how far the plan's
precision is from fp32.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import records

#: Voxels that differ by no more than this many HU count as the same.
TOLERANCE_HU = 1
#: Of the window [-1000, 1000] that volumes are clipped to.
HU_RANGE = 2000
#: Mean square that stands for identical volumes.
LEAST_SQUARE = 1e-9
#: Volumes that are made in both precisions.
SEEDS = 3

_IN_PROCESS = """
import json, sys, time
start = time.perf_counter()
import ctfast
imported = time.perf_counter()
path, threads = sys.argv[1] or None, int(sys.argv[2])
engine = ctfast.load(path, threads=threads)
loaded = time.perf_counter()
first = engine.generate(seed=0)
one = time.perf_counter()
engine.generate(seed=1)
two = time.perf_counter()
print(json.dumps({"import_s": imported - start, "load_s": loaded - imported, "first_s": one - loaded,
                  "second_s": two - one, "size": first.size, "steps": first.meta["steps"],
                  "plan": first.meta["plan"], "precision": first.meta["precision"],
                  "stages_s": first.meta["timings"]}))
"""


def command_line(engine: str | None, threads: int, folder: Path) -> dict[str, Any]:
    """``ctfast generate`` in a fresh process: seconds, and the process's peak memory."""
    words = ["generate", "-o", str(folder / "ct.nii.gz"), "--preview", str(folder / "ct.png"), "--json"]
    words += ["--threads", str(threads), *(["--engine", engine] if engine else [])]
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "ctfast", *words], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"ctfast {' '.join(words)} ended with {child.returncode}: {text}")
    return {"seconds": seconds, "peak_rss_gib": usage.ru_maxrss / 2**20, "stages": json.loads(text)}


def in_process(engine: str | None, threads: int) -> dict[str, Any]:
    """``ctfast.generate`` in a fresh process, without anything around it."""
    words = [sys.executable, "-c", _IN_PROCESS, engine or "", str(threads)]
    result: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return result


def invariance(engine: str | None) -> dict[str, Any]:
    """Volumes of one seed in several ways against the first way, and against another seed."""
    import ctfast

    two, one = ctfast.load(engine, threads=2), ctfast.load(engine, threads=1)
    reference = two.generate(seed=0)
    others = {
        "the same again": two.generate(seed=0),
        "1 thread instead of 2": one.generate(seed=0),
        "windowed decoding, one window": two.generate(seed=0, decode="windowed"),
        "another seed": two.generate(seed=1),
    }
    found = {}
    for name, volume in others.items():
        difference = np.abs(volume.array.astype(np.int32) - reference.array)
        found[name] = {
            "within_1_hu": round(float((difference <= TOLERANCE_HU).mean()), 6),
            "largest_hu": int(difference.max()),
        }
    return found


def precision(engine: str | None, threads: int) -> dict[str, Any]:
    """PSNR of volumes in the plan's own precision against fp32, same seeds, over the whole volume."""
    import ctfast

    own = ctfast.load(engine, threads=threads)
    reference = ctfast.load(engine, threads=threads, precision="fp32")
    values = []
    for seed in range(SEEDS):
        volume, exact = own.generate(seed=seed), reference.generate(seed=seed)
        error = float(np.mean((volume.array.astype(np.float64) - exact.array) ** 2))
        values.append(10 * math.log10(HU_RANGE**2 / max(error, LEAST_SQUARE)))
    return {"precision": volume.meta["precision"]["denoiser"], "psnr_db": records.summary(values, 2)}


def main() -> int:
    """Measure, print, and keep a row if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", metavar="PLAN", help="default: the embedded default plan")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--runs", type=int, default=5, help="of the command line (default: 5)")
    records.add_output_options(parser)
    options = parser.parse_args()

    load_before = records.load()
    with tempfile.TemporaryDirectory() as folder:
        runs = [command_line(options.engine, options.threads, Path(folder)) for _ in range(options.runs)]
    alone = in_process(options.engine, options.threads)
    same = invariance(options.engine)
    against = precision(options.engine, options.threads)
    settings = {name: alone.pop(name) for name in ("size", "steps", "plan", "precision")}
    settings |= {"threads": options.threads, "runs": options.runs}
    stages = [run["stages"]["volumes"][0]["meta"]["timings"] for run in runs]
    figures = {
        "command_s": records.summary([run["seconds"] for run in runs]),
        "generation_s": records.summary([stage["total"] for stage in stages]),
        "stages_s": {name: records.summary([stage[name] for stage in stages])["median"] for name in stages[0]},
        "peak_rss_gib": round(max(run["peak_rss_gib"] for run in runs), 3),
        "in_process": alone,
        "same_seed": same,
        "against_fp32": against,
    }
    entry = records.row("generation", settings, figures, load_before)
    _print(entry)
    records.give(options, entry)
    return 0


def _print(entry: dict[str, Any]) -> None:
    command, generation = entry["command_s"], entry["generation_s"]
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in entry["stages_s"].items() if name != "total")
    alone = entry["in_process"]
    lines = [
        f"ctfast generate: {command['median']:.2f} s ({command['low']:.2f} to {command['high']:.2f}), "
        f"peak {entry['peak_rss_gib']:.2f} GiB",
        f"  of which one volume: {generation['median']:.2f} s ({stages})",
        f"in a process: import {alone['import_s']:.2f} s, load {alone['load_s']:.2f} s, "
        f"first volume {alone['first_s']:.2f} s, second {alone['second_s']:.2f} s",
    ]
    lines += [
        f"seed 0 against {name}: {found['within_1_hu']:.4%} of voxels within 1 HU, largest difference "
        f"{found['largest_hu']} HU"
        for name, found in entry["same_seed"].items()
    ]
    against = entry["against_fp32"]
    lines.append(f"{against['precision']} against fp32: PSNR {against['psnr_db']['median']} dB")
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
