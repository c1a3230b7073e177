"""Descriptions of a model's networks: the published ones, and those that a configuration file gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")

from ctfast.errors import RequestError
from ctfast.networks.variants import ROLES, VARIANTS, NetworkSet, other_variant, variant

HEADNECK: dict[str, Any] = {
    "autoencoder": {"latent_channels": 8, "channels": [32, 64], "blocks": [1, 2], "groups": 16, "patch": 2},
    "denoiser": {"in_channels": 8, "out_channels": 8, "channels": [32, 64], "head_channels": [0, 32]},
    "controlnet": {"condition_channels": [8, 16, 16]},
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_published_sets_survive_json(name: str) -> None:
    networks = variant(name).networks
    assert NetworkSet.from_dict(json.loads(json.dumps(networks.to_dict()))) == networks


def test_published_variants() -> None:
    assert {name: (entry.family, entry.licence.kind) for name, entry in VARIANTS.items()} == {
        "rflow-ct": ("maisi-v2", "open-model"),
        "rflow-mr": ("maisi-v2", "non-commercial"),
        "rflow-mr-brain": ("maisi-v2", "open-model"),
        "ddpm-ct": ("maisi-v1", "open-model"),
    }
    assert variant("rflow-ct").networks.roles == ROLES
    assert variant("rflow-mr").networks.roles == ("autoencoder", "denoiser")
    with pytest.raises(
        RequestError, match="unknown variant 'maisi'; known are rflow-ct, rflow-mr, rflow-mr-brain, ddpm-ct"
    ):
        variant("maisi")


def test_scale_factors_tell_mixed_up_files() -> None:
    assert other_variant("rflow-ct", 0.96240234375) == "rflow-mr"
    assert other_variant("rflow-mr-brain", 0.9704500436782837) is None
    assert other_variant("rflow-ct", 1.7) is None, "a fine-tune's own value says nothing"


def test_a_custom_set() -> None:
    networks = NetworkSet.from_dict(HEADNECK)
    assert networks.autoencoder.compression == 4
    assert networks.controlnet is not None
    assert networks.controlnet.denoiser == networks.denoiser
    assert networks.roles == ("autoencoder", "denoiser", "controlnet")
    assert "denoiser" not in networks.to_dict()["controlnet"], "said once is enough"
    assert NetworkSet.from_dict(networks.to_dict()) == networks
    assert sum(p.numel() for p in networks.module("controlnet").parameters()) > 0
    with pytest.raises(RequestError, match="no network 'mask_denoiser'; it has autoencoder, denoiser, controlnet"):
        networks.module("mask_denoiser")


def test_a_controlnet_of_its_own_shape_is_kept() -> None:
    source = {
        **HEADNECK,
        "controlnet": {**HEADNECK["controlnet"], "denoiser": {**HEADNECK["denoiser"], "spacing": False}},
    }
    networks = NetworkSet.from_dict(source)
    assert networks.controlnet is not None
    assert not networks.controlnet.denoiser.spacing
    assert NetworkSet.from_dict(networks.to_dict()) == networks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoiser": 3}, "denoiser: expected a mapping, found 3"),
        ({"decoder": {}}, "unknown network 'decoder', expected one of autoencoder, denoiser"),
        ({"denoiser": {"chanels": [1]}}, "denoiser: unknown key 'chanels', expected one of blocks, channels"),
        ({"denoiser": {"channels": 64}}, "denoiser.channels: expected a list of whole numbers, 0 or more, found 64"),
        ({"denoiser": {"blocks": True}}, "denoiser.blocks: expected a whole number, 0 or more, found True"),
        ({"denoiser": {"spacing": 1}}, "denoiser.spacing: expected true or false, found 1"),
        ({"autoencoder": {"eps": 0}}, "autoencoder.eps: expected a positive number, found 0"),
        ({"autoencoder": {"channels": [33, 64]}}, r"channels \(33, 64\) must all be multiples of groups = 16"),
        ({"autoencoder": {"blocks": [1]}}, r"autoencoder: blocks \(1,\) must have one positive entry per entry"),
        ({"autoencoder": {"patch": 0}}, "latent_channels and patch must be positive"),
        ({"autoencoder": {"latent_channels": 4}}, "denoiser.in_channels is 8, but the latent has 4 channels"),
        ({"denoiser": {"head_channels": [0]}}, r"head_channels \(0,\) must have one entry per entry of channels"),
        ({"denoiser": {"head_channels": [0, 48]}}, r"head_channels \(0, 48\) must divide channels"),
        ({"denoiser": {"head_channels": [32, 0]}}, "the last entry of head_channels must be positive"),
        ({"denoiser": {"blocks": 0}}, "in_channels, out_channels and blocks must be positive"),
        ({"controlnet": {"condition_channels": [8, 16]}}, "has 2 entries, so the label map shrinks by 2, but .* is 4"),
        ({"controlnet": {"label_bits": 0}}, "label_bits and condition_channels must be positive"),
        ({"controlnet": {"denoiser": {"blocks": 3}}}, "blocks and patch must be the denoiser's"),
    ],
)
def test_what_makes_no_network_is_named(changes: dict[str, Any], message: str) -> None:
    source = {role: dict(config) for role, config in HEADNECK.items()}
    for role, config in changes.items():
        source[role] = {**source.get(role, {}), **config} if isinstance(config, dict) else config
    with pytest.raises(RequestError, match=message):
        NetworkSet.from_dict(source)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(RequestError, match=r"chanels.*groups"):
        NetworkSet.from_dict({"denoiser": {"chanels": [1], "groups": "many"}})
    with pytest.raises(RequestError, match="expected a mapping of network names"):
        NetworkSet.from_dict([])  # type: ignore[arg-type]
