"""The Inception v3 of the Fréchet inception distance, with the names of its published torch weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 2048
_SIDE = 299
_Kernel = int | tuple[int, int]
# A convolution: inputs, outputs, kernel, stride, padding.
_Conv = tuple[int, int, _Kernel, int, _Kernel]


class _ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: _Kernel, stride: int = 1, padding: _Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(images)))


class _Mixed(nn.Module):
    """Branches side by side, joined by channels.

    ``chains`` are the branches, each a sequence of names of convolutions; a tuple at a chain's end is a fork whose two
    results are joined. ``pool`` is what the last branch begins with: "mean", "max", or "stride" for a maximum with
    stride 2 that no convolution follows.
    """

    def __init__(self, convs: Mapping[str, _Conv], chains: tuple[tuple[str | tuple[str, str], ...], ...], pool: str):
        super().__init__()
        for name, settings in convs.items():
            setattr(self, name, _ConvNorm(*settings))
        self._chains = chains
        self._pool = pool

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([*(self._run(chain, images) for chain in self._chains), self._pooled(images)], 1)

    def _run(self, chain: tuple[str | tuple[str, str], ...], images: Tensor) -> Tensor:
        for step in chain:
            if isinstance(step, str):
                images = getattr(self, step)(images)
            else:
                images = torch.cat([getattr(self, name)(images) for name in step], 1)
        return images

    def _pooled(self, images: Tensor) -> Tensor:
        if self._pool == "stride":
            return functional.max_pool2d(images, 3, 2)
        if self._pool == "max":
            pooled = functional.max_pool2d(images, 3, 1, 1)
        else:
            # The weights come from TensorFlow, whose mean does not count the border.
            pooled = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        result: Tensor = self.get_submodule("branch_pool")(pooled)
        return result


def _block_a(inputs: int, pool: int) -> _Mixed:
    convs: dict[str, _Conv] = {
        "branch1x1": (inputs, 64, 1, 1, 0),
        "branch5x5_1": (inputs, 48, 1, 1, 0),
        "branch5x5_2": (48, 64, 5, 1, 2),
        "branch3x3dbl_1": (inputs, 64, 1, 1, 0),
        "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 1, 1),
        "branch_pool": (inputs, pool, 1, 1, 0),
    }
    chains = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    )
    return _Mixed(convs, chains, "mean")


def _block_b(inputs: int) -> _Mixed:
    convs: dict[str, _Conv] = {
        "branch3x3": (inputs, 384, 3, 2, 0),
        "branch3x3dbl_1": (inputs, 64, 1, 1, 0),
        "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 2, 0),
    }
    return _Mixed(convs, (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")), "stride")


def _block_c(inputs: int, width: int) -> _Mixed:
    row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    convs: dict[str, _Conv] = {
        "branch1x1": (inputs, 192, 1, 1, 0),
        "branch7x7_1": (inputs, width, 1, 1, 0),
        "branch7x7_2": (width, width, *row),
        "branch7x7_3": (width, 192, *column),
        "branch7x7dbl_1": (inputs, width, 1, 1, 0),
        "branch7x7dbl_2": (width, width, *column),
        "branch7x7dbl_3": (width, width, *row),
        "branch7x7dbl_4": (width, width, *column),
        "branch7x7dbl_5": (width, 192, *row),
        "branch_pool": (inputs, 192, 1, 1, 0),
    }
    chains = (
        ("branch1x1",),
        tuple(f"branch7x7_{step}" for step in (1, 2, 3)),
        tuple(f"branch7x7dbl_{step}" for step in (1, 2, 3, 4, 5)),
    )
    return _Mixed(convs, chains, "mean")


def _block_d(inputs: int) -> _Mixed:
    convs: dict[str, _Conv] = {
        "branch3x3_1": (inputs, 192, 1, 1, 0),
        "branch3x3_2": (192, 320, 3, 2, 0),
        "branch7x7x3_1": (inputs, 192, 1, 1, 0),
        "branch7x7x3_2": (192, 192, (1, 7), 1, (0, 3)),
        "branch7x7x3_3": (192, 192, (7, 1), 1, (3, 0)),
        "branch7x7x3_4": (192, 192, 3, 2, 0),
    }
    chains = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{step}" for step in (1, 2, 3, 4)))
    return _Mixed(convs, chains, "stride")


def _block_e(inputs: int, pool: str) -> _Mixed:
    row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    convs: dict[str, _Conv] = {
        "branch1x1": (inputs, 320, 1, 1, 0),
        "branch3x3_1": (inputs, 384, 1, 1, 0),
        "branch3x3_2a": (384, 384, *row),
        "branch3x3_2b": (384, 384, *column),
        "branch3x3dbl_1": (inputs, 448, 1, 1, 0),
        "branch3x3dbl_2": (448, 384, 3, 1, 1),
        "branch3x3dbl_3a": (384, 384, *row),
        "branch3x3dbl_3b": (384, 384, *column),
        "branch_pool": (inputs, 192, 1, 1, 0),
    }
    chains = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    )
    return _Mixed(convs, chains, pool)


class FidInception(nn.Module):
    """Inception v3 as the Fréchet distance uses it: slices in [0, 1], resized to 299 x 299, 2048 features each."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNorm(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = _ConvNorm(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = _ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = _ConvNorm(80, 192, 3)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "mean")
        self.Mixed_7c = _block_e(2048, "max")

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 2048) of grey slices (n, 1, h, w)."""
        maps = functional.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        maps = (2 * maps - 1).expand(-1, 3, -1, -1)
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(maps)))
        maps = functional.max_pool2d(maps, 3, 2)
        maps = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps)), 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                maps = block(maps)
        return maps.mean((2, 3))
