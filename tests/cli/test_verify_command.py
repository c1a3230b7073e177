"""'ctfast verify --against': a plan next to the checkpoints that it came from, and next to others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("ctfast._native")

from support import tiny_models  # noqa: E402
from support.official_files import one_thread  # noqa: E402

from ctfast.cli.main import main  # noqa: E402
from ctfast.export import build  # noqa: E402
from ctfast.plan import Plan  # noqa: E402

pytestmark = pytest.mark.slow

ROLES = ("autoencoder", "denoiser")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Checkpoints, a description and a plan of the two networks that every plan has."""
    folder = tmp_path_factory.mktemp("built")
    files = tiny_models.write_checkpoints(folder)
    (folder / "tiny.json").write_text(json.dumps(tiny_models.description()))
    with one_thread():
        pair = {role: files[role] for role in ROLES}
        build(tiny_models.description(), pair, folder / "tiny.plan", cache=folder / "cache")
        yield folder


def words(folder: Path, autoencoder: str = "autoencoder.pt") -> list[str]:
    files = {"autoencoder": autoencoder, "denoiser": "denoiser.pt"}
    against = [f"--against={role}={folder / name}" for role, name in files.items()]
    return ["verify", str(folder / "tiny.plan"), *against, f"--description={folder / 'tiny.json'}", "--threads=1"]


def test_the_error_of_every_network_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert [network["network"] for network in told["networks"]] == ["vae_decoder", "vae_encoder", "denoiser"]
    assert all(network["ok"] and network["graph_error"] < 1e-5 for network in told["networks"])
    assert told["not_compared"] == []


def test_other_checkpoints_end_with_the_code_of_a_bad_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny_models.modules()["autoencoder"]
    with torch.no_grad():
        other.decoder.blocks[0].conv.conv.bias[0] += 1.0
    torch.save({"state_dict": other.state_dict()}, folder / "other.pt")
    assert main(words(folder, "other.pt")) == 3
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"{folder / 'tiny.plan'}: ok, ")
    assert lines[1].startswith("vae_decoder: DIFFERS, relative error ")
    assert lines[1].endswith("; other weights in decoder.blocks.0.conv.conv.bias")
    assert [line.split(",")[0] for line in lines[2:]] == ["vae_encoder: ok", "denoiser: ok"]
    assert "does not compute what these checkpoints compute: vae_decoder. Check" in err
    assert main([*words(folder, "other.pt"), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["networks"][0]["altered"] == ["decoder.blocks.0.conv.conv.bias"]


def test_a_second_build_takes_its_networks_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("everything is there")

    monkeypatch.setitem(build.__globals__, "onnx_model", fail)
    files = {role: folder / f"{role}.pt" for role in ROLES}
    build(tiny_models.description(name="again"), files, tmp_path / "a.plan", cache=folder / "cache")
    first, second = Plan.open(folder / "tiny.plan"), Plan.open(tmp_path / "a.plan")
    assert second.manifest.name == "again"
    assert second.manifest.networks == first.manifest.networks
    assert [(part.name, part.sha256) for part in second.sections] == [(p.name, p.sha256) for p in first.sections]
    with pytest.raises(AssertionError, match="everything is there"):
        build(tiny_models.description(), files, tmp_path / "b.plan", cache=folder / "cache", precision="fp32")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--description=rflow-ct"], 2, "--description goes with --against"),
        (["--against=spare", "--against=denoiser=d.pt"], 2, "--against: expected one folder, or ROLE=FILE each time"),
        (["--against=models"], 2, "is of variant 'tiny', which is none of rflow-ct"),
    ],
)
def test_bad_requests_end_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert main(["verify", str(folder / "tiny.plan"), *more]) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
