"""The kernels of csrc/cuda compiled for this computer, as the library that ctfast.cuda opens, and arrays for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path) -> Path:
    """The library, compiled as C++ with tests/cpp/cuda_on_host.h in place of CUDA."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    path = folder / "libctfast_cuda.so"
    options = ["-std=c++20", "-O0", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]
    includes = ["-I", str(ROOT / "csrc"), "-I", str(ROOT / "tests/cpp")]
    sources = sorted(str(source) for source in (ROOT / "csrc/cuda").glob("*.cu"))
    subprocess.run([compiler, *includes, *options, "-x", "c++", *sources, "-o", str(path)], check=True)
    return path


class OnDevice:
    """A NumPy array that says it is on CUDA device ``index``."""

    def __init__(self, array: NDArray[Any], index: int = 0) -> None:
        self.array, self.index = array, index
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.index)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()


class Interface:
    """A NumPy array behind the CUDA array interface, as CuPy's before DLPack."""

    def __init__(self, array: NDArray[Any]) -> None:
        about = dict(array.__array_interface__)
        about.pop("descr")
        self.__cuda_array_interface__ = about


def zeros(*shape: int, dtype: Any = np.float32) -> OnDevice:
    return OnDevice(np.zeros(shape, dtype))
