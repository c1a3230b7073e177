"""Training configurations: what is read, and what is refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import tiny_training

from ctfast.errors import RequestError
from ctfast.train.config import from_dict, load, to_dict


def test_the_shipped_configuration_makes_one_model() -> None:
    config = load("headneck")
    assert config.vae.network.compression == 4
    assert config.flow.network.in_channels == config.vae.network.latent_channels
    assert config.controlnet_network().denoiser == config.flow.network
    assert config.data.mirror_labels == ((3, 4),)


def test_a_configuration_survives_its_plain_form(tmp_path: Path) -> None:
    for config in (load("headneck"), tiny_training.config(tmp_path), from_dict({})):
        assert from_dict(to_dict(config)) == config


def test_defaults_are_maisis_loss_weights() -> None:
    task = from_dict({}).controlnet
    assert (task.contrast_weight, task.contrast_weight_late, task.contrast_cap) == (0.01, 0.001, 2.0)


def test_numbers_written_as_yaml_reads_them(tmp_path: Path) -> None:
    # YAML 1.1 takes 1e-4 for text and 2 for an int.
    file = tmp_path / "a.yaml"
    file.write_text("vae: {kl: 1e-4, l2: 2}\n")
    task = load(file).vae
    assert (task.kl, task.l2) == (1e-4, 2.0)
    assert isinstance(task.l2, float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vea": {}}, "unknown field vea; known are name, modality, data, vae, flow, controlnet"),
        ({"flow": {"optimisation": {"stepps": 3}}}, r"config\.flow\.optimisation: unknown field stepps"),
        ({"flow": 3}, r"config\.flow: expected a mapping of fields, found 3"),
        ({"flow": {"loss": "l3"}}, r"config\.flow\.loss: expected l1 or l2, found 'l3'"),
        ({"flow": {"sample_method": "normal"}}, "sample_method: expected uniform or logit-normal"),
        ({"vae": {"kl": "little"}}, r"config\.vae\.kl: expected float, found 'little'"),
        ({"vae": {"optimisation": {"steps": 1.5}}}, "steps: expected int, found 1.5"),
        ({"vae": {"optimisation": {"amp": 1}}}, "amp: expected bool, found 1"),
        ({"vae": {"optimisation": {"steps": True}}}, "steps: expected int, found True"),
        ({"data": {"mirror_labels": 3}}, "mirror_labels: expected tuple, found 3"),
        ({"data": {"mirror_labels": [[3, 4, 5]]}}, "pairs of labels from 1 to 255"),
        ({"data": {"low": 100, "high": 0}}, "data.low must be below data.high"),
        ({"data": {"label_bits": 9}}, "label_bits must be 1 to 8"),
        ({"vae": {"phases": []}}, "phases: expected a list of phases"),
        ({"vae": {"phases": [{"patch": [16, 16, 16]}]}}, r"phases\[0\]: .*'steps'"),
        ({"vae": {"phases": [{"steps": 1, "patch": [16, 16, 18]}]}}, "three multiples of the VAE's compression, 4"),
        ({"vae": {"optimisation": {"batch": 0}}}, "vae.optimisation.batch must be positive"),
        ({"flow": {"versions": 0}}, "flow.versions must be positive"),
        ({"flow": {"network": {"in_channels": 8}}}, "denoiser.in_channels is 8, but the latent has 4 channels"),
        ({"controlnet": {"condition_channels": [8, 8]}}, "condition_channels has 2 entries"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_dict(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "expected a mapping of fields, found list"), (None, "shipped configuration")],
)
def test_files_that_are_refused(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RequestError, match=message):
        load(file)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RequestError, match="no_such: expected a YAML file or a shipped configuration's name"):
        load("no_such")
