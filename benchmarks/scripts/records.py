"""Rows of results: what was measured, on which machine, with which versions, from which commit."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("ctfast", "openvino", "numpy", "torch", "monai", "nibabel")


def machine() -> dict[str, Any]:
    """Processor, what of it ctfast uses, cores that this process may use, memory and system."""
    from ctfast import _native

    info = _native.build_info()
    return {
        "cpu": _cpu_model(),
        "features": [name for name, present in info["cpu"].items() if present],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": info["compiler"],
    }


def versions() -> dict[str, str]:
    """Python and those of PACKAGES that are installed; ctfast's own from the code that runs."""
    import ctfast

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "ctfast": ctfast.__version__}


def commit() -> str:
    """Short hash of the checked-out commit, with "+" where tracked files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "-uno") else "")


def load() -> float:
    """Processes that ran or waited over the last minute."""
    return round(os.getloadavg()[0], 2)


def row(benchmark: str, settings: Mapping[str, Any], figures: Mapping[str, Any], load_before: float) -> dict[str, Any]:
    """One row; ``figures`` are what was measured."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "load": {"before": load_before, "after": load()},
        "settings": dict(settings),
        **figures,
    }


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where the rows go, for ``give``."""
    parser.add_argument("--json", action="store_true", help="print the rows on stdout")
    parser.add_argument("--append", type=Path, metavar="JSONL", help="add the rows to this file")


def give(options: argparse.Namespace, result: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Print a row, or several as one list, and keep them, as the options say."""
    if options.json:
        print(json.dumps(result))
    if options.append is not None:
        append(options.append, [result] if isinstance(result, Mapping) else result)


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in rows)


def summary(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, extremes and the values themselves."""
    rounded = [round(value, digits) for value in values]
    return {"median": round(median(values), digits), "low": min(rounded), "high": max(rounded), "all": rounded}


def where(entry: Mapping[str, Any]) -> str:
    """A row's machine, threads, versions, date and commit, in a sentence to stand below its figures."""
    host, found = entry["machine"], entry["versions"]
    libraries = ", ".join(f"{name} {found[key]}" for key, name in _LIBRARIES.items() if key in found)
    return (
        f"{host['cpu']}, {entry['settings']['threads']} threads ({', '.join(host['features'])}); {libraries}; "
        f"{entry['date'][:10]}, commit {entry['commit']}."
    )


_LIBRARIES = {"ctfast": "ctfast", "openvino": "OpenVINO", "monai": "MONAI", "torch": "torch"}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
