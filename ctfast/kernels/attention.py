"""Softmax attention among voxels, block by block: scores stay on chip.

FlashAttention (Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691): each program holds a block of queries,
reads the keys and values once, block by block, and keeps each row's greatest score and sum of exponentials as it goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .dispatch import available, jit, launch, tl
from .reference.attention import attention as _twin
from .tuning import Configuration, Tunable, configuration

_MOST_WIDTH = 256
_LOG2_E = math.log2(math.e)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    second: tuple[Tensor, Tensor] | None = None,
    gate: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v for every head, without the matrix of scores in memory.

    Args:
        q: [B, queries, heads, width], bfloat16, float16 or float32, width at most 256. Any strides: a slice of a fused
            projection's result is read where it lies, as long as its last axis has stride 1 (else it is copied).
        k: [B, keys, heads, width], the type of ``q``; at least one key.
        v: As ``k``.
        scale: What scores are multiplied by, positive; by default 1 / sqrt(width).
        second: More keys and values, [B, other keys, heads, width]: one softmax over both streams (joint attention),
            without a concatenation.
        gate: Its sigmoid multiplies the result: of the result's shape, or one that expands to it.
        out: Where to put the result: [B, queries, heads, width], of the type of ``q``, last axis with stride 1.

    Returns:
        [B, queries, heads, width], of the type of ``q``, contiguous unless ``out`` is given. Scores, exponentials and
        sums are float32; probabilities are rounded to the type of ``v`` before they meet it.

    Raises:
        ValueError: Shapes, types or devices do not fit, or the scale is not positive.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    _check(q, k, v, factor, second, gate, out)
    if not available(q):
        return _twin(q, k, v, factor, second, gate, out)
    tunable = replace(ATTENTION, default=_default(q.shape[-1], q.dtype))
    return _run(configuration(tunable, q), q, k, v, factor, second, gate, out)


def _run(
    config: Configuration,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factor: float,
    second: tuple[Tensor, Tensor] | None,
    gate: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    batch, queries, heads, width = q.shape
    q, k, v = _rows(q), _rows(k), _rows(v)
    k2, v2 = (k, v) if second is None else (_rows(second[0]), _rows(second[1]))
    opened = q if gate is None else gate.expand(q.shape)
    blocks = -(-queries // int(config["BLOCK_QUERIES"]))
    launch(
        _attend,
        (blocks * batch * heads,),
        q,
        *(q, k, v, k2, v2, opened, out),
        *(queries, k.shape[1], k2.shape[1], heads, factor * _LOG2_E),
        *(stride for tensor in (q, k, v, k2, v2) for stride in tensor.stride()[:3]),
        *opened.stride(),
        *out.stride()[:3],
        WIDTH=width,
        PADDED=max(16, 1 << (width - 1).bit_length()),
        SECOND=second is not None,
        GATED=gate is not None,
        **config,
    )
    return out


def _rows(tensor: Tensor) -> Tensor:
    """The tensor as the kernel can read it: offsets within a block of tokens are 32 bits wide."""
    return tensor if tensor.stride(-1) == 1 and tensor.stride(1) < 2**22 else tensor.contiguous()


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factor: float,
    second: tuple[Tensor, Tensor] | None,
    gate: Tensor | None,
    out: Tensor | None,
) -> None:
    if q.ndim != 4 or not 1 <= q.shape[-1] <= _MOST_WIDTH:
        raise ValueError(f"expected queries [B, tokens, heads, width up to {_MOST_WIDTH}], found {tuple(q.shape)}")
    batch, _, heads, width = q.shape
    for keys, values in ((k, v), *(() if second is None else (second,))):
        tokens = keys.shape[1] if keys.ndim == 4 else 0
        if tuple(keys.shape) != (batch, tokens, heads, width) or keys.shape != values.shape or not tokens:
            raise ValueError(
                f"expected keys and values [{batch}, tokens, {heads}, {width}] with one token or more, found "
                f"{tuple(keys.shape)} and {tuple(values.shape)}"
            )
        if any((tensor.dtype, tensor.device) != (q.dtype, q.device) for tensor in (keys, values)):
            raise ValueError(f"expected keys and values of {q.dtype} on {q.device}, found {keys.dtype}, {values.dtype}")
    if not factor > 0:
        raise ValueError(f"expected a scale above 0, found {factor}")
    if gate is not None:
        try:
            gate.expand(q.shape)
        except RuntimeError:
            raise ValueError(f"expected a gate that expands to {tuple(q.shape)}, found {tuple(gate.shape)}") from None
    if out is not None and (out.shape != q.shape or out.dtype != q.dtype or out.stride(-1) != 1):
        raise ValueError(
            f"expected a result {tuple(q.shape)} of {q.dtype} with stride 1 along the last axis, "
            f"found {tuple(out.shape)} of {out.dtype} with strides {out.stride()}"
        )


@jit
def _block(
    state: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    start: tl.tensor,
    keys: tl.tensor,
    k_stride: tl.tensor,
    v_stride: tl.tensor,
    scale: tl.tensor,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    MASKED: tl.constexpr,
) -> Any:
    """One block of keys joins the running softmax."""
    attended, greatest, total = state
    token = tl.arange(0, BLOCK_KEYS)
    channel = tl.arange(0, PADDED)
    k_at = k + tl.cast(start, tl.int64) * k_stride + token[:, None] * k_stride + channel[None, :]
    v_at = v + tl.cast(start, tl.int64) * v_stride + token[:, None] * v_stride + channel[None, :]
    if MASKED:
        inside = (start + token < keys)[:, None] & (channel < WIDTH)[None, :]
        key, value = tl.load(k_at, mask=inside, other=0.0), tl.load(v_at, mask=inside, other=0.0)
    elif WIDTH == PADDED:
        key, value = tl.load(k_at), tl.load(v_at)
    else:
        inside = (channel < WIDTH)[None, :]
        key, value = tl.load(k_at, mask=inside, other=0.0), tl.load(v_at, mask=inside, other=0.0)
    scores = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
    if MASKED:
        scores = tl.where((start + token < keys)[None, :], scores, float("-inf"))
    higher = tl.maximum(greatest, tl.max(scores, 1))
    part = tl.math.exp2(scores - higher[:, None])
    fade = tl.math.exp2(greatest - higher)
    attended = tl.dot(part.to(value.dtype), value, attended * fade[:, None], input_precision="ieee")
    return attended, higher, total * fade + tl.sum(part, 1)


@jit
def _stream(
    state: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    keys: tl.tensor,
    k_stride: tl.tensor,
    v_stride: tl.tensor,
    scale: tl.tensor,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> Any:
    """All keys and values of one stream join: whole blocks without masks, then the rest."""
    whole = keys // BLOCK_KEYS * BLOCK_KEYS
    for start in range(0, whole, BLOCK_KEYS):
        state = _block(state, q, k, v, start, keys, k_stride, v_stride, scale, WIDTH, PADDED, BLOCK_KEYS, False)
    if whole < keys:
        state = _block(state, q, k, v, whole, keys, k_stride, v_stride, scale, WIDTH, PADDED, BLOCK_KEYS, True)
    return state


@jit
def _attend(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    k2: tl.tensor,
    v2: tl.tensor,
    gate: tl.tensor,
    out: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    keys2: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    q_batch: tl.tensor,
    q_token: tl.tensor,
    q_head: tl.tensor,
    k_batch: tl.tensor,
    k_token: tl.tensor,
    k_head: tl.tensor,
    v_batch: tl.tensor,
    v_token: tl.tensor,
    v_head: tl.tensor,
    k2_batch: tl.tensor,
    k2_token: tl.tensor,
    k2_head: tl.tensor,
    v2_batch: tl.tensor,
    v2_token: tl.tensor,
    v2_head: tl.tensor,
    gate_batch: tl.tensor,
    gate_token: tl.tensor,
    gate_head: tl.tensor,
    gate_channel: tl.tensor,
    out_batch: tl.tensor,
    out_token: tl.tensor,
    out_head: tl.tensor,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    SECOND: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:
    # Neighbouring programs have the same head: its keys and values are read from the cache.
    blocks = tl.cdiv(queries, BLOCK_QUERIES)
    first = (tl.program_id(0) % blocks) * BLOCK_QUERIES
    head = ((tl.program_id(0) // blocks) % heads).to(tl.int64)
    batch = (tl.program_id(0) // blocks // heads).to(tl.int64)
    token = tl.arange(0, BLOCK_QUERIES)
    channel = tl.arange(0, PADDED)
    inside = (first + token < queries)[:, None] & (channel < WIDTH)[None, :]
    row = first.to(tl.int64) + token

    q_at = q + batch * q_batch + head * q_head + row[:, None] * q_token + channel[None, :]
    query = tl.load(q_at, mask=inside, other=0.0)
    state = (
        tl.zeros([BLOCK_QUERIES, PADDED], tl.float32),
        tl.full([BLOCK_QUERIES], float("-inf"), tl.float32),
        tl.zeros([BLOCK_QUERIES], tl.float32),
    )
    k_head_at, v_head_at = k + batch * k_batch + head * k_head, v + batch * v_batch + head * v_head
    state = _stream(state, query, k_head_at, v_head_at, keys, k_token, v_token, scale, WIDTH, PADDED, BLOCK_KEYS)
    if SECOND:
        k_head_at, v_head_at = k2 + batch * k2_batch + head * k2_head, v2 + batch * v2_batch + head * v2_head
        state = _stream(state, query, k_head_at, v_head_at, keys2, k2_token, v2_token, scale, WIDTH, PADDED, BLOCK_KEYS)
    attended, _, total = state
    attended = attended / total[:, None]
    if GATED:
        gate_at = gate + batch * gate_batch + head * gate_head + row[:, None] * gate_token
        opened = tl.load(gate_at + channel[None, :] * gate_channel, mask=inside, other=0.0).to(tl.float32)
        attended = attended * tl.sigmoid(opened)
    out_at = out + batch * out_batch + head * out_head + row[:, None] * out_token + channel[None, :]
    tl.store(out_at, attended.to(out.dtype.element_ty), mask=inside)


def _example(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Any:
    batch, tokens, heads, width = shape
    q, k, v = torch.randn(batch, tokens, 3, heads, width, dtype=dtype, device=device).unbind(2)
    return partial(_run, q=q, k=k, v=v, factor=width**-0.5, second=None, gate=None, out=None)


def _configuration(queries: int, keys: int, warps: int, stages: int) -> Configuration:
    return {"BLOCK_QUERIES": queries, "BLOCK_KEYS": keys, "num_warps": warps, "num_stages": stages}


def _default(width: int, dtype: torch.dtype) -> Configuration:
    """What fits into the registers of compute capability 8.0 and 9.0 (by the assembler's report)."""
    if dtype == torch.float32 and width > 32:
        return _configuration(32, 32, 8, 2)
    if dtype == torch.float32 or width > 128:
        return _configuration(64, 32, 8, 2)
    return _configuration(128, 64, 8, 3 if width <= 64 else 2)


#: Keyed by the shape of the queries.
ATTENTION = Tunable(
    "attention",
    default=_default(32, torch.bfloat16),
    candidates=[
        _configuration(queries, keys, warps, stages)
        for queries, warps in ((64, 4), (128, 4), (128, 8), (256, 8))
        for keys in (32, 64, 128)
        for stages in (2, 3)
    ],
    example=_example,
)
