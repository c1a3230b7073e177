"""The decoder of a small causal video VAE, in torch and as a program: time runs along z, and no frame sees a later one.

Norms are per voxel, as such VAEs have them, so that a frame depends on nothing but the frames in front of it.
"""

from __future__ import annotations

import openvino as ov
import torch
import torch.nn.functional as F
from openvino import opset13 as op
from torch import Tensor, nn

from ctfast.export.constants import Constants
from ctfast.export.program import ProgramBuilder, StagedNetwork, StageInputs
from ctfast.export.stage_graph import channel_norm, channels_first, convolution, exact, repeated, same
from ctfast.manifest_program import StageMask

CHANNELS = 3  # of the latent
WIDTHS = (12, 8)
OUT = 2
EPS = 1e-4


class CausalConv(nn.Module):
    """A convolution of the current frame and two before it; in front of the first one are copies of it, or zeros."""

    def __init__(self, channels: int, out: int, zeros: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, 3, padding=(1, 1, 0))
        self.mode = "constant" if zeros else "replicate"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (2, 0, 0, 0, 0, 0), mode=self.mode))
        return out


class ChannelNorm(nn.Module):
    """Divides every voxel by the root mean square of its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        root = torch.sqrt((x * x).mean(1, keepdim=True) + EPS)
        return x / root * self.weight[:, None, None, None]


class Block(nn.Module):
    """Norm, activation and causal convolution twice, and what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(channels), CausalConv(channels, channels)
        self.norm2, self.conv2 = ChannelNorm(channels), CausalConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return out


class TimeUp(nn.Module):
    """Every frame twice but for the first one, and a causal convolution: n frames become 2 n - 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.repeat_interleave(2, 4)[..., 1:])
        return out


class SpaceUp(nn.Module):
    """Twice the grid of each frame, and a causal convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return out


class CausalDecoder(nn.Module):
    """(batch, CHANNELS, x, y, frames) to (batch, OUT, 4 x, 4 y, 4 frames - 3)."""

    def __init__(self) -> None:
        super().__init__()
        wide, narrow = WIDTHS
        self.first = CausalConv(CHANNELS, wide, zeros=True)
        self.middle = nn.Sequential(
            Block(wide), TimeUp(wide), SpaceUp(wide, narrow), Block(narrow), TimeUp(narrow), SpaceUp(narrow, narrow)
        )
        self.norm, self.last = ChannelNorm(narrow), CausalConv(narrow, OUT)

    def forward(self, latent: Tensor) -> Tensor:
        out: Tensor = self.last(F.silu(self.norm(self.middle(self.first(latent)))))
        return out


def causal_program(constants: Constants) -> StagedNetwork:
    """CausalDecoder as a program; no stage has a norm that needs the volume's statistics."""
    builder = ProgramBuilder("latent", CHANNELS, constants.shapes())
    wide, narrow = WIDTHS
    halo = (2, 0)

    def convolved(x: ov.Node, key: str) -> ov.Node:
        kernel = constants.kernel(f"{key}.conv.weight")
        return convolution(x, kernel, constants.bias(f"{key}.conv.bias"), before=same(kernel), after=same(kernel))

    def count(key: str) -> int:
        return constants.count(f"{key}.conv.weight")

    def first(given: StageInputs) -> ov.Node:
        return convolved(channels_first(given.masked(given.x)), "first")

    def normed(x: str, name: str, norm: str, conv: str, width: int, adds: str | None = None) -> str:
        def body(given: StageInputs) -> ov.Node:
            h = op.swish(channel_norm(given.x, constants.vector(f"{norm}.weight"), EPS))
            return convolved(channels_first(h), conv)

        return builder.stage(name, x, width, body, multiply_adds=count(conv), halo=halo, adds=adds)

    def block(x: str, index: int, width: int) -> str:
        key = f"middle.{index}"
        h = normed(x, f"{index}_conv1", f"{key}.norm1", f"{key}.conv1", width)
        return normed(h, f"{index}_conv2", f"{key}.norm2", f"{key}.conv2", width, adds=x)

    def up(x: str, index: int, width: int, factors: tuple[int, int, int]) -> str:
        key, (fx, fy, fz) = f"middle.{index}", factors

        def body(given: StageInputs) -> ov.Node:
            return convolved(repeated(channels_first(given.x), (fz, fy, fx)), f"{key}.conv")

        rows = (1, 0) if fz == 2 else halo
        return builder.stage(
            f"{index}_up", x, width, body, multiply_adds=count(f"{key}.conv"), halo=rows, up=factors, skip=fz - 1
        )

    h = builder.stage(
        "first", "latent", wide, first, multiply_adds=count("first"), halo=halo, mask=StageMask("input", 2, 0)
    )
    h = block(h, 0, wide)
    h = up(h, 1, wide, (1, 1, 2))
    h = up(h, 2, narrow, (2, 2, 1))
    h = block(h, 3, narrow)
    h = up(h, 4, narrow, (1, 1, 2))
    h = up(h, 5, narrow, (2, 2, 1))

    def last(given: StageInputs) -> ov.Node:
        h = op.swish(channel_norm(given.x, constants.vector("norm.weight"), EPS))
        return convolved(channels_first(h), "last")

    builder.stage("last", h, OUT, last, multiply_adds=count("last"), writes="video", halo=halo, end=exact)
    return builder.finish()
