"""Kernels with matrix products compile for GPUs that are not there, into the instructions that they are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "capability"),
    [("attention", 80), ("attention", 90), ("conv3d", 80), ("conv3d", 90), ("depthwise", 90), ("trilinear_conv", 90)],
)
def test_compiles_without_spilling(module: str, capability: int, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "support.kernel_compiler", module, str(capability)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    made = json.loads(result.stdout)
    assert made
    for kernel in made:
        assert kernel["spills_in_loops"] <= 16, kernel  # instructions; a block too large has hundreds
        assert kernel["wgmma"] == (capability == 90), kernel  # Hopper's own matrix instructions, where there are such
