"""What is in the wheel, and that it works where it is unpacked."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folders that reach the wheel, by their name there, and what they hold beside Python files.
SOURCES = {"ctfast": ROOT / "ctfast", "ctfast/export": ROOT / "export"}
DATA = {".gz", ".json", ".plan", ".pyi", ".typed", ".yaml", ".yml"}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("scikit_build_core") is None, reason="building a wheel here needs scikit-build-core"
)


def build(folder: Path, **settings: str) -> Path:
    """A wheel of the source tree, made with this environment's packages."""
    code = f"from scikit_build_core.build import build_wheel; build_wheel({str(folder)!r}, {settings!r})"
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel made without compiling."""
    wheel = build(tmp_path_factory.mktemp("contents"), **{"wheel.cmake": "false"})
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_one_package(contents: set[str]) -> None:
    tops = {name.partition("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ctfast"}


def test_every_source_and_data_file_is_in(contents: set[str]) -> None:
    for target, folder in SOURCES.items():
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            hidden = "__pycache__" in inside.parts or (target == "ctfast" and inside.parts[0] == "export")
            if hidden or path.suffix not in DATA | {".py"}:
                continue
            assert f"{target}/{inside.as_posix()}" in contents


def test_nothing_else_is_in(contents: set[str]) -> None:
    for name in contents:
        if name.startswith("ctfast/"):
            assert Path(name).suffix in DATA | {".py", ".md"}, name
            assert not {"tests", "csrc", "__pycache__"} & set(Path(name).parts), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("ninja") is None, reason="needs cmake and ninja")
def test_the_extension_works_where_the_wheel_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    openvino = importlib.util.find_spec("openvino")
    assert openvino is not None
    assert openvino.origin is not None
    (tmp_path / "site" / "openvino").symlink_to(Path(openvino.origin).parent)
    (extension,) = (tmp_path / "site" / "ctfast").glob("_native*.so")

    code = "from ctfast import _native; print(_native.__file__); print(_native.build_info()['openvino'])"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    environment["PYTHONPATH"] = str(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(extension)

    if shutil.which("readelf") and sys.platform == "linux":
        dynamic = subprocess.run(["readelf", "-d", extension], capture_output=True, text=True, check=True).stdout
        assert re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic) == ["$ORIGIN/../openvino/libs"]
        symbols = subprocess.run(["nm", "-D", "--defined-only", extension], capture_output=True, text=True, check=True)
        assert [line.split()[-1] for line in symbols.stdout.splitlines()] == ["PyInit__native"]
