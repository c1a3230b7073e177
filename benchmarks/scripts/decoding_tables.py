"""Tables of docs/decode.md, out of rows that decoding.py, shared_statistics.py and decode_picture.py wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import records

Row = dict[str, Any]
#: Folders of scans, as the table of shared statistics names them.
_FOLDERS = {
    "val": "held-out scans as prepared",
    "openkbp": "the same collection, uncropped",
    "elastix_lung": "a lung",
    "sts031_thigh": "thighs",
}


def exactness(rows: Sequence[Row]) -> list[str]:
    """How far every way is from one fp32 pass of torch."""
    found = _last(rows, "exactness", lambda row: (row["weights"], row["case"], *row["latent"]))
    lines = [
        "| Decoder | Latent | Ways | fp32: largest relative L2 error | bf16: lowest PSNR |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        size = _by(row["latent"])
        what = size if row["case"] == "noise" else f"{size}, {_scan(row['case'])}"
        count = sum(way["precision"] == "fp32" for way in row["ways"])
        error, psnr = row["largest_relative_l2_fp32"], row["lowest_psnr_db_bf16"]
        lines.append(f"| {row['weights']} | {what} | {count} | {error:.1e} | {psnr:.1f} dB |")
    return lines if found else []


def seams(rows: Sequence[Row]) -> list[str]:
    """Jumps at borders."""
    found = [
        *_last(rows, "seams", lambda row: row["case"]),
        *_last(rows, "large_seams", lambda row: tuple(row["latent"])),
    ]
    lines = [
        "| Volume | Decoded | Jump at borders / beside | in one piece, there | quotient |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        what = f"noise, {_by(4 * extent for extent in row['latent'])}" if "latent" in row else _scan(row["case"])
        exact = [way for way in row["ways"] if way["way"] != "windowed"]
        for way in exact:
            name = f"{way['way']}, slabs of {way['slab_rows']} rows"
            lines.append(_seam(f"{row['weights']}: {what}", name, way))
        for way in row["ways"]:
            if way["way"] == "windowed":
                name = f"windows of {_by(way['window'])}, overlap {way['overlap']:g}"
                lines.append(_seam(f"{row['weights']}: {what}", name, way))
    return list(dict.fromkeys(lines)) if found else []


def memory(rows: Sequence[Row]) -> list[str]:
    """Time and peak memory."""
    found = _last(rows, "memory", lambda row: (*row["latent"], -(row["memory_gib"] or 1e9)))
    lines = [
        "| Volume | Memory given | Way | Time | to whole | Peak, predicted | Peak, measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: (row["latent"][0], -(row["memory_gib"] or 1e9))):
        volume = _by(4 * extent for extent in row["latent"])
        given = "any" if row["memory_gib"] is None else f"{row['memory_gib']:g} GiB"
        if "refused" in row:
            lines.append(f"| {volume} | {given} | refused | | | | |")
            continue
        ratio = f"{row['time_to_whole']:.2f}x" if "time_to_whole" in row else "1" if row["way"] == "whole" else ""
        lines.append(
            f"| {volume} | {given} | {_named(row)} | {min(row['seconds']):.1f} s | {ratio} | "
            f"{row['predicted_gib']:.2f} GiB | {row['peak_gib']:.2f} GiB |"
        )
    return [*lines, "", records.where(found[-1])] if found else []


def monai(rows: Sequence[Row]) -> list[str]:
    """Against MONAI's sliding window."""
    found = _last(rows, "monai", lambda row: (*row["latent"], *(row["monai"][name] for name in ("runs_in", "overlap"))))
    lines = [
        "| Volume | MONAI runs in | Overlap | MONAI | ctfast | ctfast | of MONAI's time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        theirs, volume = row["monai"], _by(4 * extent for extent in row["latent"])
        timed = "all" if theirs["windows_timed"] >= theirs["windows"] else str(theirs["windows_timed"])
        cell = f"{theirs['overlap']} | {theirs['seconds']:.0f} s ({theirs['windows']} windows, {timed} timed)"
        name = {"autocast": "bf16 autocast"}.get(theirs["runs_in"], theirs["runs_in"])
        for label, ratio in row["ratio"].items():
            seconds = min(row["ours"][label]["seconds"])
            lines.append(f"| {volume} | {name} | {cell} | {label} | {seconds:.1f} s | {ratio:.3f} |")
    return [*lines, "", records.where(found[-1])] if found else []


def planner(rows: Sequence[Row]) -> list[str]:
    """What would be done on a GPU."""
    found = _last(rows, "planner", lambda row: (*row["image"], row["memory_gib"]))
    sizes = sorted({tuple(row["image"]) for row in found})
    lines = [
        f"| GPU memory given | {' | '.join(_by(size) for size in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for gib in sorted({row["memory_gib"] for row in found}):
        cells = []
        for size in sizes:
            row = next(row for row in found if tuple(row["image"]) == size and row["memory_gib"] == gib)
            cells.append(_plan(row))
        lines.append(f"| {gib} GiB | {' | '.join(cells)} |")
    for name in ("in_place", "whole"):
        needs = [
            next(
                way["peak_gib"]
                for row in found
                if tuple(row["image"]) == size
                for way in row["ways"]
                if way["way"] == name
            )
            for size in sizes
        ]
        lines.append(f"| needed by `{name}` | {' | '.join(f'{need:.1f} GiB' for need in needs)} |")
    return lines if found else []


def saving(rows: Sequence[Row]) -> list[str]:
    """Writing a large volume."""
    found = _last(rows, "saving", lambda row: (row["voxels"][0],))
    return [
        f"{_by(row['voxels'])} voxels to .nii.gz: {row['seconds']:.1f} s on {row['settings']['threads']} threads, "
        f"{row['raw_mib']:.0f} MiB to {row['written_mib']:.0f} MiB."
        for row in found
    ]


def shared(rows: Sequence[Row]) -> list[str]:
    """What statistics from a first pass lose."""
    if not rows:
        return []
    ways = {name: way for name, way in rows[-1]["ways"].items() if "(check)" not in name}
    folders = list(next(iter(ways.values()))["psnr_db"])
    heads = [_FOLDERS.get(folder, folder) for folder in folders]
    counts = [len(next(iter(ways.values()))["psnr_db"][folder]["all"]) for folder in folders]
    titles = [f"{head} ({count})" for head, count in zip(heads, counts, strict=True)]
    lines = [
        f"| Statistics from | Work of both passes | {' | '.join(titles)} |",
        f"|---|---|{'---|' * len(folders)}",
    ]
    for name, way in ways.items():
        cells = [f"{way['psnr_db'][folder]['low']:.1f} dB" for folder in folders]
        low, high = (f"{1 + way['first_pass_work'][end]:.3g}x" for end in ("low", "high"))
        work = low if low == high else f"{low} to {high}"
        lines.append(f"| {name} | {work} | {' | '.join(cells)} |")
    return lines


def picture(rows: Sequence[Row]) -> list[str]:
    """The picture's caption."""
    if not rows:
        return []
    row = rows[-1]
    settings = row["settings"]
    return [
        f"Seed {settings['seed']}, {_by(settings['size'])} voxels. Windows of {_by(settings['window'])} latent voxels "
        f"with overlap {settings['overlap']:g} against the exact decode: RMS {row['rms_hu']:.0f} HU, largest "
        f"{row['largest_hu']} HU, {row['within_10_hu']:.0%} of voxels within 10 HU."
    ]


#: Tables by name: the file of rows, and what makes lines of them.
TABLES: dict[str, tuple[str, Callable[[Sequence[Row]], list[str]]]] = {
    "decode_exactness": ("decoding", exactness),
    "decode_seams": ("decoding", seams),
    "decode_memory": ("decoding", memory),
    "decode_monai": ("decoding", monai),
    "decode_planner": ("decoding", planner),
    "decode_saving": ("decoding", saving),
    "decode_shared": ("shared_statistics", shared),
    "decode_picture": ("decode_picture", picture),
}


def _last(rows: Sequence[Row], part: str, key: Callable[[Row], Any]) -> list[Row]:
    """The last row of a part by key, in the order in which keys were first measured."""
    found: dict[Any, Row] = {}
    for row in rows:
        if row["settings"]["part"] == part:
            found[key(row)] = row
    return list(found.values())


def _seam(what: str, name: str, way: Row) -> str:
    return f"| {what} | {name} | {way['ratio']:.3f} | {way['undivided']:.3f} | {way['ratio_to_undivided']:.3f} |"


def _plan(row: Row) -> str:
    """The way that is taken, and what it costs."""
    if row["taken"] is None:
        least = min(way["peak_gib"] for way in row["ways"])
        return f"none; the least is {least:.1f} GiB"
    way = next(way for way in row["ways"] if way["way"] == row["taken"])
    return f"{_named(way)}: {way['peak_gib']:.1f} GiB, {way['seconds']:.1f} s"


def _named(way: Row) -> str:
    """A way with what it costs beyond one plain pass."""
    extra = f" {way['work']:.2f}x work" if way["work"] > 1.005 else ""
    extra += f" {way['spilled_gib']:.1f} GiB moved" if way["spilled_gib"] else ""
    return f"{way['way']}{',' if extra else ''}{extra}"


def _scan(case: str) -> str:
    """A scan's name without its folder and ending."""
    return case.rpartition("/")[2].removesuffix("_ct")


def _by(extents: Any) -> str:
    return " x ".join(str(extent) for extent in extents)
