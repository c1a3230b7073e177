"""Kernels compile for GPUs that are not there: the interpreter accepts more than the compiler does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

TESTS = Path(__file__).parents[1]


def compiled(module: str, capability: int, cache: Path) -> list[dict[str, Any]]:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    python_path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "support.kernel_compiler", module, str(capability)],
        capture_output=True,
        text=True,
        env=variables | {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": python_path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made: list[dict[str, Any]] = json.loads(done.stdout)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("module", ["attention"])
def test_compiles_without_spilling(module: str, capability: int, tmp_path: Path) -> None:
    made = compiled(module, capability, tmp_path)
    assert made
    for kernel in made:
        assert kernel["stack"] <= 128, kernel  # bytes of registers that went to memory
        assert kernel["wgmma"] == (capability == 90), kernel
