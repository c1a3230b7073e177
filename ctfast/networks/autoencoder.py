"""The VAEs of the MAISI family: convolutional, KL-regularised, one latent voxel per 4 x 4 x 4 image voxels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctfast.networks.blocks import Conv
from ctfast.networks.patches import fold, unfold


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of a VAE.

    ``patch`` folds blocks of patch^3 voxels into channels before the first convolution and back behind the last one
    (1 in the official models; 2 in small ones, where full-resolution layers would cost most of the time). The
    compression per axis is ``patch * 2^(levels-1)``. ``transposed`` enlarges by transposed convolutions (mask VAE)
    instead of trilinear interpolation and a convolution.
    """

    in_channels: int = 1
    out_channels: int = 1
    latent_channels: int = 4
    channels: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (2, 2, 2)
    groups: int = 32
    eps: float = 1e-6
    transposed: bool = False
    patch: int = 1

    @property
    def compression(self) -> int:
        """Image voxels per latent voxel along each axis."""
        return self.patch << (len(self.channels) - 1)


class Wrapped(nn.Module):
    """A convolution two levels down (``.conv.conv``), where the official VAE files keep it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, with a 1 x 1 x 1 shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = Wrapped(in_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = Wrapped(out_channels, out_channels)
        self.nin_shortcut: nn.Module = (
            nn.Identity() if in_channels == out_channels else Wrapped(in_channels, out_channels, kernel=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class Down(nn.Module):
    """Halves the grid: one voxel of padding at the far side of each axis, then a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Wrapped(channels, channels)
        self.conv.conv.conv.stride = (2, 2, 2)
        self.conv.conv.conv.padding = (0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1, 0, 1)))
        return out


class Up(nn.Module):
    """Doubles the grid: trilinear and a convolution, or a transposed convolution."""

    def __init__(self, channels: int, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.conv = Wrapped(channels, channels)
        if transposed:
            enlarge = nn.ConvTranspose3d(channels, channels, 3, stride=2, padding=1, output_padding=1)
            self.conv.conv.register_module("conv", enlarge)

    def forward(self, x: Tensor) -> Tensor:
        if not self.transposed:
            x = F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
        out: Tensor = self.conv(x)
        return out


class Half(nn.Module):
    """Encoder or decoder: a flat list of blocks, numbered as in the official files."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def encoder(config: AutoencoderConfig) -> Half:
    """Image to features of ``latent_channels``."""
    c, norm = config.channels, (config.groups, config.eps)
    blocks: list[nn.Module] = [Wrapped(config.in_channels * config.patch**3, c[0])]
    width = c[0]
    for level, count in enumerate(config.blocks):
        for _ in range(count):
            blocks.append(ResidualBlock(width, c[level], *norm))
            width = c[level]
        if level < len(c) - 1:
            blocks.append(Down(width))
    blocks += [nn.GroupNorm(norm[0], width, norm[1]), Wrapped(width, config.latent_channels)]
    return Half(blocks)


def decoder(config: AutoencoderConfig) -> Half:
    """Latent to image; the last norm has no activation behind it, as in the reference."""
    c, norm = config.channels[::-1], (config.groups, config.eps)
    blocks: list[nn.Module] = [Wrapped(config.latent_channels, c[0])]
    width = c[0]
    for level, count in enumerate(reversed(config.blocks)):
        for _ in range(count):
            blocks.append(ResidualBlock(width, c[level], *norm))
            width = c[level]
        if level < len(c) - 1:
            blocks.append(Up(width, config.transposed))
    blocks += [nn.GroupNorm(norm[0], width, norm[1]), Wrapped(width, config.out_channels * config.patch**3)]
    return Half(blocks)


class AutoencoderKL(nn.Module):
    """VAE with keys as MONAI's AutoencoderKlMaisi, without its splits: one pass over the whole volume."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = encoder(config)
        self.decoder = decoder(config)
        self.quant_conv_mu = Conv(z, z, kernel=1)
        self.quant_conv_log_sigma = Conv(z, z, kernel=1)
        self.post_quant_conv = Conv(z, z, kernel=1)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (batch, channels, x, y, z) to posterior mean and log-variance (batch, latent channels, d, h, w)."""
        h = self.encoder(fold(image, self.config.patch))
        return self.quant_conv_mu(h), torch.clamp(self.quant_conv_log_sigma(h), -30.0, 20.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent, already divided by the scale factor, to image (batch, channels, x, y, z)."""
        return unfold(self.decoder(self.post_quant_conv(latent)), self.config.patch)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction from one posterior sample, mean, log-variance: what training needs."""
        mean, log_variance = self.encode(image)
        sample = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decode(sample), mean, log_variance
