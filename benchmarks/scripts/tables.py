"""The figures of README and docs, out of the rows in benchmarks/results: no figure without a row.

    python benchmarks/scripts/tables.py            print the tables
    python benchmarks/scripts/tables.py --write    put them between the marks in the pages
    python benchmarks/scripts/tables.py --check    exit with 1 where a page differs from the results

A page says where a table goes with ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``. Of runs with the same
settings the last one counts.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import backend_tables
import decoding_tables
import downstream_tables
import evaluation_tables
import records
import sweep_tables

PAGES = (
    "README.md",
    "docs/decode.md",
    "docs/evaluate.md",
    "docs/headneck.md",
    "docs/memory.md",
    "docs/numerics.md",
    "docs/support_matrix.md",
    "benchmarks/GUIDE.md",
)
_MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_NONE = "Not measured yet; see benchmarks/GUIDE.md.\n"

Row = dict[str, Any]


def rows(name: str, results: Path = records.RESULTS) -> list[Row]:
    """All rows of a benchmark, oldest first."""
    path = results / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def comparison() -> list[Row]:
    """The last rows against MONAI by extent, ControlNet, steps and precisions."""
    last: dict[tuple[Any, ...], Row] = {}
    for entry in rows("vs_monai"):
        settings = entry["settings"]
        key = (settings["control"], *settings["latent"], settings["steps"], entry["comparison"])
        last[key] = entry
    return [last[key] for key in sorted(last, key=lambda key: (*key[:-1], _ORDER.index(key[-1])))]


def speed() -> str:
    """Ratios to MONAI, stage by stage."""
    found = comparison()
    lines = [
        "| Volume | ctfast / MONAI runs in | MONAI | ctfast | sampling | decoding | in total |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in found:
        size = " x ".join(str(extent) for extent in entry["settings"]["image"])
        size += " with mask" if entry["settings"]["control"] else ""
        ours, theirs = (entry["seconds"][name]["total"]["median"] for name in _SIDES[entry["comparison"]])
        ratios = [f"{entry['ratio'][stage]['median']:.1f}x" for stage in ("sample", "decode", "total")]
        lines.append(
            f"| {size} | {_WORDS[entry['comparison']]} | {theirs:.1f} s | {ours:.1f} s | {' | '.join(ratios)} |"
        )
    return "\n".join(lines) + f"\n\n{records.where(found[-1])}\n" if found else _NONE


def generation() -> str:
    """Time and memory of the embedded plan."""
    entry = _last("generation")
    if entry is None:
        return _NONE
    size = " x ".join(str(extent) for extent in entry["settings"]["size"])
    return (
        f"One volume of {size} voxels, {entry['settings']['steps']} steps: {entry['generation_s']['median']:.1f} s; "
        f"the whole command {entry['command_s']['median']:.1f} s; peak memory {entry['peak_rss_gib']:.2f} GiB.\n\n"
        f"{records.where(entry)}\n"
    )


def memory() -> str:
    """Peak memory of the embedded plan, and of each side of the comparison."""
    lines = ["| What | Peak memory of the process |", "|---|---|"]
    entry = _last("generation")
    if entry is not None:
        size = " x ".join(str(extent) for extent in entry["settings"]["size"])
        lines.append(f"| `ctfast generate`, embedded plan, {size} | {entry['peak_rss_gib']:.2f} GiB |")
    for found in comparison():
        size = " x ".join(str(extent) for extent in found["settings"]["image"])
        size += " with mask" if found["settings"]["control"] else ""
        for name, once in found["once"].items():
            line = f"| official architecture, {size}, {name} | {once['peak_rss_gib']:.1f} GiB |"
            lines += [] if line in lines else [line]
    return "\n".join(lines) + "\n" if len(lines) > 2 else _NONE


def numerics() -> str:
    """Agreement with MONAI and between precisions."""
    lines = ["| What | PSNR on [-1000, 1000] HU |", "|---|---|"]
    for entry in comparison():
        size = " x ".join(str(extent) for extent in entry["settings"]["image"])
        size += " with mask" if entry["settings"]["control"] else ""
        what = f"official architecture, random weights, {size}, {entry['settings']['steps']} steps"
        if entry["comparison"] == "fp32/fp32":
            lines.append(f"| {what}: ctfast fp32 against MONAI fp32 | {entry['agreement']['psnr_db']:.1f} dB |")
        for name, against in entry.get("against_monai_fp32", {}).items():
            lines.append(f"| {what}: {name} against MONAI fp32 | {against['psnr_db']:.1f} dB |")
    latest = _last("generation")
    if latest is not None:
        against = latest["against_fp32"]
        what = f"embedded plan, {against['precision']} against fp32, {len(against['psnr_db']['all'])} seeds"
        lines.append(f"| {what} | {against['psnr_db']['median']:.1f} dB |")
        lines += ["", "| Embedded plan, same seed | Voxels within 1 HU | Largest difference |", "|---|---|---|"]
        for name, same in latest["same_seed"].items():
            lines.append(f"| {name} | {same['within_1_hu']:.3%} | {same['largest_hu']} HU |")
        lines += ["", records.where(latest)]
    return "\n".join(lines) + "\n" if len(lines) > 2 else _NONE


def precision() -> str:
    """What each precision costs and saves."""
    entry = _last("precision")
    if entry is None:
        return _NONE
    lines = [
        "| Precision | PSNR from fp32, median (lowest) | with a mask | Step | with a mask | Decode | Plan |",
        "|---|---|---|---|---|---|---|",
    ]
    masked = entry.get("with_mask", {})
    for name, tier in entry["tiers"].items():
        cells = [name, *(_psnr(kind.get(name)) for kind in (entry["tiers"], masked))]
        cells += [_milliseconds(kind.get(name), "step_s") for kind in (entry["tiers"], masked)]
        cells += [_milliseconds(tier, "decode_s"), f"{tier['plan_bytes'] / 1e6:.1f} MB"]
        lines.append(f"| {' | '.join(cells)} |")
    size = " x ".join(str(extent) for extent in entry["settings"]["size"])
    what = f"Plans of the embedded default's checkpoints, {size} voxels, {entry['settings']['steps']} steps"
    return "\n".join([*lines, "", f"{what}, {entry['settings']['seeds']} seeds. {records.where(entry)}"]) + "\n"


def _psnr(tier: Row | None) -> str:
    if tier is None or tier["psnr_db"] is None:
        return "-"
    return f"{tier['psnr_db']['median']:.1f} dB ({tier['psnr_db']['low']:.1f})"


def _milliseconds(tier: Row | None, key: str) -> str:
    return "-" if tier is None else f"{tier[key]['median'] * 1e3:.1f} ms"


def quality() -> str:
    """How good the embedded plan is."""
    entry = _last("quality")
    if entry is None:
        return _NONE
    trip, real, bone = entry["round_trip"], entry["realism"], entry["conditioning"]
    lines = [
        "| What | Value |",
        "|---|---|",
        f"| VAE round trip of {entry['scans']} held-out scans, PSNR inside the body on [-1000, 1000] HU | "
        f"{trip['psnr_body_db']['median']:.1f} dB (lowest {trip['psnr_body_db']['low']:.1f}) |",
    ]
    if "energy" in real:
        what = f"{real['generated']} generated volumes against {real['reference']} held-out scans"
        lines.append(f"| {what}: energy distance of 30 descriptors | {real['energy']:.2f} |")
        lines.append(f"| the same: spread of the descriptors, 1 as in the scans | {real['spread']:.2f} |")
    if "masks" in bone:
        lines.append(f"| held-out masks whose mandible comes out as bone | {bone['above_200_hu']} of {bone['masks']} |")
    return "\n".join(lines) + "\n"


def of_module(name: str) -> str:
    """A table that a module of its own makes, of docs/decode.md, evaluate.md or support_matrix.md."""
    source, table = _MODULES[name]
    lines = table(rows(source))
    return "\n".join(lines) + "\n" if lines else _NONE


_MODULES = {
    **backend_tables.TABLES,
    **decoding_tables.TABLES,
    **downstream_tables.TABLES,
    **evaluation_tables.TABLES,
    **sweep_tables.TABLES,
}
TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "generation": generation,
    "memory": memory,
    "numerics": numerics,
    "precision": precision,
    "quality": quality,
    **{name: partial(of_module, name) for name in _MODULES},
}
_SIDES = {
    "bf16/fp32": ("ctfast bf16", "monai fp32"),
    "bf16/autocast": ("ctfast bf16", "monai autocast"),
    "fp32/fp32": ("ctfast fp32", "monai fp32"),
}
_ORDER = tuple(_SIDES)
_WORDS = {"bf16/fp32": "bf16 / fp32", "bf16/autocast": "bf16 / bf16 autocast", "fp32/fp32": "fp32 / fp32"}


def filled(text: str) -> str:
    """A page with its tables as the results have them now."""
    return _MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def main() -> int:
    """Print, write or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="fill the pages")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a page is not as --write would leave it"
    )
    options = parser.parse_args()
    if not options.write and not options.check:
        print("\n".join(f"{name}\n\n{table()}" for name, table in TABLES.items()))
        return 0
    stale = []
    for name in PAGES:
        path = records.ROOT / name
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(name)
            if options.write:
                path.write_text(filled(text), encoding="utf-8")
    if stale:
        print(f"{'filled' if options.write else 'not as the results are'}: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale) and not options.write)


def _last(name: str) -> Row | None:
    found = rows(name)
    return found[-1] if found else None


if __name__ == "__main__":
    sys.exit(main())
