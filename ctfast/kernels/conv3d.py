"""A 3D convolution with what comes before and behind it, in one pass over its input and its result.

An implicit matrix product (Chetlur et al. 2014, arXiv:1410.0759) over channels-last voxels. The normalisation and SiLU
of the input, the concatenation with a skip connection, the bias, the embedding, the residual and the sums that the next
normalisation needs cost no pass of their own. Whether that beats a library's convolution with those passes depends on
the shape and the GPU: ``faster`` says so, from a table; without one it says no.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .conv3d_kernel import convolve
from .dispatch import available, launch
from .reference.conv3d import conv3d as _twin
from .reference.conv3d import conv3d_sums as _sums_twin
from .tuning import Configuration, Tunable, configuration


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    second: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """conv(act(scale * [x, second] + shift)) + bias + embedding + residual.

    Args:
        x: [B, C, X, Y, Z], bfloat16, float16 or float32, channels-last-3d (copied into that order if it is not).
        weight: [made, C + C2, k, k, k] with k 1 or 3, the type of ``x``; fastest to read in channels-last-3d order. The
            padding is k // 2 zeros on every side, behind the scale, shift and SiLU.
        bias: [made].
        stride: 1 or 2, along every axis.
        second: [B, C2, X, Y, Z]: channels behind those of ``x``, read where they lie.
        scale: [B, C + C2] float32: what each channel of the input is multiplied by. With ``shift`` or not at all.
        shift: [B, C + C2] float32: what is added behind that.
        silu: Whether v / (1 + exp(-v)) of the input is convolved.
        embedding: [B, made], added to every voxel.
        residual: Of the result's shape, added.
        out: Where to put the result: of its shape and type, its channels next to each other; may be ``residual``.

    Returns:
        [B, made, X', Y', Z'] in channels-last-3d order, of the type of ``x``, X' = ceil(X / stride) and so on. Sums are
        float32; with a scale or SiLU the input is rounded to its type once more before the product.

    Raises:
        ValueError: Shapes, types, devices or strides do not fit.
    """
    shape = _check(x, weight, bias, stride, second, scale, shift, embedding, residual, out)
    if not available(x):
        return _twin(x, weight, bias, stride, second, scale, shift, silu, embedding, residual, out)
    config = _chosen(x, weight, stride, second)
    return run(config, shape, x, weight, bias, stride, second, scale, shift, silu, embedding, residual, out)


def conv3d_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    second: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``conv3d``, and the sums of what it returns: of values and of their squares, [B, made] each, float64.

    They are of the values as they are stored, so that a normalisation by them is that of the tensor. Each block of
    voxels is summed in float32, and the blocks in float64: 8 bytes per output channel and block are allocated for them.
    """
    shape = _check(x, weight, bias, stride, second, scale, shift, embedding, residual, out)
    if not available(x):
        return _sums_twin(x, weight, bias, stride, second, scale, shift, silu, embedding, residual, out)
    config = _chosen(x, weight, stride, second)
    blocks = _blocks(config, shape, _slides(config, weight.shape[-1], stride))
    partial_sums = torch.empty(shape[0], blocks, 2, shape[1], dtype=torch.float32, device=x.device)
    result = run(
        config, shape, x, weight, bias, stride, second, scale, shift, silu, embedding, residual, out, partial_sums
    )
    sums, squares = partial_sums.sum(1, dtype=torch.float64).unbind(1)
    return result, sums, squares


def faster(x: Tensor, weight: Tensor, stride: int = 1, second: Tensor | None = None) -> bool:
    """Whether the table of the tensor's GPU says that this beats the library's convolution. No table: False."""
    return available(x) and bool(_chosen(x, weight, stride, second).get("use", False))


def _chosen(x: Tensor, weight: Tensor, stride: int, second: Tensor | None) -> Configuration:
    batch, channels, *extents = x.shape
    made, edge = weight.shape[0], weight.shape[-1]
    channels += 0 if second is None else second.shape[1]
    tunable = replace(CONV3D, default=default(made, x.dtype))
    return configuration(tunable, x, (batch, channels, *extents, made, edge, stride))


def _slides(config: Configuration, edge: int, stride: int) -> bool:
    return bool(config["SLIDE"]) and edge == 3 and stride == 1


def _blocks(config: Configuration, shape: Sequence[int], slide: bool) -> int:
    """How many blocks of voxels a result has."""
    rows = int(config["BLOCK_VOXELS"]) - (2 if slide else 0)
    return -(-(shape[2] * shape[3] * shape[4]) // rows)


def run(
    config: Configuration,
    shape: Sequence[int],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    second: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    partial_sums: Tensor | None = None,
    phases: int = 1,
) -> Tensor:
    """Launch the kernel, without checks. ``shape`` is the result's.

    With 8 phases that is of twice the grid, and ``weight`` is [8, made, C, 3, 3, 3].
    """
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    made, channels, edge = shape[1], x.shape[1], weight.shape[-1]
    x, weight = neighbouring(x), weight if _even(weight) else weight.contiguous()
    x2 = x if second is None else neighbouring(second)
    residual = None if residual is None else neighbouring(residual)
    added = x if residual is None else residual
    step = 2 if phases == 8 else 1
    block_made = (shape[0], made, *(extent // step for extent in shape[2:]))
    slide = _slides(config, edge, stride)
    block_out = min(int(config["BLOCK_OUT"]), max(16, _power(made)))
    block_in = min(int(config["BLOCK_IN"]), max(16, _power(channels)))
    nothing = x.new_empty(0, dtype=torch.float32)
    launch(
        convolve,
        (_blocks(config, block_made, slide) * phases * -(-made // block_out), shape[0]),
        x,
        *(x, x2, weight, bias if bias is not None else x),
        *(nothing if tensor is None else tensor.contiguous() for tensor in (scale, shift)),
        *(x if embedding is None else embedding.contiguous(), added, out),
        nothing if partial_sums is None else partial_sums,
        *x.shape[2:],
        *block_made[2:],
        *(tensor.stride(axis) for tensor in (x, x2) for axis in (0, 2, 3, 4)),
        weight.stride(0) if phases == 8 else 0,
        *(weight.stride(-5), weight.stride(-4), weight.stride(-1)),
        *(tensor.stride(axis) for tensor in (added, out) for axis in (0, 2, 3, 4)),
        CHANNELS=channels,
        CHANNELS2=0 if second is None else second.shape[1],
        MADE=made,
        EDGE=edge,
        STRIDE=stride,
        PHASES=phases,
        AFFINE=scale is not None,
        SILU=silu,
        BIAS=bias is not None,
        EMBEDDING=embedding is not None,
        RESIDUAL=residual is not None,
        SUMS=partial_sums is not None,
        SLIDE=slide,
        BLOCK_VOXELS=config["BLOCK_VOXELS"],
        BLOCK_IN=block_in,
        BLOCK_OUT=block_out,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )
    return out


def _power(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()


def neighbouring(x: Tensor) -> Tensor:
    """The tensor, copied if a voxel's channels are not next to each other."""
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last_3d)


def _even(weight: Tensor) -> bool:
    """Whether one stride leads from each tap to the next."""
    edge, last = weight.shape[-1], weight.stride(-1)
    return edge == 1 or (weight.stride(-2) == edge * last and weight.stride(-3) == edge * edge * last)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    second: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    embedding: Tensor | None,
    residual: Tensor | None,
    out: Tensor | None,
) -> tuple[int, int, int, int, int]:
    """The result's shape."""
    if x.ndim != 5 or 0 in x.shape:
        raise ValueError(f"expected [B, C, X, Y, Z] with a voxel or more, found {tuple(x.shape)}")
    batch, channels, *extents = x.shape
    if second is not None:
        _expect("a second input", second, (batch, second.shape[1] if second.ndim == 5 else 0, *extents), x)
        channels += second.shape[1]
    made, edge = weight.shape[0], weight.shape[-1]
    if edge not in (1, 3) or stride not in (1, 2):
        raise ValueError(f"expected kernels of 1 or 3 voxels and stride 1 or 2, found {edge} and {stride}")
    _expect("weights", weight, (made, channels, edge, edge, edge), x)
    if (scale is None) != (shift is None):
        raise ValueError("expected both a scale and a shift, found one")
    for name, tensor in (("a scale", scale), ("a shift", shift)):
        _expect(name, tensor, (batch, channels), None)
        if tensor is not None and tensor.dtype != torch.float32:
            raise ValueError(f"expected {name} of torch.float32, found {tensor.dtype}")
    sizes = [-(-extent // stride) for extent in extents]
    if sizes[0] * sizes[1] * sizes[2] >= 2**31 - 2**16:
        raise ValueError(f"expected fewer than 2^31 voxels, found {tuple(sizes)}")
    shape = (batch, made, sizes[0], sizes[1], sizes[2])
    _expect("a bias", bias, (made,), None)
    _expect("an embedding", embedding, (batch, made), None)
    _expect("a residual", residual, shape, None)
    _expect("a result", out, shape, x)
    if out is not None and made > 1 and out.stride(1) != 1:
        raise ValueError(f"expected a result with stride 1 along the channels, found strides {out.stride()}")
    return shape


def _expect(name: str, tensor: Tensor | None, shape: tuple[int, ...], like: Tensor | None) -> None:
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise ValueError(f"expected {name} {shape}, found {tuple(tensor.shape)}")
    if like is not None and (tensor.dtype, tensor.device) != (like.dtype, like.device):
        raise ValueError(f"expected {name} of {like.dtype} on {like.device}, found {tensor.dtype} on {tensor.device}")


def _inputs(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    batch, channels, *extents, made, edge, _ = shape
    given = torch.randn(batch, channels, *extents, dtype=dtype, device=device)
    weight = torch.randn(made, channels, edge, edge, edge, dtype=dtype, device=device)
    order = torch.channels_last_3d
    return given.contiguous(memory_format=order), weight.contiguous(memory_format=order)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Any:
    x, weight = _inputs(shape, dtype, device)
    made = _check(x, weight, None, shape[-1], None, None, None, None, None, None)
    return lambda config: run(config, made, x, weight, stride=shape[-1])


def _rival(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Any:
    x, weight = _inputs(shape, dtype, device)
    return partial(F.conv3d, x, weight, None, shape[-1], weight.shape[-1] // 2)


def _configuration(voxels: int, made: int, given: int, warps: int, stages: int, slide: bool) -> Configuration:
    blocks = {"BLOCK_VOXELS": voxels, "BLOCK_OUT": made, "BLOCK_IN": given}
    return {**blocks, "num_warps": warps, "num_stages": stages, "SLIDE": slide}


def default(made: int, dtype: torch.dtype) -> Configuration:
    """What fits into registers and shared memory of compute capability 8.0 and 9.0 (by the assembler's report)."""
    if dtype == torch.float32:
        return _configuration(32, 32, 32, 4, 2, False)
    return _configuration(128, 64, 64, 8, 3, True) if made <= 64 else _configuration(128, 128, 64, 8, 3, False)


#: Few, since every pair of widths compiles them all once more.
CANDIDATES: list[Configuration] = [
    *(
        _configuration(voxels, made, 64, warps, stages, False)
        for voxels, made, warps in ((128, 64, 4), (128, 128, 8), (256, 128, 8), (128, 256, 8))
        for stages in (3, 4)
    ),
    *(_configuration(voxels, 64, 64, 8, stages, True) for voxels in (128, 256) for stages in (2, 3)),
    _configuration(128, 128, 64, 8, 2, True),
]

#: Keyed by (batch, channels, X, Y, Z, made, edge, stride): see ``faster``.
CONV3D = Tunable("conv3d", default(64, torch.bfloat16), CANDIDATES, example=_example, rival=_rival)
