"""Compiled networks kept between processes: the same volumes, whoever made them, several processes at once too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from support import tiny_plan

GENERATE = """
import sys, numpy, ctfast
plan, cache, out = sys.argv[1:]
engine = ctfast.load(plan, cache_dir=cache, precision="fp32", threads=1)
numpy.save(out, engine.generate(steps=2, seed=3).array)
"""


def start(plan: Path, cache: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", GENERATE, str(plan), str(cache), str(out)], text=True)


def test_processes_that_start_at_once_share_a_cache(tmp_path: Path) -> None:
    plan, cache = tiny_plan.write(tmp_path / "tiny.plan"), tmp_path / "cache"
    cache.mkdir()
    outs = [tmp_path / f"{index}.npy" for index in range(4)]
    racing = [start(plan, cache, out) for out in outs[:3]]
    assert [process.wait(120) for process in racing] == [0, 0, 0]
    kept = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert kept
    assert start(plan, cache, outs[3]).wait(120) == 0
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == kept, "the last one found everything"
    first, *others = (np.load(out) for out in outs)
    assert first.std() > 0
    assert all(np.array_equal(first, other) for other in others)


def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path: Path) -> None:
    plan, cache = tiny_plan.write(tmp_path / "tiny.plan"), tmp_path / "cache"
    cache.mkdir()
    outs = [tmp_path / f"{index}.npy" for index in range(2)]
    assert start(plan, cache, outs[0]).wait(120) == 0
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert start(plan, cache, outs[1]).wait(120) == 0
    assert np.array_equal(*(np.load(out) for out in outs))
