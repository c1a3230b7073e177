"""Checkpoints of the smallest networks that still have every kind of layer, and the description that fits them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctfast.networks import AutoencoderConfig, ControlNetConfig, DenoiserConfig
from ctfast.networks.mask_unet import MaskUNetConfig
from ctfast.networks.network_set import NetworkSet

from .official_files import redraw

SCALE_FACTOR = 1.125
MASK_SCALE_FACTOR = 0.875

FLOW = DenoiserConfig(channels=(8, 16), head_channels=(0, 8), blocks=1, groups=4, class_embeddings=6)
DDPM = replace(FLOW, class_embeddings=0, region=True, full_resample=False, project_attention=False)
VAE = AutoencoderConfig(channels=(8, 16), blocks=(1, 1), groups=4, patch=2)
NETWORKS = NetworkSet(
    autoencoder=VAE,
    denoiser=FLOW,
    controlnet=ControlNetConfig(FLOW, condition_channels=(4, 4, 8)),
    mask_autoencoder=replace(VAE, in_channels=8, out_channels=11, transposed=True, patch=1),
    mask_denoiser=MaskUNetConfig(channels=(8, 16), head_channels=(0, 8), blocks=1, groups=4),
)
SIZE = (32, 32, 16)
SIZES: dict[str, Any] = {
    "default": list(SIZE),
    "rule": {"xy": [32, 64], "z": [16, 32], "multiple": 8},
    "spacing": {"default": [2.0, 2.0, 3.0], "low": [1.0, 1.0, 1.0], "high": [5.0, 5.0, 5.0]},
}
LABELS: dict[str, Any] = {"names": {"1": "Liver", "26": "Hepatic tumour", "200": "Body"}, "bits": 8, "body": 200}


def description(networks: NetworkSet = NETWORKS, **more: Any) -> dict[str, Any]:
    """What ``ctfast build`` needs to know of these networks; ``more`` are further keys of the manifest."""
    base = {"base": "rflow-ct", "variant": "tiny", "name": "tiny", "networks": networks.to_dict()}
    return {**base, "sizes": SIZES, "labels": LABELS, **more}


def modules(networks: NetworkSet = NETWORKS, seed: int = 0) -> dict[str, nn.Module]:
    """Networks by role, every parameter drawn from ``seed``."""
    return {role: redraw(networks.module(role), seed + index).eval() for index, role in enumerate(networks.roles)}


def write_checkpoints(folder: Path, networks: NetworkSet = NETWORKS, seed: int = 0) -> dict[str, Path]:
    """One file by role, with a scale factor where there is one."""
    factors = {"denoiser": SCALE_FACTOR, "mask_denoiser": MASK_SCALE_FACTOR}
    files = {}
    for role, module in modules(networks, seed).items():
        state: dict[str, Any] = {"state_dict": module.state_dict()}
        if role in factors:
            state["scale_factor"] = torch.tensor(factors[role])
        files[role] = folder / f"{role}.pt"
        torch.save(state, files[role])
    return files
