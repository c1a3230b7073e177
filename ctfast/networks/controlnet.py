"""The ControlNet of the MAISI family: a copy of the denoiser's way down that reads a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ctfast.networks.blocks import Conv
from ctfast.networks.unet import DenoiserConfig, Trunk


@dataclass(frozen=True)
class ControlNetConfig:
    """Shape of a ControlNet: the denoiser's, and the widths of the embedding of the label bits.

    The embedding halves the grid once per width after the first; it must end on the grid of the denoiser's first
    convolution (two halvings for a VAE that compresses by 4, one more per doubling of the denoiser's patch).
    ``middle`` False leaves out the middle block, a small network's largest part: the middle residual then comes from
    the last skip.
    """

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    label_bits: int = 8
    condition_channels: tuple[int, ...] = (8, 32, 64)
    middle: bool = True


class ConditionEmbedding(nn.Module):
    """Label bits at image resolution to features at latent resolution; halves the grid once per extra width."""

    def __init__(self, bits: int, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv_in = Conv(bits, channels[0])
        self.blocks = nn.ModuleList()
        for before, after in pairwise(channels):
            self.blocks.append(Conv(before, before))
            self.blocks.append(Conv(before, after, stride=2))
        self.conv_out = Conv(channels[-1], out_channels)

    def forward(self, condition: Tensor) -> Tensor:
        h = F.silu(self.conv_in(condition))
        for block in self.blocks:
            h = F.silu(block(h))
        out: Tensor = self.conv_out(h)
        return out


class ControlNet(Trunk):
    """Residuals for every skip connection and the middle of a denoiser; keys as MONAI's ControlNetMaisi."""

    def __init__(self, config: ControlNetConfig) -> None:
        shape = config.denoiser
        super().__init__(shape, shape.time_width, config.middle)
        self.label_bits = config.label_bits
        c = shape.channels
        self.controlnet_cond_embedding = ConditionEmbedding(config.label_bits, config.condition_channels, c[0])
        taps: list[nn.Module] = [nn.Conv3d(c[0], c[0], 1)]  # the first tap alone has no ".conv" level in the files
        for level, width in enumerate(c):
            taps += [Conv(width, width, kernel=1) for _ in range(shape.blocks + (level < len(c) - 1))]
        self.controlnet_down_blocks = nn.ModuleList(taps)
        self.controlnet_mid_block = Conv(c[-1], c[-1], kernel=1)

    def embed_condition(self, condition: Tensor) -> Tensor:
        """Label bits (batch, bits, x, y, z) to (batch, channels, d, h, w). Constant while sampling: compute it once."""
        out: Tensor = self.controlnet_cond_embedding(condition)
        return out

    def features(
        self, x: Tensor, timesteps: Tensor, condition_embedding: Tensor, class_labels: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The encoder's features at every skip and behind the middle block, before the zero-initialised taps."""
        embedding = self.embed_time(timesteps, class_labels)
        skips = self.descend(self.enter(x) + condition_embedding, embedding)
        middle = skips[-1] if self.middle_block is None else self.middle_block(skips[-1], embedding)
        return skips, middle

    def forward(
        self, x: Tensor, timesteps: Tensor, condition_embedding: Tensor, class_labels: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Residuals for the denoiser.

        Args:
            x: Noisy latent (batch, channels, d, h, w).
            timesteps: Raw time steps (batch,).
            condition_embedding: What :meth:`embed_condition` made of the label bits.
            class_labels: Modality codes (batch,), where the network has class embeddings.

        Returns:
            One residual per skip connection, and the middle block's.
        """
        skips, middle = self.features(x, timesteps, condition_embedding, class_labels)
        down = [tap(skip) for tap, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return down, self.controlnet_mid_block(middle)
