"""Tensors of more than 2^31 elements: the last program of each kernel finds its voxels. Memory that nothing touches is
never there, so a test needs little of it; only Triton's interpreter lets one program run by itself."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

from support.kernels import DEVICE, on_triton  # noqa: E402

from ctfast.kernels import affine_silu, channel_sums, dispatch, epilogue, phase_upsample, unpack_bits  # noqa: E402

CHANNELS = 64
VOXELS = (2, 2, 2**23 + 2)  # times 64 channels: above 2^31 elements
Last = Callable[[ModuleType], None]


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> Last:
    """Has a module launch no program but its kernels' last ones."""
    if DEVICE.type != "cpu" or not dispatch.INTERPRETED:
        pytest.skip("needs Triton's interpreter")
    from triton.runtime.interpreter import interpreter_builder

    def launch(kernel: Any, grid: Any, tensor: Any, *arguments: Any, **options: Any) -> None:
        place = (grid[0] - 1, grid[1] - 1, 0)
        monkeypatch.setattr(
            interpreter_builder, "set_grid_idx", lambda *_: setattr(interpreter_builder, "grid_idx", place)
        )
        kernel[(1, 1)](*arguments, **options)

    return lambda module: monkeypatch.setattr(module, "launch", launch)


def features(channels: int, size: tuple[int, ...]) -> tuple[Any, Any]:
    """Zeros, and their voxels, [voxels, channels]."""
    x = torch.empty(1, channels, *size, dtype=torch.bfloat16, memory_format=torch.channels_last_3d)
    assert x.numel() > 2**31
    return x, x.permute(0, 2, 3, 4, 1).reshape(-1, channels)


def test_elementwise(last: Last) -> None:
    x, rows = features(CHANNELS, VOXELS)
    rows[-1] = torch.arange(CHANNELS)
    last(epilogue)
    last(affine_silu)
    vector = torch.ones(1, CHANNELS)
    with on_triton():
        epilogue.epilogue(x, vector[0], residual=x, out=x)
        assert torch.equal(rows[-1].float(), 2.0 * torch.arange(CHANNELS) + 1)
        affine_silu.affine_silu(x, 2 * vector, -vector, False, torch.tensor([0.0, 0.5]), out=x)
    assert torch.equal(rows[-1].float(), (2.0 * torch.arange(CHANNELS) + 0.5).bfloat16().float())


def test_sums(last: Last) -> None:
    x, rows = features(CHANNELS, VOXELS)
    rows[-1] = torch.arange(CHANNELS)
    last(channel_sums)
    with on_triton():
        partial, _ = channel_sums.partial_sums(x)
    assert torch.equal(partial[0, 0, -1], torch.arange(CHANNELS).float())
    assert torch.equal(partial[0, 1, -1], torch.arange(CHANNELS).float() ** 2)


@pytest.mark.parametrize("phases", [1, 8])
def test_phases(phases: int, last: Last) -> None:
    small = tuple(extent // 2 + 1 for extent in VOXELS)
    made = torch.empty(1, phases * CHANNELS, *small, dtype=torch.bfloat16, memory_format=torch.channels_last_3d)
    made.permute(0, 2, 3, 4, 1).reshape(-1, phases * CHANNELS)[-1] = torch.arange(phases * CHANNELS)
    out, rows = features(CHANNELS, VOXELS)
    last(phase_upsample)
    with on_triton():
        phase_upsample.interleave(made, 7, None, None, out)
    # The last voxel is odd along all axes: it is of the last phase.
    assert torch.equal(rows[-1], made.permute(0, 2, 3, 4, 1).reshape(-1, phases * CHANNELS)[-1, -CHANNELS:])


def test_bits(last: Last) -> None:
    labels = torch.zeros(1, *VOXELS, dtype=torch.uint8)
    labels[0, -1, -1, -1] = 2
    kernel = torch.zeros(CHANNELS, 2, 3, 3, 3)
    kernel[:, 1, 1, 1, 1] = torch.arange(CHANNELS)
    last(unpack_bits)
    with on_triton():
        out = unpack_bits.unpack_bits(labels, kernel, dtype=torch.bfloat16)
    assert out.numel() > 2**31
    assert torch.equal(out[0, :, -1, -1, -1].float(), torch.arange(CHANNELS).float())
