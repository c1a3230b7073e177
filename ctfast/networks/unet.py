"""The denoiser of the MAISI family: a 3D U-Net over latents, conditioned on time, class, region and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctfast.networks.blocks import Conv, Level, Middle, embedding_mlp, resampler, timestep_embedding
from ctfast.networks.patches import fold, unfold


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of a denoiser or of the ControlNet beside it.

    ``head_channels`` is per level, 0 where the level has no attention. ``full_resample`` makes the resamplers residual
    blocks and ``project_attention`` adds an output projection to attention (both true in the rflow variants, false in
    the ddpm ones). ``class_embeddings`` is the number of modality codes (0: no class input). ``patch`` folds blocks of
    patch^3 latent voxels into channels before the first convolution and back behind the last (1 in the official
    models), as diffusion transformers do: a small network then spends its time on structure.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (64, 128, 256, 512)
    head_channels: tuple[int, ...] = (0, 0, 32, 32)
    blocks: int = 2
    groups: int = 32
    eps: float = 1e-6
    class_embeddings: int = 128
    region: bool = False
    spacing: bool = True
    full_resample: bool = True
    project_attention: bool = True
    patch: int = 1

    @property
    def multiple(self) -> int:
        """Each extent of a latent must be a multiple of this."""
        return self.patch << (len(self.channels) - 1)

    @property
    def time_width(self) -> int:
        """Width of one embedding."""
        return 4 * int(self.channels[0])

    @property
    def embedding_width(self) -> int:
        """Width of what each residual block sees: time (+ class), then regions and spacing beside it."""
        return self.time_width * (1 + 2 * self.region + self.spacing)


class Trunk(nn.Module):
    """What the denoiser and the ControlNet share: embeddings, first convolution, way down and middle."""

    def __init__(self, config: DenoiserConfig, embedding: int, middle: bool = True) -> None:
        super().__init__()
        self.config = config
        c, width = config.channels, config.time_width
        norm = (config.groups, config.eps)
        self.conv_in = Conv(config.in_channels * config.patch**3, c[0])
        self.time_embed = embedding_mlp(c[0], width)
        if config.class_embeddings:
            self.class_embedding = nn.Embedding(config.class_embeddings, width)
        self.down_blocks = nn.ModuleList()
        for level, heads in enumerate(config.head_channels):
            first = c[max(level - 1, 0)]
            pairs = [(first if i == 0 else c[level], c[level]) for i in range(config.blocks)]
            block = Level(pairs, embedding, *norm, heads, config.project_attention)
            if level < len(c) - 1:
                block.downsampler = resampler(c[level], embedding, *norm, "halve", config.full_resample)
            self.down_blocks.append(block)
        self.middle_block = (
            Middle(c[-1], embedding, *norm, config.head_channels[-1], config.project_attention) if middle else None
        )

    def enter(self, x: Tensor) -> Tensor:
        """The first convolution."""
        out: Tensor = self.conv_in(fold(x, self.config.patch))
        return out

    def embed_time(self, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        """Embedding of time and class, shape (batch, time_width)."""
        sinusoid = timestep_embedding(timesteps, self.config.channels[0])
        embedding: Tensor = self.time_embed(sinusoid.to(self.conv_in.conv.weight.dtype))
        if self.config.class_embeddings:
            if class_labels is None:
                raise ValueError("this network was built with class embeddings: class_labels is needed")
            embedding = embedding + self.class_embedding(class_labels)
        return embedding

    def descend(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        """Every tensor that a skip connection starts from, from the first convolution's output downwards."""
        skips = [h]
        for level in self.down_blocks:
            assert isinstance(level, Level)
            for index in range(len(level.resnets)):
                h = level.block(index, h, embedding)
                skips.append(h)
            if level.downsampler is not None:
                h = level.downsampler(h, embedding)
                skips.append(h)
        return skips


class DenoiserUNet(Trunk):
    """Velocity (rectified flow) or noise (DDPM) from a noisy latent; keys as MONAI's DiffusionModelUNetMaisi."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config, config.embedding_width)
        c, width, e = config.channels, config.time_width, config.embedding_width
        norm = (config.groups, config.eps)
        if config.region:
            self.top_region_index_layer = embedding_mlp(4, width)
            self.bottom_region_index_layer = embedding_mlp(4, width)
        if config.spacing:
            self.spacing_layer = embedding_mlp(3, width)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(c))):
            above = c[max(level - 1, 0)]
            below = c[min(level + 1, len(c) - 1)]
            pairs = []
            for i in range(config.blocks + 1):
                skip = above if i == config.blocks else c[level]
                pairs.append(((below if i == 0 else c[level]) + skip, c[level]))
            block = Level(pairs, e, *norm, config.head_channels[level], config.project_attention)
            if level > 0:
                block.upsampler = resampler(c[level], e, *norm, "double", config.full_resample)
            self.up_blocks.append(block)
        last = Conv(c[0], config.out_channels * config.patch**3)
        self.out = nn.Sequential(nn.GroupNorm(config.groups, c[0], config.eps), nn.SiLU(), last)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        class_labels: Tensor | None = None,
        spacing: Tensor | None = None,
        top_region: Tensor | None = None,
        bottom_region: Tensor | None = None,
        down_residuals: Sequence[Tensor] | None = None,
        middle_residual: Tensor | None = None,
    ) -> Tensor:
        """One call.

        Args:
            x: Noisy latent (batch, channels, d, h, w); each extent a multiple of ``config.multiple``.
            timesteps: Raw time steps, 0 to 1000 (batch,).
            class_labels: Modality codes (batch,), int64; needed if the network has class embeddings.
            spacing: Voxel size in mm times 100 (batch, 3); needed if the network has a spacing input.
            top_region, bottom_region: One-hot body region times 100 (batch, 4); needed by the ddpm variants.
            down_residuals, middle_residual: A ControlNet's outputs, or None.

        Returns:
            Velocity or noise, same shape as ``x``.
        """
        embedding = self.embed_time(timesteps, class_labels)
        parts = [embedding]
        if self.config.region:
            parts += [self.top_region_index_layer(top_region), self.bottom_region_index_layer(bottom_region)]
        if self.config.spacing:
            parts.append(self.spacing_layer(spacing))
        embedding = torch.cat(parts, dim=1)

        skips = self.descend(self.enter(x), embedding)
        if down_residuals is not None:
            skips = [skip + residual for skip, residual in zip(skips, down_residuals, strict=True)]
        # The last skip is the trunk itself, so its residual reaches the middle block too (as in the reference).
        assert self.middle_block is not None
        h: Tensor = self.middle_block(skips[-1], embedding)
        if middle_residual is not None:
            h = h + middle_residual
        for level in self.up_blocks:
            assert isinstance(level, Level)
            for index in range(len(level.resnets)):
                h = level.block(index, torch.cat([h, skips.pop()], dim=1), embedding)
            if level.upsampler is not None:
                h = level.upsampler(h, embedding)
        return unfold(self.out(h), self.config.patch)
