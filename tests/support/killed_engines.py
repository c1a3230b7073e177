"""The build of engines that test_tensorrt.py kills, in a module that processes of their own can import."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ctfast.export.tensorrt import EngineOptions, add_engines

from . import fake_cupy, fake_tensorrt


def build_and_wait(plan: Path, target: Path, marker: Path) -> None:
    """A build that stops when the fourth engine is begun."""
    machine = fake_cupy.Machine()
    sys.modules.update(fake_cupy.modules(machine))
    sys.modules["tensorrt"] = fake_tensorrt.module(machine)

    def progress(stage: str, done: int, total: int) -> None:
        if stage.startswith("build") and done == 3:
            marker.touch()
            time.sleep(60)

    add_engines(plan, target, EngineOptions("fp32"), progress)
