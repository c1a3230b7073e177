"""Decoder and encoder of the MAISI family as programs."""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as op

from ctfast.export.constants import Constants
from ctfast.export.program import ProgramBuilder, StagedNetwork, StageInputs
from ctfast.export.stage_graph import channels_first, convolution, exact, fold, same, trilinear, trimmed, unfold
from ctfast.manifest_program import StageMask, StageNorm
from ctfast.networks import AutoencoderConfig

#: Limits of the log variance, as in AutoencoderKL.encode.
_LOG_VARIANCE = (-30.0, 20.0)

#: A row in front and one behind, which a convolution of three rows pads with zeros.
_AROUND = StageMask("input", 1, 1)


def decoder_program(config: AutoencoderConfig, constants: Constants) -> StagedNetwork:
    """From ``latent``, divided by its scale factor, to ``image``.

    Args:
        config: Shape of the network, which enlarges by interpolation: ``transposed`` is False.
        constants: Its tensors, by the keys of AutoencoderKL.
    """
    stages = _Stages("decoder.blocks", config, constants, "latent", config.latent_channels)
    h = stages.latent_in(config.channels[-1])
    for level in reversed(range(len(config.channels))):
        for _ in range(config.blocks[level]):
            h = stages.residual_block(h, config.channels[level])
        if level:
            h = stages.up(h)
    stages.image_out(h)
    return stages.builder.finish()


def encoder_program(config: AutoencoderConfig, constants: Constants) -> StagedNetwork:
    """From ``image`` to ``moments``: the mean's channels, then those of the log variance, clamped.

    Args:
        config: Shape of the network.
        constants: Its tensors, by the keys of AutoencoderKL.
    """
    stages = _Stages("encoder.blocks", config, constants, "image", config.in_channels)
    h = stages.image_in(config.channels[0])
    for level in range(len(config.channels)):
        for _ in range(config.blocks[level]):
            h = stages.residual_block(h, config.channels[level])
        if level < len(config.channels) - 1:
            h = stages.down(h)
    stages.moments_out(h)
    return stages.builder.finish()


class _Stages:
    """The blocks of an encoder or a decoder; ``prefix`` and a block's number begin the keys of its tensors."""

    def __init__(self, prefix: str, config: AutoencoderConfig, constants: Constants, name: str, channels: int) -> None:
        self.builder = ProgramBuilder(name, channels, constants.shapes())
        self._prefix, self._config, self._constants = prefix, config, constants
        self._blocks = 0
        self._width = 0

    def latent_in(self, width: int) -> str:
        """The 1 x 1 x 1 convolution of the latent, and the decoder's first one."""
        post, first = "post_quant_conv.conv", f"{self._block()}.conv.conv"
        self._width = width

        def body(given: StageInputs) -> ov.Node:
            latent = self._convolved(channels_first(given.x), post)
            return self._convolved(given.masked(latent, first=True), first)

        count = self._count(post, first)
        return self.builder.stage("conv_in", "latent", width, body, multiply_adds=count, halo=(1, 1), mask=_AROUND)

    def image_in(self, width: int) -> str:
        """Blocks of voxels to channels, and the encoder's first convolution."""
        first, patch = f"{self._block()}.conv.conv", self._config.patch
        self._width = width

        def body(given: StageInputs) -> ov.Node:
            folded = fold(channels_first(given.masked(given.x)), patch)
            return self._convolved(folded, first, folded_in=patch)

        return self.builder.stage(
            "conv_in",
            "image",
            width,
            body,
            multiply_adds=self._count(first),
            halo=(patch, patch),
            down=(patch, patch, patch),
            mask=StageMask("input", patch, patch),
        )

    def residual_block(self, h: str, width: int) -> str:
        """Norm, activation and convolution twice, and what came in, through a convolution where the width changes."""
        index = self._blocks
        block = self._block()
        inner = self._normed(f"{index}_conv1", h, width, f"{block}.norm1", f"{block}.conv1.conv.conv")
        around = h
        if self._width != width:
            skip = f"{block}.nin_shortcut.conv.conv"
            around = self.builder.stage(
                f"{index}_skip",
                h,
                width,
                lambda given: self._convolved(channels_first(given.x), skip),
                multiply_adds=self._count(skip),
            )
        self._width = width
        return self._normed(f"{index}_conv2", inner, width, f"{block}.norm2", f"{block}.conv2.conv.conv", adds=around)

    def up(self, h: str) -> str:
        """Twice the grid, and a convolution."""
        index = self._blocks
        conv = f"{self._block()}.conv.conv.conv"

        def body(given: StageInputs) -> ov.Node:
            # One row of input gives two of output, of which the halo's outer ones are of no use.
            large = trimmed(trilinear(channels_first(given.x)), 1, 1)
            return self._convolved(given.masked(large, first=True), conv)

        return self.builder.stage(
            f"{index}_up",
            h,
            self._width,
            body,
            multiply_adds=self._count(conv),
            halo=(1, 1),
            up=(2, 2, 2),
            mask=StageMask("output", 1, 1),
        )

    def down(self, h: str) -> str:
        """Half the grid by a strided convolution, with one voxel of zeros at the far side of each axis."""
        index = self._blocks
        conv = f"{self._block()}.conv.conv.conv"

        def body(given: StageInputs) -> ov.Node:
            kernel, bias = self._constants.kernel(f"{conv}.weight"), self._constants.bias(f"{conv}.bias")
            x = channels_first(given.masked(given.x))
            return convolution(x, kernel, bias, stride=(2, 2, 2), after=(0, 1, 1))

        return self.builder.stage(
            f"{index}_down",
            h,
            self._width,
            body,
            multiply_adds=self._count(conv),
            halo=(0, 1),
            down=(2, 2, 2),
            mask=StageMask("input", 0, 1),
        )

    def image_out(self, h: str) -> str:
        """The decoder's last norm and convolution, and channels back to blocks of voxels."""
        norm, last, patch = self._block(), f"{self._block()}.conv.conv", self._config.patch

        def body(given: StageInputs) -> ov.Node:
            x = channels_first(given.masked(given.x))
            return unfold(exact(self._convolved(x, last, folded_out=patch)), patch)

        return self.builder.stage(
            "conv_out",
            h,
            self._config.out_channels,
            body,
            multiply_adds=self._count(last) // patch**3,
            writes="image",
            halo=(1, 1),
            up=(patch, patch, patch),
            norm=self._norm(norm),
            mask=_AROUND,
        )

    def moments_out(self, h: str) -> str:
        """The encoder's last norm and convolution, and those of the mean and of the log variance."""
        norm, last = self._block(), f"{self._block()}.conv.conv"
        mean, log_variance = "quant_conv_mu.conv", "quant_conv_log_sigma.conv"

        def body(given: StageInputs) -> ov.Node:
            features = self._convolved(channels_first(given.masked(given.x)), last)
            clamped = op.clamp(exact(self._convolved(features, log_variance)), *_LOG_VARIANCE)
            return op.concat([exact(self._convolved(features, mean)), clamped], 1)

        return self.builder.stage(
            "conv_out",
            h,
            2 * self._config.latent_channels,
            body,
            multiply_adds=self._count(last, mean, log_variance),
            writes="moments",
            halo=(1, 1),
            norm=self._norm(norm),
            mask=_AROUND,
        )

    def _normed(self, name: str, reads: str, width: int, norm: str, conv: str, adds: str | None = None) -> str:
        def body(given: StageInputs) -> ov.Node:
            return self._convolved(channels_first(given.masked(op.swish(given.x))), conv)

        count = self._count(conv)
        return self.builder.stage(
            name,
            reads,
            width,
            body,
            multiply_adds=count,
            halo=(1, 1),
            adds=adds,
            norm=self._norm(norm),
            mask=_AROUND,
        )

    def _block(self) -> str:
        """Prefix of the keys of the next block."""
        self._blocks += 1
        return f"{self._prefix}.{self._blocks - 1}"

    def _norm(self, key: str) -> StageNorm:
        return StageNorm(self._config.groups, self._config.eps, f"{key}.weight", f"{key}.bias")

    def _count(self, *convolutions: str) -> int:
        return sum(self._constants.count(f"{key}.weight") for key in convolutions)

    def _convolved(self, x: ov.Node, key: str, *, folded_in: int = 1, folded_out: int = 1) -> ov.Node:
        """A convolution that keeps y and x, of a channels-first tensor."""
        kernel = self._constants.kernel(f"{key}.weight", folded_in=folded_in, folded_out=folded_out)
        padding = same(kernel)
        bias = self._constants.bias(f"{key}.bias", folded_out=folded_out)
        return convolution(x, kernel, bias, before=padding, after=padding)
