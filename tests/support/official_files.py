"""Files as the publishers of the MAISI models write them, made from MONAI's classes with random weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctfast.networks import AutoencoderConfig, ControlNetConfig, DenoiserConfig
from ctfast.networks.mask_unet import MaskUNetConfig
from ctfast.networks.variants import NetworkSet, variant

SCALE_FACTOR = 0.97265625  # exact in half precision, so that every layout must give it back to the bit

NAMES = {
    "rflow-ct": ("autoencoder_v1.pt", "diff_unet_3d_rflow-ct.pt", "controlnet_3d_rflow-ct.pt"),
    "ddpm-ct": ("autoencoder_v1.pt", "diff_unet_3d_ddpm-ct.pt", "controlnet_3d_ddpm-ct.pt"),
    "rflow-mr": ("autoencoder_v2.pt", "diff_unet_3d_rflow-mr.pt", ""),
    "rflow-mr-brain": ("autoencoder_v1.pt", "diff_unet_3d_rflow-mr-brain_v1.pt", ""),
}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on small tensors and busy cores, several mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def small(name: str) -> NetworkSet:
    """The networks of a variant at widths that suit a test: every kind of layer is still there."""
    full = variant(name).networks
    denoiser = replace(full.denoiser, channels=(16, 32, 48), head_channels=(0, 16, 16), groups=8)
    vae = {"groups": 8, "channels": (8, 16, 24)}
    return NetworkSet(
        replace(full.autoencoder, **vae),
        denoiser,
        full.controlnet and ControlNetConfig(denoiser, condition_channels=(4, 8, 8)),
        full.mask_autoencoder and replace(full.mask_autoencoder, **vae, out_channels=11),
        full.mask_denoiser and MaskUNetConfig(channels=(16, 32, 48), head_channels=(0, 16, 16), groups=8),
    )


def reference(config: Any, seed: int = 0) -> nn.Module:
    """MONAI's network of that shape, in evaluation mode, with every parameter drawn from ``seed``."""
    with torch.device("meta"):  # its own initial values would take seconds to draw
        if isinstance(config, AutoencoderConfig):
            module = _autoencoder(config)
        elif isinstance(config, ControlNetConfig):
            module = _controlnet(config)
        elif isinstance(config, DenoiserConfig):
            module = _denoiser(config)
        else:
            module = _mask_denoiser(config)
    assert not list(module.buffers()), "redraw() draws parameters only"
    return redraw(module.to_empty(device="cpu"), seed).eval()


def redraw(module: nn.Module, seed: int) -> nn.Module:
    """Draw all parameters anew: MONAI starts output layers at zero, and any two networks of zeros agree.

    Matrices and kernels have unit gain, norms' weights lie around 1, and biases around 0 but none at it.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "class_embedding.weight":
                parameter.copy_(noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.1 * noise + name.endswith("weight"))
    return module


def with_unused_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` as MONAI before 1.5 trained it: each attention has a projection that nobody applies."""
    out = {}
    for key, value in state.items():
        out[key] = value
        if key.endswith(".attn.to_v.bias"):
            stem = key[: -len("to_v.bias")]
            out[f"{stem}out_proj.weight"] = torch.full((len(value), len(value)), 3.0)
            out[f"{stem}out_proj.bias"] = torch.full((len(value),), 3.0)
    return out


def with_generative_models_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names of the time before the networks moved into MONAI."""
    replacements = [(".conv.conv.", ".conv."), (".attn.", "."), (".postconv.", ".conv.")]
    out = {}
    for key, value in state.items():
        if ".transformer_blocks." in key:
            out[key.replace(".out_proj.", ".to_out.0.")] = value
            continue
        for new, old in replacements:
            key = key.replace(new, old)
        out[key.replace(".out_proj.", ".proj_attn.")] = value
    return out


def adam_state(module: nn.Module) -> dict[str, Any]:
    """Optimiser and learning-rate schedule after one step, as training scripts put beside the weights."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=10, power=2.0)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    optimizer.step()
    schedule.step()
    module.load_state_dict(before)
    return {"optimizer_state_dict": optimizer.state_dict(), "scheduler_state_dict": schedule.state_dict()}


def meta_tensor(value: float) -> Tensor:
    """A scale factor as released once: a MetaTensor that still carries an image's metadata."""
    import numpy as np
    from monai.data import MetaTensor

    out: Tensor = MetaTensor(torch.tensor(value), affine=torch.eye(4), meta={"spacing": np.ones(3)})
    return out


def denoiser_checkpoint(module: nn.Module, *, legacy: bool = False, training: bool = True, scale: Any = None) -> Any:
    """A denoiser's file: weights, scale factor and training state (``legacy``: with unused projections)."""
    state = module.state_dict()
    return {
        "epoch": 28851,
        "loss": 1.198,
        "num_train_timesteps": 1000,
        "scale_factor": torch.tensor(SCALE_FACTOR, dtype=torch.float16) if scale is None else scale,
        "unet_state_dict": with_unused_projections(state) if legacy else state,
        **({"epoch_finished": True, **adam_state(module)} if training else {}),
    }


def controlnet_checkpoint(module: nn.Module, *, legacy: bool = False) -> Any:
    """A ControlNet's file."""
    state = module.state_dict()
    return {"epoch": 60, "loss": 0.5, "controlnet_state_dict": with_unused_projections(state) if legacy else state}


def write_models_folder(folder: Path, name: str, networks: NetworkSet | None = None) -> dict[str, nn.Module]:
    """Write all files of a variant under their present names, in their official layouts.

    ``networks`` are the shapes (default: ``small(name)``). Returns MONAI's networks by role.
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = networks or small(name)
    modules = {role: reference(getattr(networks, role), seed) for seed, role in enumerate(networks.roles)}
    legacy = name == "ddpm-ct"
    vae, denoiser, controlnet = NAMES[name]
    torch.save(modules["autoencoder"].state_dict(), folder / vae)
    torch.save(denoiser_checkpoint(modules["denoiser"], legacy=legacy, training=not legacy), folder / denoiser)
    if "controlnet" in modules:
        torch.save(controlnet_checkpoint(modules["controlnet"], legacy=legacy), folder / controlnet)
        torch.save(modules["mask_autoencoder"].state_dict(), folder / "mask_generation_autoencoder.pt")
        mask = {"unet_state_dict": modules["mask_denoiser"].state_dict(), "scale_factor": torch.tensor(SCALE_FACTOR)}
        torch.save(mask, folder / "mask_generation_diffusion_unet.pt")
    return modules


def _autoencoder(config: AutoencoderConfig) -> nn.Module:
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    module: nn.Module = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        latent_channels=config.latent_channels,
        num_channels=list(config.channels),
        num_res_blocks=list(config.blocks),
        norm_num_groups=config.groups,
        norm_eps=config.eps,
        attention_levels=[False] * len(config.channels),
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        use_checkpointing=False,
        use_convtranspose=config.transposed,
        norm_float16=False,  # the official True hands half precision to fp32 convolutions: it runs under autocast only
        num_splits=1,
        dim_split=1,
        save_mem=False,
    )
    return module


def _trunk(config: DenoiserConfig | MaskUNetConfig) -> dict[str, Any]:
    return {
        "spatial_dims": 3,
        "in_channels": config.in_channels,
        "attention_levels": [head > 0 for head in config.head_channels],
        "num_head_channels": list(config.head_channels),
        "num_res_blocks": config.blocks,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps,
        "use_flash_attention": False,  # refused without CUDA; the weights are the same
    }


def _flow(config: DenoiserConfig) -> dict[str, Any]:
    return {
        "num_channels": list(config.channels),
        "num_class_embeds": config.class_embeddings or None,
        "resblock_updown": config.full_resample,
        "include_fc": config.project_attention,
    }


def _denoiser(config: DenoiserConfig) -> nn.Module:
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

    module: nn.Module = DiffusionModelUNetMaisi(
        **_trunk(config),
        **_flow(config),
        out_channels=config.out_channels,
        include_top_region_index_input=config.region,
        include_bottom_region_index_input=config.region,
        include_spacing_input=config.spacing,
    )
    return module


def _controlnet(config: ControlNetConfig) -> nn.Module:
    from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi

    module: nn.Module = ControlNetMaisi(
        **_trunk(config.denoiser),
        **_flow(config.denoiser),
        conditioning_embedding_in_channels=config.label_bits,
        conditioning_embedding_num_channels=list(config.condition_channels),
        use_checkpointing=False,
    )
    return module


def _mask_denoiser(config: MaskUNetConfig) -> nn.Module:
    from monai.networks.nets import DiffusionModelUNet

    module: nn.Module = DiffusionModelUNet(
        **_trunk(config),
        out_channels=config.out_channels,
        channels=list(config.channels),
        with_conditioning=True,
        cross_attention_dim=config.context_width,
        upcast_attention=True,
    )
    return module
