"""What follows a convolution, doubled grids and label bits: Triton and twin against torch's own operations."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from support.kernels import DEVICE, LIMITS, on_triton, random, relative  # noqa: E402

from ctfast.kernels import phase_upsample as phase_module  # noqa: E402
from ctfast.kernels.epilogue import epilogue  # noqa: E402
from ctfast.kernels.phase_upsample import merge_weights, phase_upsample  # noqa: E402
from ctfast.kernels.reference import epilogue as epilogue_twin  # noqa: E402
from ctfast.kernels.unpack_bits import unpack_bits  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16]
#: With a bias, an embedding, a residual, SiLU: every pair of them, with and without.
PARTS = [parts for parts in product((False, True), repeat=4) if sum(parts) != 1 or parts[0]]
SIZES = {"one voxel": (1, 1, 1), "primes": (5, 3, 7), "a line": (1, 1, 9)}


def spread(vector: Any) -> Any:
    return vector.double().reshape(-1, vector.shape[-1], 1, 1, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_epilogue(parts: tuple[bool, ...], dtype: Any) -> None:
    has_bias, has_embedding, has_residual, silu = parts
    x = random(2, 12, 3, 4, 5, dtype=dtype)
    bias = random(12, seed=1) if has_bias else None
    embedding = random(2, 12, seed=2).to(dtype) if has_embedding else None
    residual = random(2, 12, 3, 4, 5, dtype=dtype, seed=3) if has_residual else None
    wanted = x.double() + (0 if bias is None else spread(bias)) + (0 if embedding is None else spread(embedding))
    wanted = wanted * 0.5 + (0 if residual is None else residual.double())
    wanted = wanted * torch.sigmoid(wanted) if silu else wanted
    given = (bias, embedding, residual, 0.5, silu)
    kept = x.clone()
    with on_triton():
        found = epilogue(x, *given)
        assert torch.equal(x, kept)
        in_place = epilogue(x, *given, out=x)
    assert in_place is x
    assert torch.equal(found, x)
    assert found.dtype == dtype
    assert relative(found, wanted) < LIMITS[dtype]
    twin = epilogue_twin.epilogue(kept, *given)
    assert twin is not kept
    assert relative(twin, wanted) < LIMITS[dtype]
    if residual is not None:
        assert epilogue_twin.epilogue(kept, *given, out=residual) is residual
        assert torch.equal(residual, twin)


@pytest.mark.parametrize("channels", [1, 37, 192])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_epilogue_of_edge_shapes(size: tuple[int, ...], channels: int) -> None:
    x, embedding = random(2, channels, *size), random(1, channels, seed=1)
    with on_triton():
        found = epilogue(x, embedding=embedding)
    assert relative(found, x.double() + spread(embedding)) < 1e-6


def test_a_wider_residual() -> None:
    """What a ControlNet gives in float32 does not widen features in 16 bits."""
    x, residual = random(1, 8, 2, 3, 4, dtype=torch.bfloat16), random(1, 8, 2, 3, 4, seed=1)
    with on_triton():
        found = epilogue(x, residual=residual)
    for result in (found, epilogue_twin.epilogue(x, residual=residual)):
        assert result.dtype == torch.bfloat16
        assert relative(result, x.double() + residual.double()) < 5e-3


def test_non_finite_values_and_other_orders() -> None:
    x = random(1, 8, 2, 3, 4)
    x[0, 3, 1, 1, 1] = float("nan")
    with on_triton():
        found = epilogue(x.contiguous(), torch.ones(8, device=DEVICE), silu=True)
        wanted = epilogue(x, torch.ones(8, device=DEVICE), silu=True)
    assert found.is_contiguous()
    assert int(wanted.isnan().sum()) == 1
    torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("together", [True, False], ids=["all phases at once", "phase by phase"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_doubled_grid(size: tuple[int, ...], dtype: Any, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every voxel, borders too, against the repeated grid and the kernel as it was."""
    if not together:
        monkeypatch.setattr(phase_module, "_MOST", 0)
    x, kernel = random(2, 4, *size, dtype=dtype), random(6, 4, 3, 3, 3, seed=1) / 10
    bias, embedding = random(6, seed=2), random(2, 6, seed=3)
    wanted = F.conv3d(F.interpolate(x.double(), scale_factor=2, mode="nearest"), kernel.double(), padding=1)
    wanted = wanted + spread(bias) + spread(embedding)
    order = {"memory_format": torch.channels_last_3d}
    merged = merge_weights(kernel).to(dtype).contiguous(**order)
    given = (x, merged, bias, embedding)
    with on_triton():
        found = phase_upsample(*given)
        out = phase_upsample(*given, out=torch.full_like(found, float("nan"), **order))
    for result in (found, out, phase_upsample(*given)):
        assert result.dtype == dtype
        assert relative(result, wanted) < LIMITS[dtype]
    assert out.is_contiguous(**order)
    assert relative(phase_upsample(x, merged), wanted - spread(bias) - spread(embedding)) < LIMITS[dtype]


def test_merged_weights_have_all_of_the_kernel() -> None:
    kernel = random(3, 2, 3, 3, 3)
    merged = merge_weights(kernel).reshape(8, 3, 2, 8)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.sum(3), kernel.sum((2, 3, 4)).expand(8, 3, 2), atol=1e-5, rtol=0)
    # Phase 6 is odd in x and y: its first voxel along z meets the first tap alone, and two of x and of y.
    torch.testing.assert_close(merged[6, :, :, 0], kernel[:, :, :2, :2, 0].sum((2, 3)))


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [(torch.uint8, torch.bfloat16), (torch.uint16, torch.float32), (torch.int32, torch.float32)],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_bits_of_labels(size: tuple[int, ...], labels: Any, dtype: Any) -> None:
    bits = {torch.uint8: 8, torch.uint16: 10, torch.int32: 3}[labels]
    kernel, bias = random(5, bits, 3, 3, 3), random(5, seed=1)
    values = torch.randint(0, 2 ** min(bits, 16), (2, *size), generator=torch.Generator().manual_seed(0))
    values.flatten()[0] = 2 ** min(bits, 16) - 1
    planes = torch.stack([values // 2**bit % 2 for bit in range(bits)], 1).to(DEVICE)
    wanted = F.silu(F.conv3d(planes.double(), kernel.double(), bias.double(), padding=1))
    given = (values.to(DEVICE).to(labels), kernel, bias, True, dtype)
    with on_triton():
        found = unpack_bits(*given)
    for result in (found, unpack_bits(*given)):
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=torch.channels_last_3d)
        assert relative(result, wanted) < LIMITS[dtype]


def test_bits_without_bias_of_a_view() -> None:
    kernel = random(2, 1, 3, 3, 3)
    values = torch.randint(0, 2, (1, 6, 4, 8), dtype=torch.uint8, device=DEVICE)[:, ::2]
    with on_triton():
        found = unpack_bits(values, kernel)
    assert relative(found, F.conv3d(values[:, None].float(), kernel, padding=1)) < 1e-5


def test_what_does_not_fit_is_refused() -> None:
    x = random(2, 8, 2, 2, 2)
    with pytest.raises(ValueError, match=r"residual is to be \[2, 8, 2, 2, 2\], not \[1, 8"):
        epilogue(x, residual=x[:1])
    with pytest.raises(ValueError, match=r"bias is to be \[8\], not \[1\]"):
        epilogue(x, torch.ones(1, device=DEVICE))
    with pytest.raises(ValueError, match=r"kernel is to be \[C out, C in, 3, 3, 3\], not \[2, 8, 2, 2, 2\]"):
        merge_weights(x)
    with pytest.raises(ValueError, match=r"merged is to be \[8 \* channels, 8, 2, 2, 2\]"):
        phase_upsample(x, x)
    with pytest.raises(ValueError, match="out is to be"):
        phase_upsample(x, random(16, 8, 2, 2, 2), out=x)
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ValueError, match=r"uint8, uint16, int16 or int32, not .* of torch\.int64"):
        unpack_bits(labels.long(), random(8, 8, 3, 3, 3))
    with pytest.raises(ValueError, match="1 to 16 bits"):
        unpack_bits(labels, random(8, 17, 3, 3, 3))
    with pytest.raises(ValueError, match=r"not torch\.float64"):
        unpack_bits(labels, random(8, 8, 3, 3, 3).double())
