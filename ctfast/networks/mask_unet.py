"""The denoiser of MAISI's mask generator: a 3D U-Net whose attention also reads ten organ sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctfast.networks.blocks import Conv, ResBlock, embedding_mlp, resampler, timestep_embedding


@dataclass(frozen=True)
class MaskUNetConfig:
    """Shape of a mask denoiser; ``head_channels`` is per level, 0 where the level has no attention."""

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (64, 128, 256, 512)
    head_channels: tuple[int, ...] = (0, 0, 32, 32)
    blocks: int = 2
    groups: int = 32
    eps: float = 1e-6
    context_width: int = 10

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels[0]


class SelfAttention(nn.Module):
    """Multi-head attention among tokens (batch, tokens, channels); queries, keys and values have no bias."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        def split(t: Tensor) -> Tensor:
            return t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)

        attended = F.scaled_dot_product_attention(split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x)))
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class ContextAttention(nn.Module):
    """Attention to a context of one token: its value, whatever the query, since a softmax over one key is 1.

    The official files hold the query's and the key's weights too, so they are parameters here, but nothing reads them.
    """

    def __init__(self, channels: int, context_width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_width, channels, bias=False)
        self.to_v = nn.Linear(context_width, channels, bias=False)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, context: Tensor) -> Tensor:
        out: Tensor = self.out_proj(self.to_v(context))
        return out


class GatedFeedForward(nn.Module):
    """Two linear layers with a GELU gate in between (GEGLU, Shazeer 2020), four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, 8 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.linear1(x).chunk(2, dim=-1)
        out: Tensor = self.linear2(value * F.gelu(gate))
        return out


class TransformerBlock(nn.Module):
    """Self-attention, context and feed-forward, each added to its input."""

    def __init__(self, channels: int, head_channels: int, context_width: int) -> None:
        super().__init__()
        self.attn1 = SelfAttention(channels, head_channels)
        self.attn2 = ContextAttention(channels, context_width)
        self.ff = GatedFeedForward(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)  # the context's query only: a parameter of the files that nothing reads
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x)) + self.attn2(context)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    """A transformer block over all voxels of a grid, between two 1 x 1 x 1 convolutions, added to its input."""

    def __init__(self, channels: int, head_channels: int, context_width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.proj_in = Conv(channels, channels, kernel=1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, head_channels, context_width)])
        self.proj_out = Conv(channels, channels, kernel=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        out: Tensor = x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))
        return out


class MaskLevel(nn.Module):
    """One level of the U: residual blocks, each followed by a transformer where the level has it, then a resampler."""

    def __init__(self, config: MaskUNetConfig, blocks: Sequence[tuple[int, int]], head_channels: int) -> None:
        super().__init__()
        norm = (config.groups, config.eps)
        self.downsampler: nn.Module | None = None
        self.upsampler: nn.Module | None = None
        self.resnets = nn.ModuleList(ResBlock(i, o, config.time_width, *norm) for i, o in blocks)
        self.attentions = (
            nn.ModuleList(SpatialTransformer(o, head_channels, config.context_width, *norm) for _, o in blocks)
            if head_channels
            else None
        )

    def block(self, index: int, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        """Residual block ``index`` and its transformer."""
        x = self.resnets[index](x, embedding)
        return x if self.attentions is None else self.attentions[index](x, context)


class MaskMiddle(nn.Module):
    """The bottom of the U: residual block, transformer, residual block."""

    def __init__(self, config: MaskUNetConfig) -> None:
        super().__init__()
        width, norm = config.channels[-1], (config.groups, config.eps)
        self.resnet_1 = ResBlock(width, width, config.time_width, *norm)
        self.attention = SpatialTransformer(width, config.head_channels[-1], config.context_width, *norm)
        self.resnet_2 = ResBlock(width, width, config.time_width, *norm)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.resnet_2(self.attention(self.resnet_1(x, embedding), context), embedding)
        return out


class MaskUNet(nn.Module):
    """Predicts the noise in a mask latent; keys as MONAI's DiffusionModelUNet with cross-attention."""

    def __init__(self, config: MaskUNetConfig) -> None:
        super().__init__()
        self.config = config
        c, e, norm = config.channels, config.time_width, (config.groups, config.eps)
        self.conv_in = Conv(config.in_channels, c[0])
        self.time_embed = embedding_mlp(c[0], e)
        self.down_blocks = nn.ModuleList()
        self.up_blocks = nn.ModuleList()
        for level, heads in enumerate(config.head_channels):
            first = c[max(level - 1, 0)]
            down = MaskLevel(config, [(first if i == 0 else c[level], c[level]) for i in range(config.blocks)], heads)
            if level < len(c) - 1:
                down.downsampler = resampler(c[level], e, *norm, "halve", full=False)
            self.down_blocks.append(down)
        self.middle_block = MaskMiddle(config)
        for level in reversed(range(len(c))):
            # The trunk comes from the level below at first; the last skip of a level is as wide as the level above.
            trunk = [c[min(level + 1, len(c) - 1)]] + [c[level]] * config.blocks
            skip = [c[level]] * config.blocks + [c[max(level - 1, 0)]]
            pairs = [(a + b, c[level]) for a, b in zip(trunk, skip, strict=True)]
            up = MaskLevel(config, pairs, config.head_channels[level])
            if level > 0:
                up.upsampler = resampler(c[level], e, *norm, "double", full=False)
            self.up_blocks.append(up)
        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, c[0], config.eps), nn.SiLU(), Conv(c[0], config.out_channels)
        )

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """One call.

        Args:
            x: Noisy mask latent (batch, channels, d, h, w); each extent a multiple of 2^(levels-1).
            timesteps: Raw time steps, 0 to 1000 (batch,).
            context: Organ sizes as one token (batch, 1, context_width).

        Returns:
            The predicted noise, same shape as ``x``.

        Raises:
            ValueError: ``context`` holds another number of tokens than one.
        """
        if context.shape[1] != 1:
            raise ValueError(f"the mask denoiser reads one context token, found {context.shape[1]}")
        embedding = self.time_embed(timestep_embedding(timesteps, self.config.channels[0]).to(x.dtype))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            assert isinstance(level, MaskLevel)
            for index in range(len(level.resnets)):
                h = level.block(index, h, embedding, context)
                skips.append(h)
            if level.downsampler is not None:
                h = level.downsampler(h, embedding)
                skips.append(h)
        h = self.middle_block(h, embedding, context)
        for level in self.up_blocks:
            assert isinstance(level, MaskLevel)
            for index in range(len(level.resnets)):
                h = level.block(index, torch.cat([h, skips.pop()], dim=1), embedding, context)
            if level.upsampler is not None:
                h = level.upsampler(h, embedding)
        out: Tensor = self.out(h)
        return out
