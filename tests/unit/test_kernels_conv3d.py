"""The convolution kernel, both its ways, against torch's convolution and everything apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.kernels import DEVICE, LIMITS, on_triton, random, relative, torch

from ctfast.kernels import conv3d as module
from ctfast.kernels.conv3d import CONV3D, conv3d, conv3d_sums, faster
from ctfast.kernels.reference.conv3d import conv3d as twin

F = torch.nn.functional
#: Few programs where the default would take fewer still, so that blocks end within a tensor.
SMALL = {"BLOCK_VOXELS": 64, "BLOCK_OUT": 16, "BLOCK_IN": 16, "num_warps": 4, "num_stages": 2}


@contextmanager
def blocks(slide: bool) -> Iterator[None]:
    """Triton, with small blocks and one of the kernel's two ways."""
    with pytest.MonkeyPatch.context() as patch, on_triton():
        patch.setattr(module, "default", lambda *_: {**SMALL, "SLIDE": slide})
        yield


def torchs(x: Any, weight: Any, stride: int = 1, **more: Any) -> torch.Tensor:
    """Each part by itself, in float64."""
    parts = {name: value.double() for name, value in more.items() if isinstance(value, torch.Tensor)}
    given = x.double() if "second" not in parts else torch.cat([x.double(), parts["second"]], 1)
    if "scale" in parts:
        given = given * parts["scale"][:, :, None, None, None] + parts["shift"][:, :, None, None, None]
    if more.get("silu"):
        given = given / (1 + torch.exp(-given))
    result = F.conv3d(given, weight.double(), parts.get("bias"), stride, weight.shape[-1] // 2)
    if "embedding" in parts:
        result = result + parts["embedding"][:, :, None, None, None]
    return result + parts["residual"] if "residual" in parts else result


@pytest.mark.parametrize(
    ("slide", "shape", "made", "edge", "stride"),
    [
        (False, (1, 5, 3, 5, 7), 6, 3, 1),
        (True, (1, 5, 3, 5, 7), 6, 3, 1),
        (True, (2, 20, 2, 3, 11), 17, 3, 1),
        (True, (1, 1, 1, 1, 1), 1, 3, 1),
        (False, (1, 17, 1, 1, 1), 1, 3, 1),
        (False, (2, 3, 3, 4, 5), 4, 3, 2),
        (False, (1, 18, 3, 2, 13), 33, 1, 1),
        (True, (1, 3, 4, 5, 3), 2, 1, 2),
    ],
)
def test_equals_torch(slide: bool, shape: tuple[int, ...], made: int, edge: int, stride: int) -> None:
    x, weight = random(*shape), random(made, shape[1], edge, edge, edge, seed=1)
    wanted = torchs(x, weight, stride)
    with blocks(slide):
        found = conv3d(x, weight, stride=stride)
    assert found.shape == wanted.shape
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative(found, wanted) < LIMITS[torch.float32]
    assert relative(twin(x, weight, stride=stride), wanted) < LIMITS[torch.float32]


def everything(dtype: torch.dtype, edge: int = 3) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    batch, channels, others, made, extents = 2, 18, 5, 20, (3, 2, 5)
    more = {
        "bias": random(made, dtype=dtype, seed=2),
        "second": random(batch, others, *extents, dtype=dtype, seed=3),
        "scale": random(batch, channels + others, seed=4),
        "shift": random(batch, channels + others, seed=5) + 2,  # SiLU of it is far from what padding has to be
        "silu": True,
        "embedding": random(batch, made, dtype=dtype, seed=6),
        "residual": random(batch, made, *extents, dtype=dtype, seed=7),
    }
    x = random(batch, channels, *extents, dtype=dtype)
    return x, random(made, channels + others, edge, edge, edge, dtype=dtype, seed=1), more


@pytest.mark.parametrize(
    ("slide", "dtype"), [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16), (False, torch.float16)]
)
def test_all_that_goes_with_it(slide: bool, dtype: torch.dtype) -> None:
    x, weight, more = everything(dtype)
    wanted = torchs(x, weight, **more)
    with blocks(slide):
        found, sums, squares = conv3d_sums(x, weight, **more)
    assert found.dtype == dtype
    assert sums.dtype == squares.dtype == torch.float64
    assert relative(found, wanted) < LIMITS[dtype]
    assert relative(twin(x, weight, **more), wanted) < LIMITS[dtype]
    # Of the very values that are stored.
    assert relative(sums, found.double().sum((2, 3, 4))) < 1e-5
    assert relative(squares, found.double().square().sum((2, 3, 4))) < 1e-5


def test_scale_without_silu_and_silu_without_scale() -> None:
    x, weight, more = everything(torch.float32, edge=1)
    affine = {name: more[name] for name in ("second", "scale", "shift")}
    with blocks(False):
        for options in (affine, {"second": more["second"], "silu": True}):
            assert relative(conv3d(x, weight, **options), torchs(x, weight, **options)) < LIMITS[torch.float32]


@pytest.mark.parametrize(("edge", "stride"), [(1, 1), (1, 2), (3, 1)])
def test_sums_of_several_blocks_and_volumes(edge: int, stride: int) -> None:
    """63 voxels: one block of the plain way, two of the other, which only 3^3 with stride 1 takes."""
    x = random(2, 2, 63 * stride, 1, 1) + torch.tensor([0.0, 5.0], device=DEVICE).view(2, 1, 1, 1, 1)
    with blocks(True):
        found, sums, squares = conv3d_sums(x, random(3, 2, edge, edge, edge, seed=1), stride=stride)
    assert relative(sums, found.double().sum((2, 3, 4))) < 1e-5
    assert relative(squares, found.double().square().sum((2, 3, 4))) < 1e-5


def test_candidates_run() -> None:
    run = CONV3D.example((1, 3, 2, 2, 2, 4, 1, 1), torch.float32, DEVICE)
    rival = CONV3D.rival
    assert rival is not None
    with on_triton():
        for config in CONV3D.candidates[::4]:
            assert run(config).shape == rival((1, 3, 2, 2, 2, 4, 1, 1), torch.float32, DEVICE)().shape


def test_any_order_of_memory() -> None:
    x, weight = random(1, 4, 3, 2, 5).contiguous(), random(3, 4, 3, 3, 3, seed=1).contiguous()
    strange = weight.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    part = random(1, 9, 3, 2, 5, seed=3)[:, 2:5]
    with blocks(True):
        assert relative(conv3d(x, weight), torchs(x, weight)) < LIMITS[torch.float32]
        assert relative(conv3d(x, strange), torchs(x, weight)) < LIMITS[torch.float32]
        wanted = torchs(x, weight, residual=part)
        assert conv3d(x, weight, residual=part, out=part) is part  # in place
    assert relative(part, wanted) < LIMITS[torch.float32]


@pytest.mark.parametrize("slide", [False, True])
def test_nan_reaches_its_neighbours_alone(slide: bool) -> None:
    x, weight = random(1, 2, 1, 4, 5), random(1, 2, 3, 3, 3, seed=1)
    x[0, 1, 0, 1, 4] = float("nan")
    with blocks(slide):
        lost = conv3d(x, weight).isnan()[0, 0, 0]
    wanted = torch.zeros(4, 5, dtype=torch.bool)
    wanted[0:3, 3:5] = True
    assert torch.equal(lost.cpu(), wanted)


def test_offsets_beyond_32_bits() -> None:
    """Batches, and voxels along x, further apart than 2^31 elements: read where memory is, no further."""
    x, weight = random(1, 2, 1, 2, 3), random(2, 2, 3, 3, 3, seed=1)
    far = x.as_strided(x.shape, (2**40, 1, 2**33, *x.stride()[3:]))
    with blocks(True):
        assert relative(conv3d(far, weight), torchs(x, weight)) < LIMITS[torch.float32]


def test_no_table_says_no() -> None:
    with on_triton():
        assert faster(random(1, 1, 1, 1, 1), random(1, 1, 3, 3, 3)) is False


def test_refuses_what_does_not_fit() -> None:
    x, weight = random(1, 2, 2, 2, 2), random(3, 2, 3, 3, 3)
    for match, arguments in {
        r"expected \[B, C, X, Y, Z\]": {"x": x[0]},
        "expected a second input": {"second": x[:, :, :1]},
        "expected kernels of": {"stride": 3},
        "expected weights": {"weight": random(3, 1, 3, 3, 3)},
        r"weights of torch\.float32": {"weight": weight.half()},
        "a scale and a shift, found one": {"scale": random(1, 2)},
        "expected a shift": {"scale": random(1, 2), "shift": random(1, 3)},
        r"a scale of torch\.float32": {"scale": random(1, 2).half(), "shift": random(1, 2)},
        "expected a bias": {"bias": random(2)},
        "expected an embedding": {"embedding": random(3)},
        "expected a residual": {"residual": x},
        "expected a result": {"out": x},
        "stride 1 along the channels": {"out": torch.empty(1, 3, 2, 2, 2, device=DEVICE)},
    }.items():
        with pytest.raises(ValueError, match=match):
            conv3d(**{"x": x, "weight": weight, **arguments})
    with pytest.raises(ValueError, match=r"fewer than 2\^31 voxels"):
        conv3d(x[:, :, :1, :1, :1].expand(1, 2, 2**11, 2**10, 2**10), weight)
