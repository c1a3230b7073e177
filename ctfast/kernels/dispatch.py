"""Triton, where there is one, and whether a tensor's operation runs in it or in plain torch.

The only module that imports triton; kernels take ``tl``, ``jit`` and ``launch`` from here. Without triton these are
stand-ins: modules with kernels still load, and nothing in them runs but the twins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["INTERPRETED", "available", "channels_last", "interpreter_on_cpu", "jit", "launch", "tl", "triton"]

#: Whether kernels are run by triton's interpreter, on any device: TRITON_INTERPRET as triton reads it.
INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")

_ON_CPU: ContextVar[bool] = ContextVar("interpreter_on_cpu", default=False)


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit``, or the function as it is where there is no triton.

    Arguments are annotated ``tl.tensor`` (pointers and numbers) or ``tl.constexpr``: the compiler looks annotations up,
    and knows no names but those of ``tl``.
    """
    return function if triton is None else triton.jit(function)


def available(tensor: Tensor) -> bool:
    """Whether an operation on ``tensor`` runs in Triton: it is on a GPU, or within ``interpreter_on_cpu``."""
    return triton is not None and (tensor.is_cuda or _ON_CPU.get())


@contextmanager
def interpreter_on_cpu() -> Iterator[None]:
    """Within, tensors on the CPU take Triton's kernels too, by its interpreter: for tests, and slow.

    Raises:
        RuntimeError: Triton was imported without TRITON_INTERPRET=1, or there is none.
    """
    if not INTERPRETED:
        found = os.environ.get("TRITON_INTERPRET", "no value")
        raise RuntimeError(f"set TRITON_INTERPRET=1 before triton is imported (found {found} when asked)")
    token = _ON_CPU.set(True)
    try:
        yield
    finally:
        _ON_CPU.reset(token)


def launch(kernel: Any, grid: Sequence[int], tensor: Tensor, *arguments: Any, **options: Any) -> None:
    """Run a kernel over ``grid`` on the device of ``tensor``, in its current stream. An empty grid runs nothing."""
    if 0 in grid:
        return
    if tensor.is_cuda:
        with torch.cuda.device(tensor.device):
            kernel[tuple(grid)](*arguments, **options)
    else:
        kernel[tuple(grid)](*arguments, **options)


def channels_last(x: Tensor) -> bool:
    """Whether [B, C, X, Y, Z] lies voxel by voxel, each with its channels side by side and nothing between."""
    return x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
