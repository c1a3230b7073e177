"""The commands: what they write, what they print for people, for machines and into pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from support import tiny_plan

from ctfast import __version__
from ctfast.cli import main as cli
from ctfast.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_writes_a_volume_and_says_so(plan: Path, tmp_path: Path, capsys: Any) -> None:
    code, out, err = run(["generate", "--engine", plan, "--seed", 5], capsys)
    assert (code, err) == (0, "")
    assert out.startswith("ct.nii.gz: 32 x 32 x 16 voxels of 4 x 4 x 2.5 mm, seed 5, ")
    assert out.endswith(" s\n")
    assert names(tmp_path) == ["ct.json", "ct.nii.gz"]
    assert json.loads(Path("ct.json").read_text())["seed"] == 5
    assert nibabel.load("ct.nii.gz").shape == tiny_plan.SIZE


def test_generate_with_everything(plan: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["data", "phantom", "--size", 32, 32, 16, "--spacing", 4, 4, 2.5, "--seed", 1], capsys)[0] == 0
    words = "generate --mask mask.nii.gz -o out.nrrd --preview out.png --steps 3 --solver heun --time-grid exact"
    words += " --modality ct_contrast --guidance 1.5 --decode windowed --window 4 4 4 --overlap 0.3 --precision fp32"
    words += f" --threads 1 --device cpu --size 32 32 16 --spacing 4 4 2.5 --sample 2 --json --engine {plan}"
    code, out, err = run(words.split(), capsys)
    assert (code, err) == (0, "")
    result = json.loads(out)
    volume = result["volumes"][0]
    assert [volume[key] for key in ("image", "json", "labels", "preview")] == [
        "out.nrrd",
        "out.json",
        "out_labels.nrrd",
        "out.png",
    ]
    expected = {"steps": 3, "solver": "heun", "sample": 2, "modality": "ct_contrast", "threads": 1, "synthetic": True}
    assert {key: volume["meta"][key] for key in expected} == expected
    assert volume["meta"]["guidance"] == {"kind": "tumour", "scale": 1.5}
    assert json.loads(Path("out.json").read_text())["sha256"] == volume["sha256"]
    assert Image.open("out.png").width > 500
    assert names(tmp_path) == ["mask.json", "mask.nii.gz", "out.json", "out.nrrd", "out.png", "out_labels.nrrd"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("set", ["set/ct_0000.nii.gz", "set/ct_0001.nii.gz", "set/ct_0002.nii.gz"]),
        ("a.npz", ["a_0000.npz", "a_0001.npz", "a_0002.npz"]),
        ("s{seed}/{sample}.nii", ["s4/0.nii", "s4/1.nii", "s4/2.nii"]),
        ("x{sample:03d}.nrrd", ["x000.nrrd", "x001.nrrd", "x002.nrrd"]),
    ],
)
def test_several_volumes(plan: Path, tmp_path: Path, capsys: Any, output: str, expected: list[str]) -> None:
    arguments = [
        "generate",
        "--engine",
        plan,
        "--count",
        3,
        "--seed",
        4,
        "-o",
        output,
        "--preview",
        "p/view.png",
        "--json",
    ]
    code, out, err = run(arguments, capsys)
    assert (code, err) == (0, "")
    volumes = json.loads(out)["volumes"]
    assert [volume["image"] for volume in volumes] == expected
    assert [volume["meta"]["sample"] for volume in volumes] == [0, 1, 2]
    assert len({volume["sha256"] for volume in volumes}) == 3
    assert names(tmp_path / "p") == ["view_0000.png", "view_0001.png", "view_0002.png"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_set_can_be_made_in_parts(plan: Path, capsys: Any) -> None:
    run(["generate", "--engine", plan, "--count", 3, "-o", "whole"], capsys)
    run(["generate", "--engine", plan, "--count", 2, "--sample", 1, "-o", "part"], capsys)
    assert Path("part/ct_0002.nii.gz").read_bytes() == Path("whole/ct_0002.nii.gz").read_bytes()


def test_quiet_and_pipes_are_silent(plan: Path) -> None:
    arguments = [sys.executable, "-m", "ctfast", "generate", "--engine", str(plan)]
    quiet = subprocess.run([*arguments, "--quiet"], capture_output=True, text=True, check=True)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    piped = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    assert piped.stdout.count("\n") == 1


def test_a_terminal_gets_a_progress_bar(plan: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = [sys.executable, "-m", "ctfast", "generate", "--engine", str(plan)]
    subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert b"sample" in shown
    assert b"0/4" in shown


def test_a_closed_pipe_is_no_complaint(plan: Path) -> None:
    command = f"{sys.executable} -m ctfast info {plan} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_info_and_verify(plan: Path, capsys: Any) -> None:
    code, text, _ = run(["info", plan], capsys)
    assert code == 0
    assert "tiny" in text
    assert "Mandible" in text
    summary = json.loads(run(["info", plan, "--json"], capsys)[1])
    assert summary["sizes"]["default"] == list(tiny_plan.SIZE)
    usable = {row["name"]: row["usable"] for row in summary["backends"]}
    assert usable["openvino"]
    assert usable["torch"] is (find_spec("torch") is not None)
    assert "openvino: usable" in text
    code, text, _ = run(["verify", plan], capsys)
    assert (code, text.split(":")[1][:4]) == (0, " ok,")
    assert json.loads(run(["verify", plan, "--json"], capsys)[1])["identity"] == summary["identity"]


def test_encode_and_decode(plan: Path, capsys: Any) -> None:
    run(["generate", "--engine", plan, "--seed", 3], capsys)
    code, text, _ = run(["encode", "ct.nii.gz", "--engine", plan], capsys)
    assert (code, text) == (0, "latent.npz: latent of 4 x 8 x 8 x 4 (channels, x, y, z)\n")
    code, text, err = run(["decode", "latent.npz", "-o", "back.nii.gz", "--preview", "b.png", "--engine", plan], capsys)
    assert (code, err) == (0, "")
    before, after = nibabel.load("ct.nii.gz"), nibabel.load("back.nii.gz")
    assert np.allclose(before.affine, after.affine)
    assert Path("b.png").exists()
    code, text, err = run(["decode", "latent.npz", "--spacing", 4, 4, 4, "--engine", plan, "--json"], capsys)
    assert json.loads(text)["meta"]["spacing"] == [4, 4, 4]


def test_a_latent_of_another_plan_warns(plan: Path, tmp_path: Path, capsys: Any) -> None:
    other = tiny_plan.write(tmp_path / "other.plan", revision="2")
    run(["generate", "--engine", plan], capsys)
    run(["encode", "ct.nii.gz", "--engine", plan], capsys)
    assert run(["decode", "latent.npz", "--engine", plan], capsys)[2] == ""
    assert "made with another plan" in run(["decode", "latent.npz", "--engine", other], capsys)[2]


def test_warnings_take_one_line(plan: Path, capsys: Any) -> None:
    labels = np.zeros(tiny_plan.SIZE, np.uint8)
    labels[8:12] = 7
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([4, 4, 2.5, 1])), "mask.nii")
    code, _, err = run(["generate", "--engine", plan, "--mask", "mask.nii"], capsys)
    assert code == 0
    assert err.startswith("ctfast: warning: the mask has no voxel of body (label 200)")
    assert err.count("\n") == 1
    assert run(["generate", "--engine", plan, "--mask", "mask.nii", "--quiet"], capsys)[2] == ""


@pytest.mark.parametrize("command", [*COMMANDS, "data phantom", ""])
def test_every_help_has_an_example(command: str, capsys: Any) -> None:
    if command and cli.find_spec(f"ctfast.cli.{command.split()[0]}") is None:
        pytest.skip(f"this installation has no command {command}")
    code, out, err = run([*command.split(), "--help"], capsys)
    assert (code, err) == (0, "")
    assert "example" in out
    assert f"ctfast {command}".strip() in out


def test_version_and_no_command(capsys: Any) -> None:
    assert run(["--version"], capsys) == (0, f"ctfast {__version__}\n", "")
    code, out, _ = run([], capsys)
    assert code == 2
    assert "generate CT or MR volumes" in out


def test_importing_a_command_loads_no_other(plan: Path) -> None:
    code = (
        "import sys; from ctfast.cli.main import main; main(['info', sys.argv[1], '--quiet']); "
        "heavy = {'torch', 'monai', 'openvino', 'ctfast._native', 'nibabel', 'PIL', 'ctfast.cli.generate'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(plan)], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
