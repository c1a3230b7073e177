"""Weights that a run builds on: checkpoints of training, official files, or plans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ctfast.checkpoints import Checkpoint, load_into, read_checkpoint
from ctfast.networks import AutoencoderKL, ControlNet, DenoiserUNet
from ctfast.plan import Plan
from ctfast.plan_layout import MAGIC
from ctfast.plan_weights import state_dict

#: Path of a checkpoint (of training, or an official one) or of a plan; or a state dict.
Source = str | os.PathLike[str] | Mapping[str, torch.Tensor]

# A plan's networks that make one of ours, and what messages call it.
_PARTS = {
    AutoencoderKL: (("vae_encoder", "vae_decoder"), "the configuration's VAE"),
    DenoiserUNet: (("denoiser",), "the configuration's denoiser"),
    ControlNet: (("controlnet", "controlnet_condition"), "the configuration's ControlNet"),
}


def load_weights(network: nn.Module, source: Source) -> Checkpoint:
    """Copy weights into a network: those of a checkpoint, a plan, or a state dict.

    A plan's latents are scaled by its ``scale_factor``; a VAE read from one takes the factor into itself, so that what
    it encodes is what the plan's denoiser knows.

    Returns:
        What was read; of a plan, the state dict and the scale factor.

    Raises:
        CheckpointError: The file is missing or damaged, or its tensors do not fit the network.
        PlanError: The plan is damaged, or has no such network.
    """
    parts, what = _PARTS[type(network)]
    if isinstance(source, Mapping):
        checkpoint = Checkpoint(Path("the state dict"), source, None, {})
        load_into(network, checkpoint, what=what)
        return checkpoint
    path = Path(source)
    if not _is_plan(path):
        checkpoint = read_checkpoint(path)
        load_into(network, checkpoint, what=what)
        return checkpoint
    plan = Plan.open(path)
    tensors = {key: torch.from_numpy(value) for part in parts for key, value in state_dict(plan, part).items()}
    checkpoint = Checkpoint(path, tensors, plan.manifest.latent.scale_factor, {})
    load_into(network, checkpoint, what=what)
    if isinstance(network, AutoencoderKL):
        channels = network.config.latent_channels
        rescale(network, torch.zeros(channels), torch.full((channels,), 1.0 / plan.manifest.latent.scale_factor))
    return checkpoint


@torch.no_grad()
def rescale(vae: AutoencoderKL, centre: torch.Tensor, deviation: torch.Tensor) -> None:
    """Make a VAE encode (latent - centre) / deviation per channel, in place, and decode what that stands for.

    The posterior's 1 x 1 x 1 convolutions absorb it on the way in and the decoder's first one on the way out, so
    reconstructions stay what they were.
    """
    mu, sigma, post = vae.quant_conv_mu.conv, vae.quant_conv_log_sigma.conv, vae.post_quant_conv.conv
    assert mu.bias is not None
    assert sigma.bias is not None
    assert post.bias is not None
    centre, deviation = centre.to(mu.weight.device), deviation.to(mu.weight.device)
    mu.weight.div_(deviation[:, None, None, None, None])
    mu.bias.copy_((mu.bias - centre) / deviation)
    sigma.bias.sub_(2.0 * torch.log(deviation))
    post.bias.add_(post.weight[:, :, 0, 0, 0] @ centre)
    post.weight.mul_(deviation[None, :, None, None, None])


def _is_plan(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
