"""Depthwise and pointwise convolution in one kernel against torch's two."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from support.kernels import DEVICE, LIMITS, on_triton, random, relative, torch

from ctfast.kernels.depthwise import DEPTHWISE, depthwise, in_order
from ctfast.kernels.reference.depthwise import depthwise as twin

F = torch.nn.functional


def torchs(x: Any, weight: Any, point: Any, bias: Any = None, point_bias: Any = None, silu: Any = None) -> torch.Tensor:
    """Torch's two convolutions, in float64."""
    first, second = (None if tensor is None else tensor.double() for tensor in (bias, point_bias))
    between = F.conv3d(x.double(), weight.double(), first, padding=1, groups=x.shape[1])
    between = between / (1 + torch.exp(-between)) if silu == "between" else between
    result = F.conv3d(between, point.double().reshape(*point.shape[:2], 1, 1, 1), second)
    return result / (1 + torch.exp(-result)) if silu == "behind" else result


@pytest.mark.parametrize(
    ("shape", "made"),
    [((1, 1, 1, 1, 1), 1), ((2, 16, 3, 5, 2), 16), ((1, 37, 2, 1, 7), 5), ((1, 3, 4, 4, 4), 70)],
)
def test_equals_torch(shape: tuple[int, ...], made: int) -> None:
    x, weight, point = random(*shape), random(shape[1], 1, 3, 3, 3, seed=1), random(made, shape[1], seed=2)
    with on_triton():
        found = depthwise(x, weight, point)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative(found, torchs(x, weight, point)) < LIMITS[torch.float32]
    assert relative(twin(x, weight, point), torchs(x, weight, point)) < LIMITS[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("silu", [None, "between", "behind"])
def test_biases_and_silu(dtype: torch.dtype, silu: Literal["between", "behind"] | None) -> None:
    x, weight = random(1, 10, 3, 2, 3, dtype=dtype), in_order(random(10, 1, 3, 3, 3, dtype=dtype, seed=1))
    point = random(6, 10, 1, 1, 1, dtype=dtype, seed=2)
    bias, point_bias = random(10, dtype=dtype, seed=3), random(6, dtype=dtype, seed=4)
    wanted = torchs(x, weight, point, bias, point_bias, silu)
    with on_triton():
        found = depthwise(x, weight, point, bias, point_bias, silu)
    assert found.dtype == dtype
    assert relative(found, wanted) < LIMITS[dtype]
    assert relative(twin(x, weight, point, bias, point_bias, silu), wanted) < LIMITS[dtype]


def test_candidates_run() -> None:
    run = DEPTHWISE.example((1, 2, 3, 1, 2, 4), torch.float32, DEVICE)
    with on_triton():
        assert all(run(config).shape == (1, 4, 3, 1, 2) for config in DEPTHWISE.candidates[::9])


def test_any_order_of_memory_and_a_part_of_a_tensor() -> None:
    x, weight, point = random(1, 4, 2, 3, 2).contiguous(), random(4, 1, 3, 3, 3, seed=1), random(4, 3, seed=2).t()
    assert torch.equal(in_order(weight), weight)
    assert in_order(weight).stride(0) == 1
    whole = torch.full((1, 5, 2, 3, 2), 7.0, device=DEVICE).contiguous(memory_format=torch.channels_last_3d)
    with on_triton():
        assert depthwise(x, weight.contiguous(), point, out=whole[:, 1:4]).shape == (1, 3, 2, 3, 2)
    assert relative(whole[:, 1:4], torchs(x, weight, point)) < LIMITS[torch.float32]
    assert bool((whole[:, [0, 4]] == 7).all())


def test_nan_reaches_its_neighbours_alone() -> None:
    x, weight, point = random(1, 2, 5, 1, 4), random(2, 1, 3, 3, 3, seed=1), random(3, 2, seed=2)
    x[0, 1, 0, 0, 3] = float("nan")
    with on_triton():
        lost = depthwise(x, weight, point).isnan()[0, 2, :, 0]
    wanted = torch.zeros(5, 4, dtype=torch.bool)
    wanted[:2, 2:] = True
    assert torch.equal(lost.cpu(), wanted)


def test_offsets_beyond_32_bits() -> None:
    """Batches, and voxels along x, further apart than 2^31 elements: read where memory is, no further."""
    x, weight, point = random(1, 2, 1, 2, 2), random(2, 1, 3, 3, 3, seed=1), random(2, 2, seed=2)
    far = x.as_strided(x.shape, (2**40, 1, 2**33, *x.stride()[3:]))
    with on_triton():
        assert relative(depthwise(far, weight, point), torchs(x, weight, point)) < LIMITS[torch.float32]


def test_refuses_what_does_not_fit() -> None:
    x, weight, point = random(1, 2, 2, 2, 2), random(2, 1, 3, 3, 3), random(3, 2)
    for match, arguments in {
        r"expected \[B, C, X, Y, Z\]": {"x": x[0]},
        "expected silu": {"silu": "before"},
        "expected depthwise weights": {"weight": weight[:1]},
        r"depthwise weights of torch\.float32": {"weight": weight.half()},
        "expected pointwise weights": {"point": random(3, 1)},
        "expected a bias": {"bias": random(3)},
        "expected a second bias": {"point_bias": random(2)},
        "without gaps": {"bias": random(4)[::2]},
        "expected a result": {"out": x},
        "stride 1 along the channels": {"out": torch.empty(1, 3, 2, 2, 2, device=DEVICE)},
    }.items():
        with pytest.raises(ValueError, match=match):
            depthwise(**{"x": x, "weight": weight, "point": point, **arguments})
