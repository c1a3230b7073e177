"""Everything that a user can get wrong: one line that says so, the documented exit code, and no file left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from support import tiny_networks, tiny_plan

from ctfast import plan as plan_file
from ctfast.cli.main import main
from ctfast.io import atomic

Make = Callable[[Path], None]


def save_mask(labels: Any, affine: Any = None) -> Make:
    def make(folder: Path) -> None:
        image = nibabel.Nifti1Image(labels, np.diag([*tiny_plan.SPACING, 1.0]) if affine is None else affine)
        nibabel.save(image, folder / "mask.nii.gz")

    return make


def body(dtype: Any = np.uint8) -> Any:
    labels = np.full(tiny_plan.SIZE, tiny_plan.BODY, dtype)
    labels[:2] = 0
    return labels


def foreign() -> Any:
    labels = body()
    labels[8:11] = 77
    return labels


def holed() -> Any:
    labels = body(np.float32)
    labels[3, 4, 5] = np.nan
    return labels


def oblique() -> Any:
    angle = np.radians(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(tiny_plan.SPACING)
    return affine


def change_plan(change: Callable[[bytearray], object]) -> Make:
    def make(folder: Path) -> None:
        path = folder / "tiny.plan"
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return make


def from_the_future(folder: Path) -> None:
    """A plan that says that only readers of version 2 and ctfast 9.1 on may read it."""
    data = bytearray((folder / "tiny.plan").read_bytes())
    data[8:12] = (2).to_bytes(4, "little")
    data[12:16] = (2).to_bytes(4, "little")
    data[16:22] = struct.pack("<3H", 9, 1, 0)
    (folder / "tiny.plan").write_bytes(data)


@dataclass(frozen=True)
class Case:
    """What to type, what it costs, and what the one line must say. ``make`` lays out the folder first."""

    name: str
    arguments: str
    exit_code: int
    says: tuple[str, ...]
    make: Make | None = None


GENERATE = "generate --engine tiny.plan"
MASKED = f"{GENERATE} --mask mask.nii.gz"

CASES = [
    Case(
        "size that is not legal", f"{GENERATE} --size 30 30 16", 2, ("size 30 x 30 x 16", "expected", "nearest legal")
    ),
    Case("size of two numbers", f"{GENERATE} --size 32 32", 2, ("--size", "3 arguments", "--help")),
    Case("size of words", f"{GENERATE} --size a b c", 2, ("--size", "invalid int", "--help")),
    Case("spacing out of range", f"{GENERATE} --spacing 0.2 4 2.5", 2, ("spacing 0.2 x 4 x 2.5", "x 2 to 6")),
    Case("spacing that is no number", f"{GENERATE} --spacing nan 4 2.5", 2, ("spacing", "nan")),
    Case("no steps", f"{GENERATE} --steps 0", 2, ("steps", "from 1 to 1000", "found 0")),
    Case("unknown solver", f"{GENERATE} --solver rk4", 2, ("solver", "euler, heun", "'rk4'")),
    Case("negative seed", f"{GENERATE} --seed -1", 2, ("seed", "2^64 - 1", "-1")),
    Case("unknown modality", f"{GENERATE} --modality us", 2, ("modality", "ct (1)", "'us'")),
    Case("several at once", f"{GENERATE} --steps 0 --seed -1", 2, ("2 problems", "(1) steps", "(2) seed")),
    Case("no volumes", f"{GENERATE} --count 0", 2, ("--count", "found 0")),
    Case("unknown option", f"{GENERATE} --fast", 2, ("unrecognized arguments: --fast", "--help")),
    Case("unknown command", "create", 2, ("'create'", "generate", "--help")),
    Case("unknown format", f"{GENERATE} -o ct.dcm", 2, ("'ct.dcm'", ".nii.gz, .nii, .nrrd, .npz")),
    Case("preview that is no PNG", f"{GENERATE} --preview ct.jpg", 2, ("'ct.jpg'", ".png")),
    Case("pattern that is none", f"{GENERATE} -o ct_{{number}}.nii", 2, ("pattern", "{sample}")),
    Case("mask of another vocabulary", MASKED, 2, ("not labels of this plan: 77", "7 Mandible"), save_mask(foreign())),
    Case("mask of another shape", f"{MASKED} --size 48 48 16", 2, ("conflicts", "(48, 48, 16)"), save_mask(body())),
    Case("mask of an illegal shape", MASKED, 2, ("size 32 x 32 x 12", "not legal"), save_mask(body()[..., :12])),
    Case("flat mask", MASKED, 2, ("three-dimensional", "(32, 32)"), save_mask(body()[..., 0])),
    Case("oblique mask", MASKED, 2, ("oblique", "12.0 degrees", "order=0"), save_mask(body(), oblique())),
    Case("NaN in a mask", MASKED, 2, ("mask", "1 voxels are NaN"), save_mask(holed())),
    Case("fractions in a mask", MASKED, 2, ("not integers", "nearest"), save_mask(body(np.float32) * 0.377)),
    Case("empty mask", MASKED, 2, ("empty",), save_mask(np.zeros(tiny_plan.SIZE, np.uint8))),
    Case("missing mask", MASKED, 2, ("no file 'mask.nii.gz'",)),
    Case(
        "mask that is no image", MASKED, 2, ("cannot read",), lambda d: (d / "mask.nii.gz").write_text("mask") and None
    ),
    Case("missing image", "encode ct.nii.gz --engine tiny.plan", 2, ("no file 'ct.nii.gz'",)),
    Case("latent under another name", "encode a.nii -o b.nii --engine tiny.plan", 2, ("'b.nii'", ".npz")),
    Case("missing latent", "decode latent.npz --engine tiny.plan", 2, ("no file 'latent.npz'",)),
    Case("missing plan", "generate --engine nowhere.plan", 3, ("no plan 'nowhere.plan'", "ctfast build")),
    Case("missing plan to show", "info nowhere.plan", 3, ("no plan 'nowhere.plan'",)),
    Case("plan of a future version", GENERATE, 3, ("tiny.plan", "newer", "9.1.0", "pip install"), from_the_future),
    Case(
        "truncated plan",
        GENERATE,
        3,
        ("tiny.plan", "again"),
        change_plan(lambda data: data.__delitem__(slice(-100, None))),
    ),
    Case("empty plan", "info tiny.plan", 3, ("tiny.plan",), change_plan(lambda data: data.clear())),
    Case(
        "foreign plan",
        GENERATE,
        3,
        ("tiny.plan",),
        change_plan(lambda data: data.__setitem__(slice(0, 8), b"PK\3\4abcd")),
    ),
    Case(
        "altered plan",
        "verify tiny.plan",
        3,
        ("tiny.plan", "checksum"),
        change_plan(lambda data: data.__setitem__(-9, 1)),
    ),
    Case("device that is not there", f"{GENERATE} --device cuda:99", 4, ("'cuda:99'", "CPU")),
    Case("backend that there is not", f"{GENERATE} --backend caffe", 2, ("backend", "openvino", "'caffe'")),
    Case("device that the backend has not", f"{GENERATE} --backend openvino --device cuda", 4, ("CPU only", "'cuda'")),
    Case("missing folder", f"{GENERATE} -o nowhere/ct.nii", 4, ("folder 'nowhere' does not exist",)),
    Case("picture that is a folder", f"{GENERATE} --preview p.png", 4, ("folder",), lambda d: (d / "p.png").mkdir()),
    Case("folder that is a file", f"{GENERATE} --count 2 -o tiny.plan/x", 4, ("cannot make the folder",)),
]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")


@pytest.fixture
def folder(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(plan, tmp_path / "tiny.plan")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_line_the_exit_code_and_no_file(case: Case, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if case.make is not None:
        case.make(folder)
    before = listing(folder)
    code = main(case.arguments.split())
    out, err = capsys.readouterr()
    assert code == case.exit_code, err
    assert out == ""
    assert err.startswith("ctfast: error: ")
    assert err.count("\n") == 1
    for words in case.says:
        assert words in err
    assert "Traceback" not in err
    assert listing(folder) == before


def test_machines_get_the_error_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE.split(), "--steps", "0", "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["exit_code"]) == ("RequestError", 2)
    assert f"ctfast: error: {error['message']}\n" == err


def test_the_unexpected_takes_one_line_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("ctfast.api.load", broken)
    monkeypatch.delenv("CTFAST_DEBUG", raising=False)
    assert main(GENERATE.split()) == 1
    expected = "ctfast: error: ZeroDivisionError: division by zero (unexpected; set CTFAST_DEBUG=1 for the traceback)\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setenv("CTFAST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(GENERATE.split())


def test_a_disk_that_fills_up(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(folder)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(atomic.os, "fsync", full)
    assert main(GENERATE.split()) == 4
    assert "cannot write 'ct.nii.gz': the disk is full. Free some space" in capsys.readouterr().err
    assert listing(folder) == before


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ctfast", *[str(argument) for argument in arguments]]


def test_a_limit_on_file_size(folder: Path) -> None:
    """The system refuses to write more than the first 2 kB of the volume."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    before = listing(folder)
    result = subprocess.run(command(*GENERATE.split()), capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 4
    assert result.stderr.startswith("ctfast: error: cannot write 'ct.nii.gz': File too large")
    assert listing(folder) == before


def test_a_really_full_disk(folder: Path) -> None:
    """A file system of 16 kB, where the user may make one of his own."""
    small = folder / "small"
    small.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("this system lets users make no mount namespace")
    words = " ".join(command(*GENERATE.split(), "-o", "small/ct.nii"))
    script = f"mount -t tmpfs -o size=16k tmpfs small && {words}; code=$?; ls -A small; exit $code"
    result = subprocess.run([*unshare, "bash", "-c", script], capture_output=True, text=True)
    if "mount" in result.stderr:
        pytest.skip("this system lets users mount nothing")
    assert (result.returncode, result.stdout) == (4, "")
    assert "cannot write 'small/ct.nii': the disk is full" in result.stderr


def test_no_permission(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (folder / "locked").mkdir(mode=0o500)
    result = subprocess.run(command(*GENERATE.split(), "-o", "locked/ct.nii"), capture_output=True, text=True)
    assert result.returncode == 4
    assert "permission was denied" in result.stderr


@pytest.fixture(scope="module")
def slow_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan whose denoiser takes its time."""
    path = tmp_path_factory.mktemp("slow") / "slow.plan"
    tiny_plan.write(path)
    source = plan_file.Plan.open(path)
    model = tiny_networks.stack(96, 4)
    xml, weights = tiny_networks.to_ir(model)
    sections: dict[str, Any] = {section.name: bytes(source.section(section.name)) for section in source.sections}
    sections |= {"denoiser/model.xml": xml.encode(), "denoiser/model.bin": weights}
    manifest = source.manifest.to_json()
    manifest["networks"]["denoiser"] |= {"inputs": ["latent"], "drop_if_unused": []}
    manifest["conditioning"] |= {"spacing": False, "class_label": False}
    plan_file.write(path, manifest, sections)
    return path


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_while_sampling(folder: Path, slow_plan: Path, stop: signal.Signals, count: int) -> None:
    before = listing(folder)
    words = ["generate", "--engine", slow_plan, "--steps", 1000, "-o", "ct.nii.gz", "--count", count]
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listens,
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not sampling(process.pid):
        time.sleep(0.02)
    time.sleep(0.3)
    assert process.poll() is None
    asked = time.monotonic()
    process.send_signal(stop)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (out, err) == ("", "ctfast: cancelled\n")
    assert time.monotonic() - asked < 5
    assert listing(folder) == before


def listens() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and the tests may be such a thing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def sampling(pid: int) -> bool:
    """Whether the process has loaded OpenVINO's CPU plug-in, which it does when it compiles the denoiser."""
    try:
        return "intel_cpu" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
