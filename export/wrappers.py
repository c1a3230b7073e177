"""What goes into a plan: torch networks as graphs of flat, named tensors.

A network of a model (a role: "denoiser", "autoencoder", ...) becomes one or two graphs, each a network of the plan.
Tensor names are those that the runtime feeds and reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ctfast.export.constants import Constants
from ctfast.export.program import StagedNetwork
from ctfast.export.vae_program import decoder_program, encoder_program
from ctfast.networks import AutoencoderKL, ControlNet, DenoiserConfig, DenoiserUNet
from ctfast.networks.mask_unet import MaskUNet

#: The graphs that each role becomes, by the names they have in the plan.
GRAPHS: Mapping[str, tuple[str, ...]] = {
    "denoiser": ("denoiser",),
    "controlnet": ("controlnet", "controlnet_condition"),
    "autoencoder": ("vae_decoder", "vae_encoder"),
    "mask_autoencoder": ("mask_decoder",),
    "mask_denoiser": ("mask_denoiser",),
}

#: An axis of an input: its extent, or the name of a free extent and the factor it is a multiple of.
Axis = int | tuple[str, int]


@dataclass(frozen=True)
class Port:
    """An input of a graph. Every tensor has the free axis ("batch", 1) in front; values are drawn from [low, high)."""

    name: str
    shape: tuple[Axis, ...]
    dtype: torch.dtype = torch.float32
    low: float | None = None
    high: float = 1.0

    def example(self, extents: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """Random values: normal, or uniform where the port has limits. ``extents`` gives the free axes in units."""
        shape = [axis if isinstance(axis, int) else extents[axis[0]] * axis[1] for axis in self.shape]
        if self.low is None:
            return torch.randn(shape, generator=generator)
        uniform = self.low + (self.high - self.low) * torch.rand(shape, generator=generator)
        return uniform.floor().to(self.dtype) if self.dtype == torch.int64 else uniform


@dataclass(frozen=True)
class Graph:
    """One network of the plan: a module whose ``forward`` takes the inputs in order, and which weights it holds.

    ``program`` makes the same network in stages, of the weights' constants; not every network has one.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    state: Mapping[str, Tensor]
    drop_if_unused: tuple[str, ...] = ()
    program: Callable[[Constants], StagedNetwork] | None = None

    def example(self, size: Sequence[int] = (2, 3, 4), batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs; ``size`` counts the free spatial axes in multiples of their factors."""
        generator = torch.Generator().manual_seed(seed)
        extents = {"batch": batch, **dict(zip("dhw", size, strict=True))}
        return tuple(port.example(extents, generator) for port in self.inputs)


class _Denoiser(nn.Module):
    def __init__(self, network: DenoiserUNet, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        given = dict(zip(self.names, tensors, strict=True))
        down = [tensor for name, tensor in given.items() if name.startswith("down_residual_")]
        out: Tensor = self.network(
            given["latent"],
            given["timestep"],
            given.get("class_label"),
            given.get("spacing"),
            given.get("top_region"),
            given.get("bottom_region"),
            down or None,
            given.get("middle_residual"),
        )
        return out


class _ControlNet(nn.Module):
    def __init__(self, network: ControlNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        latent, timestep, condition_embedding, *class_label = tensors
        down, middle = self.network(latent, timestep, condition_embedding, *class_label)
        return (*down, middle)


class _Condition(nn.Module):
    def __init__(self, network: ControlNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, condition: Tensor) -> Tensor:
        return self.network.embed_condition(condition)


class _Decoder(nn.Module):
    def __init__(self, network: AutoencoderKL) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor) -> Tensor:
        return self.network.decode(latent)


class _Encoder(nn.Module):
    def __init__(self, network: AutoencoderKL) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(image)


def graphs(role: str, module: nn.Module, *, controlnet: bool = False, scale_factor: float = 1.0) -> tuple[Graph, ...]:
    """The graphs of a network, in the order of GRAPHS.

    Args:
        role: One of GRAPHS.
        module: The network, on the CPU; it is switched to evaluation mode.
        controlnet: Whether the plan has a ControlNet: only then does the denoiser get inputs for its residuals.
        scale_factor: What mask latents were multiplied by in training. The first weights of ``mask_decoder`` are
            divided by it, in a copy, so that it takes latents as they are sampled. (The image latents' factor is
            applied by the runtime.)
    """
    module.eval()
    if role == "denoiser":
        return (_denoiser(cast(DenoiserUNet, module), controlnet),)
    if role == "controlnet":
        return _controlnet(cast(ControlNet, module))
    if role == "autoencoder":
        network = cast(AutoencoderKL, module)
        program = None if network.config.transposed else partial(decoder_program, network.config)
        return replace(_decoder("vae_decoder", "image", network), program=program), _encoder(network)
    if role == "mask_autoencoder":
        network = copy.deepcopy(cast(AutoencoderKL, module))
        with torch.no_grad():
            network.post_quant_conv.conv.weight.div_(scale_factor)
        return (_decoder("mask_decoder", "logits", network),)
    return (_mask_denoiser(cast(MaskUNet, module)),)


def residual_names(config: DenoiserConfig) -> tuple[str, ...]:
    """Names of a ControlNet's outputs, which are inputs of the denoiser: one per skip connection, and the middle's."""
    return (*(f"down_residual_{index:02d}" for index in range(len(_skips(config)))), "middle_residual")


def _skips(config: DenoiserConfig) -> list[tuple[int, int]]:
    """Width and level of the grid of every skip connection."""
    skips = [(config.channels[0], 0)]
    for level, width in enumerate(config.channels):
        skips += [(width, level)] * config.blocks
        if level < len(config.channels) - 1:
            skips.append((width, level + 1))
    return skips


def _grid(channels: int, factor: int) -> tuple[Axis, ...]:
    return (("batch", 1), channels, ("d", factor), ("h", factor), ("w", factor))


def _vector(name: str, width: int, low: float, high: float) -> Port:
    return Port(name, (("batch", 1), width), low=low, high=high)


def _timestep() -> Port:
    return Port("timestep", (("batch", 1),), low=0.0, high=1000.0)


def _class_label(config: DenoiserConfig) -> tuple[Port, ...]:
    if not config.class_embeddings:
        return ()
    return (Port("class_label", (("batch", 1),), torch.int64, low=0, high=config.class_embeddings),)


def _denoiser(network: DenoiserUNet, controlnet: bool) -> Graph:
    config = network.config
    coarsest = 2 ** (len(config.channels) - 1)
    ports = [Port("latent", _grid(config.in_channels, config.multiple)), _timestep(), *_class_label(config)]
    if config.region:
        ports += [_vector(name, 4, 0.0, 100.0) for name in ("top_region", "bottom_region")]
    if config.spacing:
        ports.append(_vector("spacing", 3, 50.0, 500.0))
    residuals = residual_names(config) if controlnet else ()
    if controlnet:
        shapes = [*_skips(config), (config.channels[-1], len(config.channels) - 1)]
        ports += [
            Port(name, _grid(width, coarsest >> level)) for name, (width, level) in zip(residuals, shapes, strict=True)
        ]
    wrapper = _Denoiser(network, [port.name for port in ports])
    return Graph("denoiser", wrapper, tuple(ports), ("prediction",), network.state_dict(), residuals)


def _controlnet(network: ControlNet) -> tuple[Graph, Graph]:
    config = network.config
    coarsest = 2 ** (len(config.channels) - 1)
    ports = (
        Port("latent", _grid(config.in_channels, config.multiple)),
        _timestep(),
        Port("condition_embedding", _grid(config.channels[0], coarsest)),
        *_class_label(config),
    )
    embedding, rest = _split(network.state_dict(), "controlnet_cond_embedding.")
    layers = network.controlnet_cond_embedding.modules()
    halvings = sum(isinstance(layer, nn.Conv3d) and layer.stride[0] == 2 for layer in layers)
    bits = Port("condition", _grid(network.label_bits, 2**halvings), low=0.0, high=1.0)
    return (
        Graph("controlnet", _ControlNet(network), ports, residual_names(config), rest),
        Graph("controlnet_condition", _Condition(network), (bits,), ("condition_embedding",), embedding),
    )


def _decoder(name: str, output: str, network: AutoencoderKL) -> Graph:
    state, _ = _split(network.state_dict(), "decoder.", "post_quant_conv.")
    port = Port("latent", _grid(network.config.latent_channels, 1))
    return Graph(name, _Decoder(network), (port,), (output,), state)


def _encoder(network: AutoencoderKL) -> Graph:
    state, _ = _split(network.state_dict(), "encoder.", "quant_conv_")
    port = Port("image", _grid(network.config.in_channels, network.config.compression), low=0.0)
    program = partial(encoder_program, network.config)
    return Graph("vae_encoder", _Encoder(network), (port,), ("mean", "log_variance"), state, program=program)


def _mask_denoiser(network: MaskUNet) -> Graph:
    config = network.config
    latent = Port("latent", _grid(config.in_channels, 2 ** (len(config.channels) - 1)))
    context = Port("context", (("batch", 1), 1, config.context_width), low=-1.0)
    return Graph("mask_denoiser", network, (latent, _timestep(), context), ("prediction",), network.state_dict())


def _split(state: Mapping[str, Tensor], *prefixes: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors whose names start with one of ``prefixes``, and the others."""
    chosen = {key: value for key, value in state.items() if key.startswith(prefixes)}
    return chosen, {key: value for key, value in state.items() if key not in chosen}
