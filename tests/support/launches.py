"""Norms, elementwise operations and label bits in the variants that networks use, compiled for a GPU.

``python -m support.launches <capability>`` (from tests/, without TRITON_INTERPRET) prints as JSON what the kernels that
the functions below launch become; see ``kernel_compiler``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from ctfast.kernels import affine_silu, channel_sums, epilogue, group_norm_silu, phase_upsample, unpack_bits

from .kernel_compiler import Compiler, _Kernel, meta

_MODULES: tuple[Any, ...] = (affine_silu, channel_sums, epilogue, group_norm_silu, phase_upsample, unpack_bits)


def vector(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def norms() -> None:
    x, norm = meta(2, 64, 4, 4, 4), group_norm_silu.group_norm_silu
    norm(x, 32, vector(64), vector(64), 1e-5, True)
    norm(x, 32, None, None, 1e-5, False, vector(2, 96), meta(2, 32, 4, 4, 4))
    norm(meta(1, 24, 1, 1, 1, dtype=torch.float32), 4, vector(24), None, 1e-5, True)
    half, row = meta(1, 64, 4, 4, 4, dtype=torch.float16), vector(1, 64)
    affine_silu.affine_silu(half, row, row, True, vector(4))
    channel_sums.channel_sums(x)
    channel_sums.channel_sums(meta(1, 5, 1, 1, 1))


def elementwise() -> None:
    x = meta(2, 64, 4, 4, 4)
    epilogue.epilogue(x, vector(64), vector(2, 64), x, 0.5, True)
    epilogue.epilogue(meta(1, 24, 1, 1, 1, dtype=torch.float32), vector(24))
    epilogue.epilogue(x, None, vector(1, 64, dtype=torch.float16), None, 1.0, False, x)


def upsampling() -> None:
    out = meta(2, 16, 4, 6, 2)
    phase_upsample.interleave(meta(2, 128, 3, 4, 2), 0, vector(16), vector(2, 16), out)
    phase_upsample.interleave(meta(2, 16, 3, 4, 2), 5, None, None, out)


def bits() -> None:
    kernel = vector(8, 8, 3, 3, 3)
    unpack_bits.unpack_bits(vector(2, 5, 4, 3, dtype=torch.uint8), kernel, vector(8), True, torch.bfloat16)
    unpack_bits.unpack_bits(vector(1, 16, 16, 16, dtype=torch.int16), vector(40, 12, 3, 3, 3))


if __name__ == "__main__":
    compiler = Compiler(int(sys.argv[1]))
    for module in _MODULES:
        module.launch = lambda kernel, *others, **options: compiler(_Kernel(kernel), *others, **options)
        module.available = lambda _: True
    for function in (norms, elementwise, upsampling, bits):
        function()
    print(json.dumps(compiler.made))
