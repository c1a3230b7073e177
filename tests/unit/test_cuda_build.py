"""What CMake makes of csrc/cuda: for which devices, and what the library shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctfast import cuda
from ctfast.errors import DeviceError

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "csrc/cuda/ctfast_cuda.h").read_text()
NAMES = set(re.findall(r"^CTFAST_CUDA_API .*?(ctfast_cuda_\w+)\(", HEADER, re.MULTILINE))
TOOLS = ("nvcc", "cmake", "ninja", "nm")
# CMake and Ninja of the environment first, as `make` has it: a system's may be too old for this nvcc.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def disassembler() -> str | None:
    """cuobjdump of the toolkit, or the one that Triton has."""
    found = shutil.which("cuobjdump")
    if found is None:
        triton = pytest.importorskip("triton", reason="looking into the library needs cuobjdump")
        candidate = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        found = str(candidate) if candidate.is_file() else None
    return found


def text(*command: str | Path) -> str:
    words, there = [str(part) for part in command], {**os.environ, "PATH": PATH}
    words[0] = shutil.which(words[0], path=PATH) or words[0]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=there)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_architecture_is_built() -> None:
    listed = re.search(r"set\(CMAKE_CUDA_ARCHITECTURES ([^)]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert listed is not None
    # The last one without -real: intermediate code for devices that are newer.
    assert listed[1].split() == ["80-real", "86-real", "89-real", "90-real", "100-real", "120"]


def test_python_calls_what_the_header_declares() -> None:
    called = {f"ctfast_cuda_{name}" for name in (*cuda._ARGUMENTS, "interface", "error", "channel_slabs")}
    assert called == NAMES
    for name, arguments in cuda._ARGUMENTS.items():
        declared = re.search(rf"ctfast_cuda_{name}\(([^)]*)\)", HEADER)
        assert declared is not None
        assert len(declared[1].split(",")) == len(arguments), name


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for one architecture."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        pytest.skip(f"compiling CUDA needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("cuda")
    options = ["-DCTFAST_CUDA=ON", "-DCTFAST_BUILD_PYTHON=OFF", "-DCMAKE_CUDA_ARCHITECTURES=90-real"]
    text("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options)
    text("cmake", "--build", folder, "--target", "ctfast_cuda", "--parallel", "2")
    (library,) = folder.rglob("libctfast_cuda.so")
    return library


@pytest.mark.slow
def test_the_library_shows_its_functions_and_needs_no_driver(built: Path) -> None:
    symbols = text("nm", "-D", "--defined-only", built).splitlines()
    assert {line.split()[-1] for line in symbols} == NAMES
    needed = re.findall(r"NEEDED.*\[(.*)\]", text("readelf", "-d", built))
    assert not [name for name in needed if "cuda" in name or "torch" in name]


@pytest.mark.slow
def test_the_library_holds_code_for_the_device(built: Path) -> None:
    tool = disassembler()
    if tool is None:
        pytest.skip("looking into the library needs cuobjdump")
    found = text(tool, "--list-elf", built)
    assert set(re.findall(r"sm_\d+", found)) == {"sm_90"}


@pytest.mark.slow
def test_the_library_opens_where_there_is_no_driver(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this computer has a driver")
    monkeypatch.setattr(cuda, "PATH", built)
    cuda.library.cache_clear()
    with pytest.raises(DeviceError, match=r"expected a CUDA device and its driver, found: .*driver"):
        cuda.library()
