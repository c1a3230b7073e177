"""SIGKILL in the middle of a build: no file that loads wrongly, and nothing that the next build trips over."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from support import killed_build, tiny_models

from ctfast.errors import PlanError
from ctfast.plan import Plan

pytestmark = pytest.mark.slow

#: Starts each build in a process of its own that has imported everything already, so that a kill hits the build.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ctfast.export", "support.killed_build"])


def parts(folder: Path) -> list[Path]:
    """What is in the plan's folder beside the plan."""
    return [path for path in folder.iterdir() if path.name != "tiny.plan"]


def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # equal builds are equal
    (tmp_path / "weights").mkdir()
    files = tiny_models.write_checkpoints(tmp_path / "weights", killed_build.NETWORKS)
    (tmp_path / "out").mkdir()
    target, cache = tmp_path / "out" / "tiny.plan", tmp_path / "cache"

    def start() -> BaseProcess:
        process = PROCESSES.Process(target=killed_build.run, args=(files, target, cache))
        process.start()
        return process

    def finish() -> float:
        begun = time.monotonic()
        process = start()
        process.join(120)
        assert process.exitcode == 0
        assert not parts(target.parent)
        return time.monotonic() - begun

    for moments, forget in ((4, True), (6, False)):  # while networks are exported, and when all come from the cache
        length = finish()  # the first time with the start of the server: the last kill may come too late
        whole = target.read_bytes()
        killed = 0
        for index in range(moments):
            if forget:
                shutil.rmtree(cache, ignore_errors=True)  # killed early, a build has not made it
            before = b"an older plan" if index % 2 else None
            killed += _kill(start, length * (index + 0.5) / moments, target, before, whole)
        assert killed >= moments // 2
        finish()
        assert target.read_bytes() == whole
    assert len([path for path in cache.iterdir() if path.name.startswith(".")]) <= 1


def _kill(start: Callable[[], BaseProcess], after: float, target: Path, before: bytes | None, whole: bytes) -> bool:
    """Kill a build over the plan ``before``, or over none, and look at what is left; whether it was hit."""
    target.unlink(missing_ok=True)
    if before is not None:
        target.write_bytes(before)
    process = start()
    time.sleep(after)
    process.kill()
    process.join()
    found = target.read_bytes() if target.exists() else None
    assert found in (before, whole)
    left = parts(target.parent)
    assert len(left) <= 1, "what the build before had left was not removed"
    _refused_or_whole(left)
    return process.exitcode != 0


def _refused_or_whole(folders: list[Path]) -> None:
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        try:
            Plan.open(path).verify()
        except PlanError:
            continue
        assert path.name.endswith(".tmp"), f"{path} loads, and is no plan that was finished"
