"""Trilinear enlargement and convolution in one: exact everywhere, borders and single voxels too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.kernels import DEVICE, LIMITS, on_triton, random, relative, torch

from ctfast.kernels import trilinear_conv as module
from ctfast.kernels.reference.trilinear_conv import trilinear_conv as twin
from ctfast.kernels.trilinear_conv import TRILINEAR_CONV, faster, fold, trilinear_conv

F = torch.nn.functional
#: One program where the default would take several: the interpreter's time goes with their number.
SMALL = {"BLOCK_VOXELS": 64, "BLOCK_OUT": 16, "BLOCK_IN": 16, "num_warps": 4, "num_stages": 2}


@contextmanager
def blocks(slide: bool) -> Iterator[None]:
    """Triton, with small blocks and one of the kernel's two ways."""
    with pytest.MonkeyPatch.context() as patch, on_triton():
        patch.setattr(module, "default", lambda *_: {**SMALL, "SLIDE": slide})
        yield


def torchs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Torch's two operations, in float64."""
    large = F.interpolate(x.double(), scale_factor=2, mode="trilinear", align_corners=False)
    return F.conv3d(large, weight.double(), None if bias is None else bias.double(), padding=1)


def test_folded_weights_are_exact_inside() -> None:
    x, weight = random(1, 3, 5, 6, 4).double(), random(2, 3, 3, 3, 3, seed=1).double()
    wanted = torchs(x, weight)
    around = F.pad(x, [1] * 6, mode="replicate")
    for phase, folded in enumerate(fold(weight)):
        found = F.conv3d(around, folded)
        part = wanted[:, :, phase >> 2 :: 2, (phase >> 1) & 1 :: 2, phase & 1 :: 2]
        low = [1 if phase & bit == 0 else 0 for bit in (4, 2, 1)]  # the outermost voxels meet the padding
        inner = [slice(first, extent - 1 + first) for first, extent in zip(low, x.shape[2:], strict=True)]
        index = (slice(None), slice(None), *inner)
        torch.testing.assert_close(found[index], part[index], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("slide", "shape"),
    [(False, (1, 3, 3, 2, 5)), (True, (1, 3, 5, 4, 5)), (True, (2, 1, 1, 1, 1)), (True, (1, 20, 2, 1, 3))],
)
def test_equals_torch(slide: bool, shape: tuple[int, ...]) -> None:
    x, weight, bias = random(*shape), random(5, shape[1], 3, 3, 3, seed=1), random(5, seed=2)
    wanted = torchs(x, weight, bias)
    with blocks(slide):
        found = trilinear_conv(x, weight, bias, fold(weight))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative(found, wanted) < LIMITS[torch.float32]
    assert float((found - wanted).abs().max()) < 1e-4  # no border voxel is hidden in the whole's norm
    assert relative(twin(x, weight, bias), wanted) < LIMITS[torch.float32]


@pytest.mark.parametrize(("slide", "dtype"), [(False, torch.bfloat16), (True, torch.float16), (True, torch.bfloat16)])
def test_sixteen_bits(slide: bool, dtype: torch.dtype) -> None:
    x, weight = random(1, 8, 2, 3, 2, dtype=dtype), random(4, 8, 3, 3, 3, dtype=dtype, seed=1)
    with blocks(slide):
        found = trilinear_conv(x, weight)
    assert found.dtype == dtype
    assert relative(found, torchs(x, weight)) < LIMITS[dtype]


def test_writes_into_a_part_of_a_tensor() -> None:
    x, weight = random(1, 2, 2, 2, 2), random(3, 2, 3, 3, 3, seed=1)
    whole = torch.full((1, 5, 4, 4, 4), 7.0, device=DEVICE).contiguous(memory_format=torch.channels_last_3d)
    with blocks(True):
        found = trilinear_conv(x, weight, out=whole[:, 1:4])
    assert relative(found, torchs(x, weight)) < LIMITS[torch.float32]
    assert bool((whole[:, [0, 4]] == 7).all())


def test_nan_stays_where_it_is_seen() -> None:
    x, weight = random(1, 1, 5, 1, 1), random(1, 1, 3, 3, 3, seed=1)
    x[0, 0, 0] = float("nan")
    with blocks(True):
        lost = trilinear_conv(x, weight).isnan()[0, 0]
    # Voxel 0 reaches 0 and 1 of the enlarged tensor and a quarter of 2, and the convolution one further.
    assert bool(lost[:3].all())
    assert not bool(lost[5:].any())


def test_candidates_run() -> None:
    shape = (1, 2, 1, 1, 2, 3)
    rival = TRILINEAR_CONV.rival
    assert rival is not None
    with on_triton():
        found = TRILINEAR_CONV.example(shape, torch.float32, DEVICE)(TRILINEAR_CONV.candidates[-1])
    assert found.shape == rival(shape, torch.float32, DEVICE)().shape


def test_no_table_says_no() -> None:
    x, weight = random(1, 1, 1, 1, 1), random(1, 1, 3, 3, 3)
    with blocks(True):
        assert faster(x, weight) is False


def test_refuses_what_does_not_fit() -> None:
    x, weight = random(1, 2, 2, 2, 2), random(3, 2, 3, 3, 3)
    with pytest.raises(ValueError, match="expected weights"):
        trilinear_conv(x, weight[..., :1])
    with pytest.raises(ValueError, match=r"expected \[B, 2, X, Y, Z\]"):
        trilinear_conv(x[:, :1], weight)
    with pytest.raises(ValueError, match="expected folded weights"):
        trilinear_conv(x, weight, folded=weight)
    with pytest.raises(ValueError, match="a bias"):
        trilinear_conv(x, weight, weight)
    with pytest.raises(ValueError, match=r"weights of torch\.float32"):
        trilinear_conv(x, weight.half())
    with pytest.raises(ValueError, match="stride 1 along the channels"):
        trilinear_conv(x, weight, out=torch.empty(1, 3, 4, 4, 4, device=DEVICE))
