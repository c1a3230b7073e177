"""The embedded plan's VAE as torch modules in fp32, and latents of real scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import ROOT

from ctfast.networks import AutoencoderConfig, AutoencoderKL
from ctfast.networks.network_set import NetworkSet

HU_SCALE, HU_OFFSET = 2000.0, -1000.0


@dataclass(frozen=True)
class Case:
    """A scan's name (folder/file) and latent (channels, x, y, z)."""

    name: str
    latent: torch.Tensor


def embedded_vae(path: Path | None = None) -> AutoencoderKL:
    """The embedded plan's encoder and decoder with its weights, in float32; or those of another build of it."""
    from ctfast.locate import plan_path
    from ctfast.plan import Plan
    from ctfast.plan_weights import state_dict

    plan = Plan.open(plan_path(path))
    vae = AutoencoderKL(_config())
    state = {**state_dict(plan, "vae_encoder"), **state_dict(plan, "vae_decoder")}
    vae.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    return vae.eval()


@torch.no_grad()
def encoded(vae: AutoencoderKL, path: Path, multiple: int = 8) -> Case:
    """The posterior mean of a scan's largest centred part of extents in ``multiple``, at the scan's own spacing."""
    image = scan(path)
    starts = [(extent % multiple) // 2 for extent in image.shape]
    ends = [start + extent // multiple * multiple for start, extent in zip(starts, image.shape, strict=True)]
    x, y, z = (slice(start, end) for start, end in zip(starts, ends, strict=True))
    part = np.ascontiguousarray(image[x, y, z])
    normalised = (np.clip(part, HU_OFFSET, HU_OFFSET + HU_SCALE) - HU_OFFSET) / HU_SCALE
    mean, _ = vae.encode(torch.from_numpy(normalised)[None, None])
    name = f"{path.parent.name}/{path.name.removesuffix('.nii.gz')}"
    return Case(name, mean[0])


def scan(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Hounsfield units (x, y, z), RAS+."""
    import nibabel

    nifti: Any = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asarray(nifti.dataobj, dtype=np.float32)


def hounsfield(image: torch.Tensor) -> torch.Tensor:
    """The decoder's image in HU on the window that volumes are clipped to, not rounded."""
    return image.clamp(0, 1) * HU_SCALE + HU_OFFSET


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal to noise ratio in dB of two images in HU, the peak being the window's width."""
    error = float((image.double() - reference.double()).square().mean())
    return float(10 * np.log10(HU_SCALE**2 / max(error, 1e-12)))


def chosen(paths: Sequence[Path], limit: int) -> list[Path]:
    """The CT files among ``paths``; of a folder the first ``limit`` by name."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.glob("*ct.nii.gz"))
            found += files[:limit]
        else:
            found.append(path)
    if not found:
        raise SystemExit("expected CT files (.nii.gz) or folders of *ct.nii.gz, found none")
    return found


def _config() -> AutoencoderConfig:
    """The VAE's shape, from the description that the embedded plan is built with."""
    import yaml

    recipe: Any = yaml.safe_load((ROOT / "ctfast/train/configs/headneck_plan.yaml").read_text("utf-8"))
    return NetworkSet.from_dict(recipe["networks"]).autoencoder
