"""What pyproject.toml promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ctfast

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file))


def test_openvino_is_built_and_run_with_one_version(pyproject: dict[str, Any]) -> None:
    """The soname of its library changes with every patch release."""
    built = [r for r in pyproject["build-system"]["requires"] if r.startswith("openvino")]
    run = [r for r in pyproject["project"]["dependencies"] if r.startswith("openvino")]
    assert built == run == ["openvino==2026.4.1"]


def test_neither_torch_nor_monai_is_needed_to_install(pyproject: dict[str, Any]) -> None:
    names = {re.split(r"[<>=!~ \[]", r)[0] for r in pyproject["project"]["dependencies"]}
    assert names == {"isal", "nibabel", "numpy", "openvino", "pillow", "pynrrd", "tqdm"}
    extras = set(pyproject["project"]["optional-dependencies"])
    assert {"torch", "train", "export", "cuda", "tensorrt", "test"} <= extras


def test_the_version_is_stated_once(pyproject: dict[str, Any]) -> None:
    assert "version" not in pyproject["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", ctfast.__version__)
