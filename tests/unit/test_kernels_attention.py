"""Attention in Triton against its twin and torch's own: shapes, strides, two streams, gates, types, NaN."""

from __future__ import annotations

import pytest
from support.kernels import DEVICE, LIMITS, on_triton, random, relative, torch

from ctfast.kernels.attention import ATTENTION, _run, attention
from ctfast.kernels.reference.attention import attention as twin

TYPES = [torch.float32, torch.float16, torch.bfloat16]


def torchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Torch's scaled dot product attention, in float64."""
    heads_first = (tensor.double().transpose(1, 2) for tensor in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(*heads_first, scale=scale).transpose(1, 2)


def inputs(batch: int, queries: int, keys: int, heads: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    shapes = ((batch, queries, heads, width), (batch, keys, heads, width), (batch, keys, heads, width))
    return [random(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [32, 64, 128])
def test_equals_torch(dtype: torch.dtype, width: int) -> None:
    q, k, v = inputs(1, 130, 67, 2, width, dtype)
    with on_triton():
        found = attention(q, k, v)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert relative(found, torchs(q, k, v)) < LIMITS[dtype]
    assert relative(found, twin(q.float(), k.float(), v.float())) < LIMITS[dtype]
    assert relative(twin(q.float(), k.float(), v.float()), torchs(q, k, v)) < LIMITS[torch.float32]


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "width"),
    [(1, 1, 1, 1, 32), (2, 3, 130, 3, 32), (1, 131, 2, 1, 1), (2, 17, 64, 1, 24), (1, 5, 65, 1, 96), (1, 2, 3, 1, 129)],
)
def test_any_extents(batch: int, queries: int, keys: int, heads: int, width: int) -> None:
    q, k, v = inputs(batch, queries, keys, heads, width, torch.float32)
    with on_triton():
        found = attention(q, k, v, scale=0.3)
    assert relative(found, torchs(q, k, v, 0.3)) < LIMITS[torch.float32]


def test_reads_a_fused_projection_where_it_lies() -> None:
    fused = random(2, 70, 3 * 2 * 32)
    q, k, v = fused.view(2, 70, 3, 2, 32).unbind(2)
    assert not q.is_contiguous()
    into = torch.full((2, 70, 4, 32), float("nan"), device=DEVICE)[:, :, 1:3]
    with on_triton():
        found = attention(q, k, v, out=into)
    assert found is into
    assert relative(found, torchs(q, k, v)) < LIMITS[torch.float32]


def test_copies_what_has_no_neighbouring_channels() -> None:
    q, k, v = (random(1, 2, 32, 20, seed=seed).permute(0, 3, 1, 2) for seed in range(3))
    with on_triton():
        found = attention(q, k, v)
    assert relative(found, torchs(q, k, v)) < LIMITS[torch.float32]


@pytest.mark.parametrize("others", [1, 64, 70])
def test_one_softmax_over_two_streams(others: int) -> None:
    q, k, v = inputs(2, 33, 65, 2, 32, torch.float32)
    k2, v2 = random(2, others, 2, 32, seed=8), random(2, others, 2, 32, seed=9)
    wanted = torchs(q, torch.cat([k, k2], 1), torch.cat([v, v2], 1))
    with on_triton():
        found = attention(q, k, v, second=(k2, v2))
    assert relative(found, wanted) < LIMITS[torch.float32]
    assert relative(twin(q, k, v, second=(k2, v2)), wanted) < LIMITS[torch.float32]


@pytest.mark.parametrize("shape", [(2, 33, 2, 32), (2, 33, 2, 1), (33, 1, 32)])
def test_gate(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(2, 33, 20, 2, 32, torch.float32)
    gate = random(*shape, seed=5)
    wanted = torchs(q, k, v) / (1 + torch.exp(-gate.double()))
    with on_triton():
        found = attention(q, k, v, gate=gate)
    assert relative(found, wanted) < LIMITS[torch.float32]
    assert relative(twin(q, k, v, gate=gate), wanted) < LIMITS[torch.float32]


def test_great_scores_do_not_overflow() -> None:
    q, k, v = inputs(1, 9, 140, 1, 32, torch.float32)
    q, k = q * 100, k + torch.linspace(0, 50, 140, device=DEVICE).view(1, -1, 1, 1)
    with on_triton():
        found = attention(q, k, v)
    assert relative(found, torchs(q, k, v)) < 1e-4  # scores near 1e5 have that much of float32's rounding


def test_every_configuration_gives_the_same() -> None:
    q, k, v = inputs(1, 80, 150, 1, 32, torch.float32)
    wanted = torchs(q, k, v)
    blocks = {(config["BLOCK_QUERIES"], config["BLOCK_KEYS"]): config for config in ATTENTION.candidates}
    with on_triton():
        assert ATTENTION.example((1, 9, 2, 16), torch.float32, DEVICE)(ATTENTION.default).shape == (1, 9, 2, 16)
        for config in blocks.values():
            assert relative(_run(config, q, k, v, 32**-0.5, None, None, None), wanted) < LIMITS[torch.float32]


def test_nan_reaches_the_rows_it_should() -> None:
    q, k, v = inputs(1, 40, 70, 2, 32, torch.float32)
    q[0, 3, 0, 5] = float("nan")
    v[0, 69, 1, 7] = float("nan")
    with on_triton():
        lost = attention(q, k, v).isnan()
    assert bool(lost[0, 3, 0].all())
    assert bool(lost[0, :, 1, 7].all())
    assert int(lost.sum()) == 32 + 40


def test_offsets_beyond_32_bits() -> None:
    """Heads of one element's stride apart, and a batch whose stride is past 2^31: read where memory is, no further."""
    q, k, v = inputs(1, 4, 5, 1, 32, torch.float32)
    far = [tensor.as_strided(tensor.shape, (2**33, *tensor.stride()[1:])) for tensor in (q, k, v)]
    with on_triton():
        assert relative(attention(*far), torchs(q, k, v)) < LIMITS[torch.float32]


def test_refuses_what_does_not_fit() -> None:
    q, k, v = inputs(1, 4, 5, 2, 32, torch.float32)
    with pytest.raises(ValueError, match="expected queries"):
        attention(q[0], k, v)
    with pytest.raises(ValueError, match="expected keys and values"):
        attention(q, k[:, :, :1], v)
    with pytest.raises(ValueError, match="with one token or more"):
        attention(q, k[:, :0], v[:, :0])
    with pytest.raises(ValueError, match=r"keys and values of torch\.float32"):
        attention(q, k.half(), v.half())
    with pytest.raises(ValueError, match="a scale above 0"):
        attention(q, k, v, scale=-1.0)
    with pytest.raises(ValueError, match="a gate that expands"):
        attention(q, k, v, gate=v)
    with pytest.raises(ValueError, match="expected a result"):
        attention(q, k, v, out=q.half())
    with pytest.raises(ValueError, match="expected keys and values"):
        attention(q, k, v, second=(k, v[:, :3]))
