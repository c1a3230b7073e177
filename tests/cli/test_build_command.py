"""'ctfast build' on the command line: what it checks, prints and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from support import tiny_models  # noqa: E402

from ctfast.cli import build as command  # noqa: E402
from ctfast.cli import extras  # noqa: E402
from ctfast.cli.main import build_parser, main  # noqa: E402
from ctfast.export.build import prepare  # noqa: E402
from ctfast.export.wrappers import graphs  # noqa: E402


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    tiny_models.write_checkpoints(folder)
    (folder / "tiny.json").write_text(json.dumps(tiny_models.description()))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def words(folder: Path, *more: str) -> list[str]:
    weights = [f"--weights={role}={folder / role}.pt" for role in ("autoencoder", "denoiser", "controlnet")]
    return ["build", str(folder / "tiny.json"), *weights, "-o", str(folder / "tiny.plan"), *more]


def test_a_dry_run_tells_what_it_would_do(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(checkpoints, "--dry-run", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dry_run"] is True
    assert told["output"] == str(checkpoints / "tiny.plan")
    assert (told["name"], told["variant"]) == ("tiny", "tiny")
    assert list(told["files"]) == ["autoencoder", "denoiser", "controlnet"]
    denoiser = tiny_models.modules()["denoiser"]
    assert told["files"]["denoiser"]["parameters"] == sum(p.numel() for p in denoiser.parameters())
    assert list(told["networks"]) == ["vae_decoder", "vae_encoder", "denoiser", "controlnet", "controlnet_condition"]
    assert told["networks"]["denoiser"]["parameters"] == told["files"]["denoiser"]["parameters"]
    assert told["networks"]["denoiser"]["weight_bytes"] == 2 * told["files"]["denoiser"]["parameters"]
    assert not any(network["kept"] for network in told["networks"].values())
    assert told["plan_bytes"] == sum(network["weight_bytes"] for network in told["networks"].values())
    assert told["sizes"]["default"] == list(tiny_models.SIZE)
    assert told["cache"] == str(tmp_path / "ctfast" / "export")
    assert told["licence"]["class"] == "open-model"
    assert not (checkpoints / "tiny.plan").exists()
    assert main(words(checkpoints, "--dry-run", "--weights-dtype=float32", "--no-cache")) == 0
    text = capsys.readouterr().out
    assert "cache: none" in text
    assert "sizes: 32 x 32 x 16 voxels of 2 x 2 x 3 mm unless asked otherwise" in text
    assert "licence: open-model, NVIDIA Open Model License" in text
    assert "MB as float32, to be exported" in text
    assert "GiB of memory" in text
    assert f"would write {checkpoints / 'tiny.plan'}, about " in text


def test_a_dry_run_knows_what_an_earlier_build_kept(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {role: checkpoints / f"{role}.pt" for role in ("autoencoder", "denoiser", "controlnet")}
    job = prepare(tiny_models.description(), files, checkpoints / "tiny.plan", cache=tmp_path)
    fresh = job.outline()
    network = job.model.load("denoiser")
    key = job.options.key(graphs("denoiser", network, controlnet=True)[0], network.config)
    (tmp_path / key).mkdir()
    (tmp_path / key / "entry.json").touch()
    again = job.outline()
    assert [each.name for each in again.networks if each.kept] == ["denoiser"]
    assert again.seconds < fresh.seconds
    assert again.plan_bytes == fresh.plan_bytes
    assert again.disk_bytes <= fresh.disk_bytes
    assert main(words(checkpoints, "--dry-run", f"--cache={tmp_path}")) == 0
    text = capsys.readouterr().out
    assert f"cache: {tmp_path}\n" in text
    assert "as float16, kept from an earlier build\n" in text


def test_the_manifest_tells_the_command_without_folders(checkpoints: Path) -> None:
    args = build_parser("build").parse_args(
        words(checkpoints, "--name", "my plan", "--networks", "autoencoder,denoiser")
    )
    told = command._command(args)
    assert told == (
        "ctfast build tiny.json --weights autoencoder=autoencoder.pt --weights denoiser=denoiser.pt "
        "--weights controlnet=controlnet.pt -o tiny.plan --precision bf16 --name 'my plan' "
        "--networks autoencoder,denoiser"
    )
    args = build_parser("build").parse_args(["build", "rflow-ct", "--weights", "/private/models/", "-o", "a.plan"])
    assert command._command(args) == "ctfast build rflow-ct --weights models -o a.plan --precision bf16"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--precision=fp8"], 2, "precision: expected bf16 or fp16 or fp32 or int8, found 'fp8'"),
        (["--backend=triton"], 2, "backend: expected openvino or tensorrt, found 'triton'"),
        (["--networks=denoiser"], 2, "a plan needs autoencoder and denoiser, and autoencoder was left out"),
        (["--weights=spare.pt"], 2, "--weights: expected one folder, or ROLE=FILE each time, found spare.pt"),
        (["--weights=unet=x.pt"], 2, "weights: unknown network unet"),
        (["--weights=denoiser=absent.pt"], 3, "absent.pt cannot be read: No such file"),
        (["-o", "no/such/folder/a.plan"], 4, "does not exist; make it or give another path"),
    ],
)
def test_bad_requests_end_in_one_line(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], change: list[str], code: int, message: str
) -> None:
    assert main(words(checkpoints, *change)) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert sorted(path.suffix for path in checkpoints.iterdir()) == [".json", *[".pt"] * 5]


def test_a_missing_weights_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "rflow-ct", "-o", "a.plan"]) == 2
    assert "--weights" in capsys.readouterr().err


def test_a_folder_is_searched_by_the_variants_names(
    tmp_path: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", "rflow-mr", "--weights", str(tmp_path), "-o", str(tmp_path / "a.plan"), "--dry-run"]
    assert main(arguments) == 3
    assert "lacks files of rflow-mr. Missing are autoencoder: autoencoder_v2.pt" in capsys.readouterr().err
    for role, name in (("autoencoder", "autoencoder_v2.pt"), ("denoiser", "diff_unet_3d_rflow-mr.pt")):
        shutil.copy(checkpoints / f"{role}.pt", tmp_path / name)
    assert main(arguments) == 3
    assert "does not fit the autoencoder of rflow-mr" in capsys.readouterr().err


def test_missing_packages_are_named(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(extras, "import_module", absent)
    assert main(words(checkpoints)) == 2
    assert "needs 'onnxscript', which is not installed: pip install 'ctfast[export]'" in capsys.readouterr().err


def test_what_int8_takes(checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nncf")
    asked = words(checkpoints, "--precision", "int8", "--calibration", "8")
    assert main([*asked, "--dry-run", "--json"]) == 0
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert {name for name, network in networks.items() if network["weights_dtype"] == "int8"} == {
        "denoiser",
        "controlnet",
    }
    assert "--precision int8 --calibration 8" in command._command(build_parser("build").parse_args(asked))
    assert main(words(checkpoints, "--calibration", "8", "--dry-run")) == 2
    assert "only precision 'int8' is calibrated, and this is 'bf16'" in capsys.readouterr().err
