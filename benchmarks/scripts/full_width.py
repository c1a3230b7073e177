"""The official VAE's shape with random weights in every layer, as a plan and as torch modules."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from peer.networks import redraw

import ctfast
from ctfast import export, networks
from ctfast.networks import AutoencoderConfig, AutoencoderKL, DenoiserConfig
from ctfast.networks.network_set import NetworkSet

PLANS = {"bf16": "bf16.plan", "fp32": "fp32.plan"}
STATE = "autoencoder.pt"
#: A plan has a denoiser; this one is as small as can be.
_DENOISER = DenoiserConfig(channels=(32,), head_channels=(32,), blocks=1)
_SIZES = {
    "default": [32, 32, 32],
    "rule": {"legal": [], "xy": [], "z": [], "multiple": 4},
    "spacing": {"default": [1.0, 1.0, 1.0], "low": [0.5, 0.5, 0.5], "high": [5.0, 5.0, 5.0]},
}


def prepare(cache: Path, seed: int) -> Path:
    """A folder with the state dict and a plan per precision.

    It is kept under ``cache`` and made again when the code that makes plans has changed.
    """
    digest = hashlib.sha256(f"{seed} {torch.__version__}".encode())
    for package in (export, networks):
        for folder in package.__path__:
            for source in sorted(Path(folder).glob("*.py")):
                digest.update(source.read_bytes())
    digest.update(Path(__file__).read_bytes())
    home = cache / f"full_width_{digest.hexdigest()[:12]}"
    home.mkdir(parents=True, exist_ok=True)
    shapes = NetworkSet(AutoencoderConfig(), _DENOISER)
    files = {"autoencoder": home / STATE, "denoiser": home / "denoiser.pt"}
    if not all(path.exists() for path in files.values()):
        torch.save(calibrated(AutoencoderKL(shapes.autoencoder), seed).state_dict(), files["autoencoder"])
        state = redraw(shapes.module("denoiser"), seed + 1).state_dict()
        torch.save({"state_dict": state, "scale_factor": torch.tensor(1.0)}, files["denoiser"])
    described: dict[str, Any] = {"base": "rflow-ct", "variant": "full-width", "name": "full-width", "sizes": _SIZES}
    described |= {"networks": shapes.to_dict()}
    for precision, name in PLANS.items():
        if not (home / name).exists():
            ctfast.build(described, weights=files, output=home / name, precision=precision)
    return home


def autoencoder(home: Path) -> AutoencoderKL:
    """The VAE whose weights the plans have."""
    vae = AutoencoderKL(AutoencoderConfig())
    vae.load_state_dict(torch.load(home / STATE, weights_only=True), strict=True)
    return vae.eval()


@torch.no_grad()
def calibrated(vae: AutoencoderKL, seed: int) -> AutoencoderKL:
    """Draw every parameter; then scale the last layer so that images of noise fill the range of a trained decoder's.

    That range is 0 to 1 (-1000 to 1000 HU); they get the mean 0.5 and the standard deviation 0.2, so that PSNR on the
    window says something about (almost) every voxel.
    """
    redraw(vae, seed)
    vae.eval()
    noise = torch.randn((1, vae.config.latent_channels, 8, 8, 8), generator=torch.Generator().manual_seed(seed))
    image = vae.decode(noise)
    last: Any = vae.decoder.blocks[-1]
    factor = 0.2 / image.std()
    last.conv.conv.weight *= factor
    last.conv.conv.bias.copy_(last.conv.conv.bias * factor + 0.5 - image.mean() * factor)
    return vae


def noise(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """A latent (channels, x, y, z) of standard normal noise."""
    return torch.randn((AutoencoderConfig().latent_channels, *shape), generator=torch.Generator().manual_seed(seed))
