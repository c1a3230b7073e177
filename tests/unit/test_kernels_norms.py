"""Group norm with SiLU, scale and shift with SiLU, sums per channel: Triton and twin against formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from support.kernels import DEVICE, LIMITS, on_triton, random, relative  # noqa: E402

from ctfast.kernels import channel_sums as sums_module  # noqa: E402
from ctfast.kernels.affine_silu import affine_silu  # noqa: E402
from ctfast.kernels.channel_sums import channel_sums, normalisation, slab_count  # noqa: E402
from ctfast.kernels.group_norm_silu import group_norm_silu  # noqa: E402
from ctfast.kernels.reference import affine_silu as affine_twin  # noqa: E402
from ctfast.kernels.reference import channel_sums as sums_twin  # noqa: E402
from ctfast.kernels.reference import group_norm_silu as norm_twin  # noqa: E402

#: Batch, channels, groups, voxels.
SHAPES = {
    "one voxel": (1, 8, 2, (1, 1, 1)),
    "primes": (1, 24, 4, (5, 3, 7)),
    "channels in two blocks": (1, 192, 4, (2, 3, 3)),
    "no whole block, groups of one": (2, 9, 9, (3, 2, 2)),
    "one group": (2, 40, 1, (3, 2, 5)),
    "several slabs": (1, 4, 2, (9, 5, 4)),
}
DTYPES = [torch.float32, torch.bfloat16]


def norm_formula(
    x: Any, groups: int, weight: Any, bias: Any, eps: float, silu: bool, shift: Any = None, second: Any = None
) -> Any:
    """In float64, written out."""
    values = (x if second is None else torch.cat([x, second], 1)).double()
    if shift is not None:
        values = values + shift.double()[:, :, None, None, None]
    rows = values.reshape(values.shape[0], groups, -1)
    rows = (rows - rows.mean(2, keepdim=True)) / (rows.var(2, correction=0, keepdim=True) + eps).sqrt()
    values = rows.reshape(values.shape)
    values = values * (1 if weight is None else weight.double()[:, None, None, None])
    values = values + (0 if bias is None else bias.double()[:, None, None, None])
    return values / (1 + (-values).exp()) if silu else values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_group_norm(name: str, dtype: Any) -> None:
    batch, channels, groups, size = SHAPES[name]
    x = random(batch, channels, *size, dtype=dtype) * 3 + 1
    weight, bias = random(channels, seed=1), random(channels, seed=2)
    shift = random(batch, channels, seed=3) if batch == 2 else None
    given = (x, groups, weight, bias, 1e-5, name != "primes", shift)
    wanted = norm_formula(*given)
    with on_triton():
        found = group_norm_silu(*given)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative(found, wanted) < LIMITS[dtype]
    assert relative(norm_twin.group_norm_silu(*given), wanted) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_two_tensors_side_by_side(dtype: Any) -> None:
    """With groups that have channels of both, in place of nothing and with one shift for all samples."""
    x, second = random(2, 16, 3, 4, 5, dtype=dtype), random(2, 8, 3, 4, 5, dtype=dtype, seed=1) + 2
    shift = random(1, 24, seed=2)
    given = (x, 4, random(24, seed=3), None, 1e-3, True, shift, second)
    wanted = norm_formula(*given)
    out = torch.empty_like(torch.cat([x, second], 1)).fill_(float("nan"))
    with on_triton():
        found = group_norm_silu(*given, out=out)
    assert found is out
    assert relative(found, wanted) < LIMITS[dtype]
    assert relative(norm_twin.group_norm_silu(*given), wanted) < LIMITS[dtype]


def test_a_mean_far_from_zero_costs_nothing() -> None:
    """Sums of squares in float32 would leave nothing of a variance 1e8 times smaller than the mean's square."""
    x = random(1, 8, 9, 8, 8) + 1e4
    exact = norm_formula(x, 4, None, None, 1e-5, False)
    with on_triton():
        assert relative(group_norm_silu(x, 4, None, None, 1e-5, False), exact) < 2e-3  # float32 has x itself to 1e-3
        sums, squares = channel_sums(x)
    assert relative(sums, x.double().sum((2, 3, 4))) < 1e-9
    assert relative(squares, x.double().square().sum((2, 3, 4))) < 1e-9


def test_in_place_and_non_finite() -> None:
    x = random(2, 8, 3, 3, 3)
    wanted = norm_formula(x, 4, None, None, 1e-5, True)
    x[1, 2, 1, 1, 1] = float("nan")
    x[0, 7, 0, 0, 0] = float("inf")
    with on_triton():
        found = group_norm_silu(x, 4, None, None, 1e-5, True, out=x)
    assert found is x
    assert found[1, 2:4].isnan().all()
    assert found[0, 6:].isnan().all()
    assert relative(found[0, :6], wanted[0, :6]) < 1e-5
    assert not found[1, :2].isnan().any()


def test_other_orders_of_memory_are_kept() -> None:
    """What is not channels last goes through plain torch, and gives what the kernel does."""
    x = random(1, 8, 3, 4, 5)
    with on_triton():
        wanted = group_norm_silu(x, 2, None, None, 1e-5, True)
        found = group_norm_silu(x.contiguous(), 2, None, None, 1e-5, True)
        part = affine_silu(x[:, ::2], torch.ones(1, 4, device=DEVICE), torch.zeros(1, 4, device=DEVICE), False)
    assert found.is_contiguous()
    assert relative(found, wanted) < 1e-6
    assert torch.equal(part, x[:, ::2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_affine(name: str, dtype: Any) -> None:
    batch, channels, _, size = SHAPES[name]
    x = random(batch, channels, *size, dtype=dtype)
    scale, shift = random(batch, channels, seed=1), random(batch, channels, seed=2).to(torch.float16)
    mask = torch.tensor([0.0, 1.0, 0.5] * 5, device=DEVICE)[: size[0]]
    values = x.double() * scale.double()[..., None, None, None] + shift.double()[..., None, None, None]
    values = values * torch.sigmoid(values) * mask.double()[:, None, None]
    with on_triton():
        found = affine_silu(x, scale, shift, True, mask)
    assert found.dtype == dtype
    assert relative(found, values) < LIMITS[dtype]
    assert relative(affine_twin.affine_silu(x, scale, shift, True, mask), values) < LIMITS[dtype]
    with on_triton():
        assert affine_silu(x, scale, shift, False, out=x) is x
    assert not relative(x, values) < 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_sums(name: str, dtype: Any) -> None:
    batch, channels, groups, size = SHAPES[name]
    x = random(batch, channels, *size, dtype=dtype) + 0.5
    wanted = [x.double().sum((2, 3, 4)), x.double().square().sum((2, 3, 4))]
    with on_triton():
        found = channel_sums(x)
    for values in (found, sums_twin.channel_sums(x)):
        assert all(each.dtype == torch.float64 for each in values)
        assert max(map(relative, values, wanted)) < 1e-6
    weight, bias = random(channels, seed=1), random(channels, seed=2)
    count = size[0] * size[1] * size[2]
    scale, shift = normalisation(*found, count, groups, weight, bias, 1e-5)
    exact = norm_formula(x, groups, weight, bias, 1e-5, True)
    with on_triton():
        assert relative(affine_silu(x, scale, shift, True), exact) < LIMITS[dtype]


def test_sums_are_as_in_the_core() -> None:
    """The same scale and shift as csrc/core/statistics.cc has of the same values: its formula, with numbers by hand."""
    sums, squares = torch.tensor([[4.0, 8.0]]).double(), torch.tensor([[10.0, 20.0]]).double()
    scale, shift = normalisation(sums, squares, 4, 1, torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0]), 0.25)
    # Mean 12 / 8, variance 30 / 8 - 2.25 = 1.5, root of 1.75.
    inverse = 1.75**-0.5
    torch.testing.assert_close(scale, torch.tensor([[2 * inverse, 3 * inverse]]))
    torch.testing.assert_close(shift, torch.tensor([[0.5 - 3 * inverse, -1 - 4.5 * inverse]]))


def test_slabs_cover_all_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slab_count(1, 1, 64) == 1
    assert slab_count(512**3, 2, 64) == 4096
    assert slab_count(65, 1, 64) == 2
    monkeypatch.setattr(sums_module, "_LONGEST", 70)
    monkeypatch.setattr(sums_module, "_PARTS", 1)
    assert slab_count(200, 1, 64) == 2
    x = random(1, 4, 8, 5, 5)
    with on_triton():
        sums, _ = channel_sums(x)
    assert relative(sums, x.double().sum((2, 3, 4))) < 1e-6


def test_what_does_not_fit_is_refused() -> None:
    x = random(2, 8, 2, 2, 2)
    vector = torch.ones(8, device=DEVICE)
    with pytest.raises(ValueError, match="8 channels are not 3 groups"):
        group_norm_silu(x, 3, None, None, 1e-5, True)
    with pytest.raises(ValueError, match=r"weight is to be \[8\], not \[4\]"):
        group_norm_silu(x, 2, vector[:4], None, 1e-5, True)
    with pytest.raises(ValueError, match=r"shift is to be \[2, 8\] or \[1, 8\], not \[8\]"):
        group_norm_silu(x, 2, None, None, 1e-5, True, vector)
    with pytest.raises(ValueError, match="second is to be"):
        group_norm_silu(x, 2, None, None, 1e-5, True, second=x[:1])
    with pytest.raises(ValueError, match="out is to be"):
        group_norm_silu(x, 2, None, None, 1e-5, True, second=x, out=torch.empty_like(x))
    with pytest.raises(ValueError, match=r"not \[2, 8\] of torch.float32"):
        channel_sums(x[:, :, 0, 0, 0])
    with pytest.raises(ValueError, match="of floats"):
        affine_silu(x.int(), vector[None], vector[None], True)
    with pytest.raises(ValueError, match=r"mask is to be \[2\]"):
        affine_silu(x, vector[None], vector[None], True, vector)
    with pytest.raises(ValueError, match="not 5 groups"):
        normalisation(*channel_sums(x), 8, 5, None, None, 1e-5)
