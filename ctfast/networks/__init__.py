"""Torch modules of the model families, with parameter names and shapes as the official checkpoints have them.

Imported by export and training only: inference never loads torch.
"""

from __future__ import annotations

from ctfast.networks.autoencoder import AutoencoderConfig, AutoencoderKL
from ctfast.networks.controlnet import ControlNet, ControlNetConfig
from ctfast.networks.unet import DenoiserConfig, DenoiserUNet

__all__ = [
    "AutoencoderConfig",
    "AutoencoderKL",
    "ControlNet",
    "ControlNetConfig",
    "DenoiserConfig",
    "DenoiserUNet",
]
