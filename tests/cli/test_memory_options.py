"""--memory on the commands, the table of ways to decode, and samples of the posterior."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from support import staged_plan

from ctfast.cli.main import main


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged_plan.write(tmp_path_factory.mktemp("plan") / "staged.plan")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(arguments: str | Sequence[object], capsys: Any) -> tuple[int, str, str]:
    words = arguments.split() if isinstance(arguments, str) else [str(word) for word in arguments]
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def result(arguments: Sequence[object], capsys: Any) -> Any:
    code, out, err = run([*arguments, "--json"], capsys)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_info_prints_the_ways_to_decode(plan: Path, capsys: Any) -> None:
    words = ["info", plan, "--size", 48, 48, 32, "--memory", "6MiB"]
    code, out, err = run(words, capsys)
    assert (code, err) == (0, "")
    head, titles, *rows = out.splitlines()
    assert head == "decoding 48 x 48 x 32 voxels in fp32 within 6.0 MiB of memory beyond the networks:"
    assert titles.split() == ["strategy", "peak", "work", "spilled", "fits"]
    assert [row.split()[0] for row in rows] == ["whole", "in_place", "spill", "recompute"]
    assert rows[0].split()[-1] == "no"
    table = result(words, capsys)["decoding"]
    marked = [row.split()[0] for row in rows if row.endswith("chosen")]
    assert marked == [table["chosen"]]
    chosen = next(row for row in table["strategies"] if row["name"] == table["chosen"])
    assert chosen["fits"]
    assert chosen["peak_bytes"] <= 6 << 20
    assert "strategies" in result(["info", plan, "--memory", "1GB"], capsys)["decoding"]
    assert run(["info", plan, "--size", 48, 48, 31], capsys)[0] == 2
    assert run(["info", plan, "--memory", "6 apples"], capsys)[0] == 2


def test_memory_chooses_the_way(plan: Path, capsys: Any) -> None:
    made = {}
    for memory in ("1GiB", "6MiB"):
        words = ["generate", "--engine", plan, "--size", 48, 48, 32, "--memory", memory, "-o", f"{memory}.nii.gz"]
        made[memory] = result(words, capsys)["volumes"][0]
    ways = {memory: volume["meta"]["decode_strategy"] for memory, volume in made.items()}
    assert ways["1GiB"]["name"] == "whole"
    assert ways["6MiB"]["name"] != "whole"
    assert ways["6MiB"]["predicted_peak_bytes"] <= 6 << 20
    one, two = (np.asarray(nibabel.load(volume["image"]).dataobj).astype(int) for volume in made.values())
    assert np.abs(one - two).max() <= 1
    content = json.loads(Path("6MiB.json").read_text())
    assert content["decode_strategy"] == ways["6MiB"]
    code, _, err = run(["generate", "--engine", plan, "--memory", "1MB", "-o", "none.nii"], capsys)
    assert code == 4
    assert "needs at least" in err
    assert not Path("none.nii").exists()


def test_encode_and_decode_within_memory(plan: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1001, (48, 36, 28)).astype(np.int16)  # no size that the plan generates
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1, 1, 2, 1])), "ct.nii.gz")
    whole = result(["encode", "ct.nii.gz", "--engine", plan, "-o", "a.npz"], capsys)
    staged = result(["encode", "ct.nii.gz", "--engine", plan, "-o", "b.npz", "--memory", "1MB"], capsys)
    assert whole["meta"]["encode_strategy"]["name"] == "whole"
    assert staged["meta"]["encode_strategy"]["name"] != "whole"
    assert np.allclose(np.load("a.npz")["latent"], np.load("b.npz")["latent"], atol=2e-5)
    decoded = result(["decode", "a.npz", "--engine", plan, "--memory", "4MiB", "--preview", "p.png"], capsys)
    assert decoded["meta"]["decode_strategy"]["name"] != "whole"
    assert nibabel.load("ct.nii.gz").shape == image.shape
    assert np.allclose(nibabel.load(decoded["image"]).affine, np.diag([1, 1, 2, 1]))
    assert Path("p.png").exists()
    code, _, err = run(["encode", "ct.nii.gz", "--engine", plan, "--memory", "1kB"], capsys)
    assert code == 4
    assert "encoding 48 x 36 x 28 voxels needs at least" in err
    assert run(["decode", "a.npz", "--engine", plan, "--preview", "p.jpg"], capsys)[0] == 2


def test_samples_are_drawn_on_request(plan: Path, capsys: Any) -> None:
    image = np.random.default_rng(0).integers(-1000, 1001, (32, 32, 16)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), "ct.nii")
    kinds = {}
    for name, options in (
        ("mean", ""),
        ("one", "--sample"),
        ("again", "--sample --seed 0"),
        ("two", "--sample --seed 7"),
    ):
        made = result(["encode", "ct.nii", "--engine", plan, "-o", f"{name}.npz", *options.split()], capsys)
        kinds[name] = made["meta"]["posterior"]
    latents = {name: np.load(f"{name}.npz")["latent"] for name in kinds}
    assert kinds == {
        "mean": {"kind": "mean"},
        "one": {"kind": "sample", "seed": 0},
        "again": {"kind": "sample", "seed": 0},
        "two": {"kind": "sample", "seed": 7},
    }
    assert np.array_equal(latents["one"], latents["again"])
    assert not np.allclose(latents["one"], latents["two"], atol=0.1)
    assert not np.allclose(latents["one"], latents["mean"], atol=0.1)
