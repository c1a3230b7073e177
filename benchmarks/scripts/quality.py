"""How good the volumes of a plan are, against held-out scans that were prepared as its training data.

    ctfast data prepare scans prepared
    python benchmarks/scripts/quality.py prepared/val --output out/quality --realism realism.py \\
        --montage docs/images/quality.png --append benchmarks/results/quality.jsonl

The folder holds ``*_ct.nii.gz`` and ``*_seg.nii.gz``. Measured are
- the VAE: PSNR of encoding and decoding inside the body, on [-1000, 1000] HU;
- generation: volumes are written to the output folder; with --realism, a script that prints a JSON object with the
  energy distance to the real scans (``energy``) and the variety (``spread``) is run on both folders;
- conditioning: how dense the mandible is where masks of held-out scans ask for it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import records
from montage import write_montage

import ctfast
from ctfast.labels import LabelMap

HU_LOW, HU_HIGH = -1000, 1000
#: Bone is denser than this.
BONE_HU = 200
_CT, _SEG = "_ct.nii.gz", "_seg.nii.gz"


@dataclass(frozen=True)
class Case:
    """A prepared scan and its label map."""

    name: str
    ct: Path
    seg: Path


def cases_of(folder: Path) -> list[Case]:
    """The prepared scans of a folder that have labels, by name."""
    found = []
    for ct in sorted(folder.glob(f"*{_CT}")):
        name = ct.name[: -len(_CT)]
        seg = ct.with_name(name + _SEG)
        if seg.exists():
            found.append(Case(name, ct, seg))
    if not found:
        raise SystemExit(f"{folder}: expected pairs of *{_CT} and *{_SEG}, as 'ctfast data prepare' writes; found none")
    return found


def round_trip(engine: ctfast.Engine, cases: Sequence[Case]) -> dict[str, Any]:
    """PSNR in dB of decode(encode(scan)) inside the body: per scan, and of all voxels together."""
    values, squares, voxels = {}, 0.0, 0
    for case in cases:
        scan = ctfast.Volume.load(case.ct)
        body = LabelMap.load(case.seg).array > 0
        back = engine.decode(engine.encode(case.ct), affine=scan.affine)
        error = _clipped(back.array)[body] - _clipped(scan.array)[body]
        square = float(np.square(error).sum())
        values[case.name] = round(_psnr(square / int(body.sum())), 2)
        squares, voxels = squares + square, voxels + int(body.sum())
    return {"psnr_body_db": records.summary(list(values.values()), 2), "pooled_db": round(_psnr(squares / voxels), 2)}


def generate(engine: ctfast.Engine, folder: Path, count: int, seed: int) -> list[ctfast.Volume]:
    """``count`` volumes of one seed, written to the folder, in place of what an earlier run left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"sample_*{_CT}"):
        old.unlink()
    volumes = []
    for index, volume in enumerate(engine.generate_many({"seed": seed, "sample": i} for i in range(count))):
        volume.save(folder / f"sample_{index:02d}{_CT}")
        volumes.append(volume)
        _say(f"generated {index + 1} of {count}")
    return volumes


def realism(script: Path | None, real: Path, generated: Path) -> dict[str, Any]:
    """What the script prints about two folders; the reason if it cannot be run."""
    if script is None or not script.exists():
        why = "no script was given (--realism)" if script is None else f"there is no '{script}'"
        return {"skipped": why}
    words = [sys.executable, str(script), str(real), str(generated)]
    result: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return result


def conditioning(engine: ctfast.Engine, cases: Sequence[Case], label: int, folder: Path, seed: int) -> dict[str, Any]:
    """Median HU inside a label of generated volumes and of the scans that their masks come from."""
    folder.mkdir(parents=True, exist_ok=True)
    medians = {}
    for case in cases:
        labels = LabelMap.load(case.seg).array
        volume = engine.generate(mask=case.seg, seed=seed)
        volume.save(folder / f"{case.name}{_CT}", preview=folder / f"{case.name}.png")
        scan = ctfast.Volume.load(case.ct)
        medians[case.name] = [float(np.median(each.array[labels == label])) for each in (volume, scan)]
        _say(f"{case.name}: median HU inside label {label}: generated {medians[case.name][0]:.0f}")
    dense = sum(generated > BONE_HU for generated, _ in medians.values())
    return {
        "label": label,
        "masks": len(medians),
        f"above_{BONE_HU}_hu": dense,
        "median_hu_generated": records.summary([pair[0] for pair in medians.values()], 0),
        "median_hu_real": records.summary([pair[1] for pair in medians.values()], 0),
    }


def main() -> int:
    """Measure, print, and keep a row if asked to."""
    options = _options()
    load_before = records.load()
    cases = cases_of(options.folder)
    engine = ctfast.load(options.engine, threads=options.threads)
    figures: dict[str, Any] = {"scans": len(cases), "round_trip": round_trip(engine, cases)}
    _say(f"round trip: {json.dumps(figures['round_trip'])}")
    volumes = generate(engine, options.output / "generated", options.count, options.seed)
    figures["realism"] = realism(options.realism, options.folder, options.output / "generated")
    masked = [case for case in cases if (LabelMap.load(case.seg).array == options.label).any()][: options.masks]
    if engine.manifest.conditioning.controlnet and masked:
        folder = options.output / "masked"
        figures["conditioning"] = conditioning(engine, masked, options.label, folder, options.seed)
    else:
        why = f"no scan has label {options.label}" if engine.manifest.conditioning.controlnet else "no ControlNet"
        figures["conditioning"] = {"skipped": why}
    if options.montage is not None:
        scans = [ctfast.Volume.load(case.ct) for case in cases[:4]]
        rows = min(len(volumes), len(scans))
        write_montage(options.montage, [("generated", volumes[:rows]), ("real, held out", scans[:rows])])
    settings = {
        "plan": {"name": engine.manifest.name, "variant": engine.manifest.variant, "sha256": engine.identity},
        "count": options.count,
        "seed": options.seed,
        "threads": options.threads,
        "steps": volumes[0].meta["steps"],
        "precision": volumes[0].meta["precision"],
    }
    entry = records.row("quality", settings, figures, load_before)
    _say(json.dumps(figures, indent=1))
    records.give(options, entry)
    return 0


def _clipped(array: Any) -> Any:
    return np.clip(array.astype(np.float64), HU_LOW, HU_HIGH)


def _psnr(mean_square: float) -> float:
    return 10 * math.log10((HU_HIGH - HU_LOW) ** 2 / max(mean_square, 1e-9))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="held-out scans as 'ctfast data prepare' writes them")
    parser.add_argument("--output", type=Path, required=True, help="folder for the volumes")
    parser.add_argument("--engine", metavar="PLAN", help="default: the embedded default plan")
    parser.add_argument("--count", type=int, default=24, help="volumes to generate (default: 24)")
    parser.add_argument("--masks", type=int, default=10, help="masks to condition on (default: 10)")
    parser.add_argument("--label", type=int, default=7, help="that should be bone (default: 7, the mandible)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--realism", type=Path, metavar="SCRIPT", help="prints energy and spread for two folders")
    parser.add_argument("--montage", type=Path, metavar="PNG", help="picture of four volumes beside four scans")
    records.add_output_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
