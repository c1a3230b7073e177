"""What tests of ctfast.kernels share: a device that runs Triton, tensors in the kernels' order, and how far apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

from ctfast.kernels import dispatch  # noqa: E402

from . import interpreter_gaps  # noqa: E402

interpreter_gaps.fill()

#: A GPU where there is one, else the CPU with Triton's interpreter (tests/conftest.py).
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on a GPU too

#: Limits of the relative L2 error against the same formula in float64 or float32, by type.
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@contextmanager
def on_triton() -> Iterator[None]:
    """Within, operations run in Triton."""
    if DEVICE.type == "cpu" and not dispatch.INTERPRETED:
        pytest.skip("triton was imported without TRITON_INTERPRET=1, and there is no GPU")
    with nullcontext() if DEVICE.type == "cuda" else dispatch.interpreter_on_cpu():
        yield


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal values on the device; five axes in channels-last order."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)
    return values.contiguous(memory_format=torch.channels_last_3d) if values.ndim == 5 else values


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative L2 distance, in float64."""
    difference = found.double() - wanted.double()
    return float(difference.norm() / wanted.double().norm().clamp_min(1e-30))
