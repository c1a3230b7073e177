"""Building blocks shared by the denoiser and the ControlNet of the MAISI family."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """A 3D convolution one level down (``.conv``), where the official state dicts keep it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of raw time steps, shape (batch, width): cosines first, then sines (Ho et al. 2020)."""
    half = width // 2
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(exponent)[None, :]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    return F.pad(embedding, (0, 1)) if width % 2 else embedding


def embedding_mlp(in_features: int, width: int) -> nn.Sequential:
    """Linear, SiLU, Linear: how every condition becomes a vector of the embedding's width."""
    return nn.Sequential(nn.Linear(in_features, width), nn.SiLU(), nn.Linear(width, width))


def halve(x: Tensor) -> Tensor:
    """Average of 2 x 2 x 2 voxels (torch's CPU pooling has no bfloat16 kernel, a mean over a view has)."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        b, c, d, h, w = x.shape
        return x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2).mean((3, 5, 7))
    return F.avg_pool3d(x, 2)


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour enlargement by two along each axis."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, with the embedding added in between; optionally halves or doubles the grid."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        groups: int,
        eps: float,
        resample: str = "none",
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv(in_channels, out_channels)
        self.time_emb_proj = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = Conv(out_channels, out_channels)
        self.skip_connection: nn.Module = (
            nn.Identity() if in_channels == out_channels else Conv(in_channels, out_channels, kernel=1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample == "double":
            x, h = double(x), double(h)
        elif self.resample == "halve":
            x, h = halve(x), halve(h)
        h = self.conv1(h) + self.time_emb_proj(F.silu(embedding))[:, :, None, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.skip_connection(x) + h
        return out


class HeadProjections(nn.Module):
    """Multi-head attention over tokens (batch, tokens, channels), with an output projection only where trained."""

    def __init__(self, channels: int, head_channels: int, project: bool) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.out_proj: nn.Module = nn.Linear(channels, channels) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        def split(t: Tensor) -> Tensor:
            return t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)

        attended = F.scaled_dot_product_attention(split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x)))
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class SpatialAttention(nn.Module):
    """Self-attention among all voxels of a grid, added to its input."""

    def __init__(self, channels: int, head_channels: int, groups: int, eps: float, project: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attn = HeadProjections(channels, head_channels, project)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        attended: Tensor = self.attn(tokens)
        return x + attended.transpose(1, 2).reshape(x.shape)


class StridedDown(nn.Module):
    """Halves the grid by a strided convolution (the ddpm variants)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv(channels, channels, stride=2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class NearestUp(nn.Module):
    """Doubles the grid by nearest neighbour and a convolution (the ddpm variants)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.postconv = Conv(channels, channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.postconv(double(x))
        return out


class Middle(nn.Module):
    """The bottom of the U: residual block, attention, residual block."""

    def __init__(
        self, channels: int, embedding: int, groups: int, eps: float, head_channels: int, project: bool
    ) -> None:
        super().__init__()
        self.resnet_1 = ResBlock(channels, channels, embedding, groups, eps)
        self.attention = SpatialAttention(channels, head_channels, groups, eps, project)
        self.resnet_2 = ResBlock(channels, channels, embedding, groups, eps)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.resnet_2(self.attention(self.resnet_1(x, embedding)), embedding)
        return out


class Level(nn.Module):
    """One level of the U: residual blocks, each followed by attention where the level has it, then a resampler."""

    def __init__(
        self,
        blocks: Sequence[tuple[int, int]],
        embedding: int,
        groups: int,
        eps: float,
        head_channels: int,
        project: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(i, o, embedding, groups, eps) for i, o in blocks)
        # A level without attention has no such key in the official files.
        self.attentions = (
            nn.ModuleList(SpatialAttention(o, head_channels, groups, eps, project) for _, o in blocks)
            if head_channels
            else None
        )
        self.downsampler: nn.Module | None = None
        self.upsampler: nn.Module | None = None

    def block(self, index: int, x: Tensor, embedding: Tensor) -> Tensor:
        """Residual block ``index`` and its attention."""
        x = self.resnets[index](x, embedding)
        return x if self.attentions is None else self.attentions[index](x)


def resampler(channels: int, embedding: int, groups: int, eps: float, kind: str, full: bool) -> nn.Module:
    """A level's resampler, "halve" or "double": a residual block (``full``, rflow) or a plain convolution (ddpm)."""
    if full:
        return ResBlock(channels, channels, embedding, groups, eps, resample=kind)
    return StridedDown(channels) if kind == "halve" else NearestUp(channels)
