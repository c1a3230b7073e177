"""What follows a convolution: bias, embedding, residual and SiLU in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .dispatch import available, channels_last, jit, launch, tl
from .reference import epilogue as twin
from .tiles import ceiling, channel_block, check_features, check_vector, voxels
from .tuning import TILE, TILES, Configuration, Tunable, configuration


def epilogue(
    x: Tensor,
    bias: Tensor | None = None,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    silu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """``(x + bias + embedding) * scale + residual``, then SiLU if wanted, in float32 and rounded once.

    One pass: ``x`` and ``residual`` are read once and the result is written once, where each addition apart reads and
    writes all of it.

    Args:
        x: [B, C, X, Y, Z], float32, float16 or bfloat16. A tensor that is not channels last, or whose ``residual`` or
            ``out`` is not, goes through plain torch.
        bias: [C] of floats.
        embedding: [B, C] or [1, C] of floats.
        residual: Of the shape of ``x``, of floats.
        scale: Of what is in front of the residual.
        silu: Whether SiLU (Elfwing et al., 2018) follows.
        out: Where to write, like ``x``; may be ``x`` or ``residual``. By default a new tensor.
    """
    check_features("epilogue", x)
    batch, channels = x.shape[:2]
    check_vector("epilogue", "bias", bias, [(channels,)])
    check_vector("epilogue", "embedding", embedding, [(batch, channels), (1, channels)])
    if residual is not None:
        check_features("epilogue", residual, name="residual")
        check_vector("epilogue", "residual", residual, [tuple(x.shape)])
    if out is not None:
        check_features("epilogue", out, x, "out")
    if not (available(x) and all(channels_last(each) for each in (x, residual, out) if each is not None)):
        return twin.epilogue(x, bias, embedding, residual, scale, silu, out)
    out = torch.empty_like(x) if out is None else out
    _run(x, bias, embedding, residual, scale, silu, out, configuration(TUNABLE, x))
    return out


def _run(
    x: Tensor,
    bias: Tensor | None,
    embedding: Tensor | None,
    residual: Tensor | None,
    scale: float,
    silu: bool,
    out: Tensor,
    options: Configuration,
) -> None:
    batch, channels = x.shape[:2]
    block_v, block_c = options["BLOCK_V"], channel_block(channels, options["BLOCK_C"])
    launch(
        _epilogue,
        (ceiling(voxels(x), block_v) * ceiling(channels, block_c), batch),
        x,
        x,
        x if bias is None else bias.contiguous(),
        x if embedding is None else embedding.contiguous(),
        x if residual is None else residual,
        out,
        voxels(x),
        channels if embedding is not None and embedding.shape[0] > 1 else 0,
        float(scale),
        CHANNELS=channels,
        BIASED=bias is not None,
        EMBEDDED=embedding is not None,
        RESIDUAL=residual is not None,
        SILU=silu,
        BLOCK_V=block_v,
        BLOCK_C=block_c,
        num_warps=options["num_warps"],
    )


@jit
def _epilogue(
    x: tl.tensor,
    bias: tl.tensor,
    embedding: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    embedding_stride: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BIASED: tl.constexpr,
    EMBEDDED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    start = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_V
    batch = tl.program_id(1).to(tl.int64)
    real = c < CHANNELS
    rows = tl.arange(0, BLOCK_V)
    inside = (rows < count - start)[:, None] & real[None, :]
    vector = tl.zeros([BLOCK_C], tl.float32)
    if BIASED:
        vector += tl.load(bias + c, mask=real, other=0).to(tl.float32)
    if EMBEDDED:
        vector += tl.load(embedding + batch * embedding_stride + c, mask=real, other=0).to(tl.float32)
    base = (batch * count + start) * CHANNELS
    tile = rows[:, None] * CHANNELS + c[None, :]
    value = (tl.load(x + base + tile, mask=inside, other=0).to(tl.float32) + vector[None, :]) * scale
    if RESIDUAL:
        value += tl.load(residual + base + tile, mask=inside, other=0).to(tl.float32)
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(out + base + tile, value.to(out.dtype.element_ty), mask=inside)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Callable[[Configuration], object]:
    x = torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    bias, residual, out = torch.randn(x.shape[1], device=device), torch.randn_like(x), torch.empty_like(x)
    return lambda options: _run(x, bias, None, residual, 1.0, False, out, options)


TUNABLE = Tunable(
    "epilogue",
    TILE,
    TILES,
    _example,
)
