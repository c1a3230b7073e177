"""MONAI's networks in the shapes of the official rflow-ct model, with random weights, and files with those weights.

MONAI initialises the last convolutions of blocks and networks with zeros; networks of zeros would agree with anything.
So every parameter is drawn anew: matrices and kernels with unit gain, norms around 1, biases around 0.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.blocks import SABlock
from torch import nn

#: Name of each network's file in an official ``models`` folder.
FILES = {
    "autoencoder": "autoencoder_v1.pt",
    "denoiser": "diff_unet_3d_rflow-ct.pt",
    "controlnet": "controlnet_3d_rflow-ct.pt",
}

_TRUNK: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 4,
    "num_channels": [64, 128, 256, 512],
    "attention_levels": [False, False, True, True],
    "num_head_channels": [0, 0, 32, 32],
    "num_res_blocks": 2,
    # The constructor refuses this flag without CUDA; use_fused_attention sets it afterwards.
    "use_flash_attention": False,
    "num_class_embeds": 128,
    "resblock_updown": True,
    "include_fc": True,
}


def autoencoder() -> nn.Module:
    """The VAE as MONAI runs it fastest on a CPU: fp32 norms (half ones need CUDA) and no splits."""
    return AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        num_channels=[64, 128, 256],
        num_res_blocks=[2, 2, 2],
        norm_num_groups=32,
        norm_eps=1e-6,
        attention_levels=[False, False, False],
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        use_checkpointing=False,
        use_convtranspose=False,
        norm_float16=False,
        num_splits=1,
        dim_split=1,
        save_mem=False,
    )


def denoiser() -> nn.Module:
    """The rectified-flow UNet."""
    return DiffusionModelUNetMaisi(
        **_TRUNK,
        out_channels=4,
        include_top_region_index_input=False,
        include_bottom_region_index_input=False,
        include_spacing_input=True,
    )


def controlnet() -> nn.Module:
    """The ControlNet beside it."""
    return ControlNetMaisi(
        **_TRUNK,
        conditioning_embedding_in_channels=8,
        conditioning_embedding_num_channels=[8, 32, 64],
        use_checkpointing=False,
    )


MAKERS = {"autoencoder": autoencoder, "denoiser": denoiser, "controlnet": controlnet}


def redraw(module: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter of a network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "class_embedding.weight":
                parameter.copy_(noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.1 * noise + float(name.endswith("weight")))
    return module


def write_files(folder: Path, seed: int) -> None:
    """Fill a ``models`` folder in the official layout with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (role, make) in enumerate(MAKERS.items()):
        state = redraw(make(), seed + index).state_dict()
        contents: dict[str, Any] = state
        if role == "denoiser":
            contents = {"unet_state_dict": state, "scale_factor": torch.tensor(1.0)}
        elif role == "controlnet":
            contents = {"controlnet_state_dict": state}
        torch.save(contents, folder / FILES[role])


def read(folder: Path, role: str) -> nn.Module:
    """A network with the weights of its file, ready to run."""
    module = MAKERS[role]()
    contents = torch.load(folder / FILES[role], weights_only=True)
    wrapper = {"denoiser": "unet_state_dict", "controlnet": "controlnet_state_dict"}.get(role)
    module.load_state_dict(contents if wrapper is None else contents[wrapper], strict=True)
    return use_fused_attention(module).eval()


def use_fused_attention(module: nn.Module) -> nn.Module:
    """Let attention run through torch's scaled_dot_product_attention: MONAI's fastest way."""
    for block in module.modules():
        if isinstance(block, SABlock):
            block.use_flash_attention = True
    return module
