"""The benchmark for a GPU, on the CPU: the same code at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("monai")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scripts" / "gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_a_dry_run(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    done = run("--dry-run", "--steps", "1", "--rounds", "1", "--append", str(rows))
    assert done.returncode == 0, done.stderr
    checks, free, controlled = (json.loads(line) for line in rows.read_text().splitlines())
    assert max(checks["kernels"].values()) < 0.01
    assert checks["backend"]["latent fp32"] < 1e-5
    assert 0 < checks["backend"]["image bf16"] < 0.05
    assert [row["settings"]["control"] for row in (free, controlled)] == [False, True]
    assert free["ctfast"]["total"] > free["ctfast"]["sample"] > 0
    # The U-Net and its ControlNet are both counted.
    assert controlled["work"]["step_tflop"] > 1.2 * free["work"]["step_tflop"] > 0


def test_without_a_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run()
    assert done.returncode == 2
    assert "--dry-run runs the same code on the CPU" in done.stderr
