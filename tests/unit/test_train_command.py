"""'ctfast train' on the command line: what it asks for, writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_training

from ctfast.cli.extras import import_extra
from ctfast.cli.main import main
from ctfast.errors import RequestError
from ctfast.networks import AutoencoderKL, ControlNet, DenoiserUNet

DECODER = tiny_training.CONFIG["vae"] | {"decoder_only": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.prepared(tmp_path_factory.mktemp("data") / "prepared", train=2, sizes=[(16, 16, 16)])


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps(tiny_training.CONFIG))  # JSON is YAML
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["train", *words.split()])
    out, err = capsys.readouterr()
    return code, out, err


def test_from_crops_to_a_controlnet(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = f"--config tiny.yaml --data {data} --threads 1"
    code, out, err = run(f"vae {common} --output runs/vae --stop-after 2", capsys)
    assert (code, err) == (0, "")
    assert out.startswith("runs/vae/checkpoint.pt: step 2, loss ")
    code, out, _ = run(f"vae {common} --output runs/vae --json", capsys)
    result = json.loads(out)
    assert result["checkpoint"] == "runs/vae/vae.pt"
    assert (result["last"]["step"], code) == (6, 0)
    assert {"loss", "val_psnr", "rate"} <= set(result["last"])
    code, out, _ = run(f"flow {common} --output runs/flow --vae runs/vae/vae.pt --quiet", capsys)
    assert (code, out) == (0, "")
    words = f"controlnet {common} --output runs/cn --vae runs/vae/vae.pt --flow runs/flow/checkpoint.pt"
    code, out, _ = run(words, capsys)
    assert code == 0
    assert "step 6, loss " in out
    assert sorted(path.name for path in Path("runs/cn").iterdir() if "events" not in path.name) == [
        "checkpoint.pt",
        "latents.pt",
        "latents_val.pt",
        "log.jsonl",
    ]


def test_training_the_decoder_alone_from_a_checkpoint(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    state = AutoencoderKL(tiny_training.config(data).vae.network).state_dict()
    torch.save({"state_dict": state}, "start.pt")
    Path("decoder.yaml").write_text(json.dumps(tiny_training.CONFIG | {"vae": DECODER}))
    words = f"vae --config decoder.yaml --data {data} --output runs/vae --from-checkpoint start.pt --threads 1"
    code, _, err = run(words, capsys)
    assert (code, err) == (0, "")
    trained = torch.load("runs/vae/vae.pt", weights_only=True)["state_dict"]
    changed = {key.split(".")[0] for key in state if not torch.equal(trained[key], state[key])}
    assert changed == {"decoder", "post_quant_conv"}


def test_from_a_plan_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_training.config(data)
    torch.manual_seed(0)
    vae, denoiser = AutoencoderKL(config.vae.network).state_dict(), DenoiserUNet(config.flow.network).state_dict()
    encoder = {key: value for key, value in vae.items() if key.startswith(("encoder.", "quant_conv_"))}
    networks = {
        "vae_encoder": encoder,
        "vae_decoder": {key: value for key, value in vae.items() if key not in encoder},
        "denoiser": denoiser,
    }
    tiny_training.plan(Path("tiny.plan"), networks)
    words = f"--config tiny.yaml --data {data} --stop-after 1 --threads 1 --from-plan tiny.plan --output"
    for task in ("vae", "flow", "controlnet"):
        code, _, err = run(f"{task} {words} {task}", capsys)
        assert (code, err) == (0, ""), err
        state = torch.load(f"{task}/checkpoint.pt", weights_only=True)["network"]
        expected, key = {
            "vae": (vae, "encoder.blocks.0.conv.conv.weight"),
            "flow": (denoiser, "conv_in.conv.weight"),
            "controlnet": (denoiser, "conv_in.conv.weight"),  # the plan has none: it begins as the denoiser
        }[task]
        # Adam's first step moves a weight by the rate at most.
        torch.testing.assert_close(state[key], expected[key], atol=2e-3, rtol=0)
    assert set(state) == set(ControlNet(config.controlnet_network()).state_dict())


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ("flow --output o", "train flow: expected --vae with the result of 'ctfast train vae', or --from-plan", 2),
        ("controlnet --output o --vae tiny.yaml", "train controlnet: expected --flow with the result of", 2),
        ("flow --output o --vae none.pt", "--vae: there is no file 'none.pt'", 2),
        ("flow --output o --vae tiny.yaml", "tiny.yaml cannot be read as a checkpoint", 3),
        ("vae --output o --data none", "none/train: expected prepared crops", 2),
        ("vae --output o --config none.yaml", "none.yaml: expected a YAML file or a shipped configuration's name", 2),
        ("vae --output o --stop-after 0", "--stop-after: expected 1 or more, found 0", 2),
        ("vae --output o --threads -1", "--threads: expected 1 or more, found -1", 2),
        ("vae", "required: --output", 2),
        ("gan --output o", "invalid choice: 'gan'", 2),
        ("vae --output o --data {data} --from-checkpoint none.pt", "none.pt cannot be read: No such file", 3),
        ("vae --output o --from-plan a --from-checkpoint b", "not allowed with argument --from-plan", 2),
        ("vae --output o --from-plan none.plan", "there is no plan 'none.plan'", 3),
        ("vae --output tiny.yaml --data {data}", "tiny.yaml: expected a folder to train into", 4),
    ],
)
def test_what_is_refused(words: str, message: str, code: int, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "" if "--config" in words else " --config tiny.yaml"
    found, out, err = run(words.format(data=data) + config, capsys)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("o").exists()


def test_packages_that_are_missing_are_named() -> None:
    with pytest.raises(RequestError, match=r"training needs 'no_such_package', .* pip install 'ctfast\[train\]'"):
        import_extra("no_such_package.part", "training", "train")
    with pytest.raises(ModuleNotFoundError):  # a mistake of ours is not the user's
        import_extra("ctfast.no_such_module", "training", "train")
