"""Whether what runs on a device is right, before it is timed: kernels against plain torch, networks against fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gpu_sides import Size3
from torch import Tensor

_LATENT = (16, 24, 8)


def kernel_errors(device: str) -> dict[str, float]:
    """Relative L2 of each operation in bf16 from its plain twin in float32; on the CPU the twins themselves in bf16."""
    return {name: _error(found, wanted) for name, found, wanted in _kernels(device)}


def backend_errors(plan: str | None, device: str, size: Size3) -> dict[str, float]:
    """Relative L2 from fp32 on the CPU, of this device's fp32 and bf16: a latent after four steps, an exact decode."""
    import ctfast

    def run(where: str, precision: str) -> tuple[Any, Any]:
        engine = ctfast.load(plan, device=where, backend="torch", precision=precision)
        channels = engine.manifest.latent.channels
        noise = np.random.default_rng(0).standard_normal((channels, *_LATENT)).astype(np.float32)
        return engine.sample_latent(size=size, steps=4, seed=0), engine.decode(noise).array.astype(np.float32)

    wanted = run("cpu", "fp32")
    figures = {}
    for precision in ("fp32", "bf16"):
        found = run(device, precision)
        for what, one, other in zip(("latent", "image"), found, wanted, strict=True):
            figures[f"{what} {precision}"] = _error(torch.from_numpy(one), torch.from_numpy(other))
    return figures


def _kernels(device: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, result in bf16, and what the twin makes of the same numbers in float32."""
    from ctfast.kernels import (
        affine_silu,
        attention,
        channel_sums,
        conv3d,
        epilogue,
        group_norm_silu,
        phase_upsample,
        trilinear_conv,
        unpack_bits,
    )
    from ctfast.kernels.reference import affine_silu as affine_silu_twin
    from ctfast.kernels.reference import attention as attention_twin
    from ctfast.kernels.reference import channel_sums as channel_sums_twin
    from ctfast.kernels.reference import conv3d as conv3d_twin
    from ctfast.kernels.reference import epilogue as epilogue_twin
    from ctfast.kernels.reference import group_norm_silu as group_norm_silu_twin
    from ctfast.kernels.reference import trilinear_conv as trilinear_conv_twin
    from ctfast.kernels.reference import unpack_bits as unpack_bits_twin

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator).to(device).bfloat16()
        return made.contiguous(memory_format=torch.channels_last_3d) if made.ndim == 5 else made

    def both(name: str, ours: Callable[..., Any], twin: Callable[..., Any], *given: Any) -> tuple[str, Tensor, Tensor]:
        wide = [each.float() if isinstance(each, Tensor) and each.is_floating_point() else each for each in given]
        return name, _first(ours(*given)), _first(twin(*wide))

    x, residual, y = random(2, 64, 12, 20, 9), random(2, 64, 12, 20, 9), random(1, 32, 6, 7, 5)
    vector, gains = random(64), random(2, 64)
    kernel, small = random(64, 64, 3, 3, 3) / 40, random(32, 32, 3, 3, 3) / 30
    group = (32, vector, vector, 1e-6, True)
    yield both("group_norm_silu", group_norm_silu.group_norm_silu, group_norm_silu_twin.group_norm_silu, x, *group)
    yield both("affine_silu", affine_silu.affine_silu, affine_silu_twin.affine_silu, x, gains, gains, True)
    yield both("epilogue", epilogue.epilogue, epilogue_twin.epilogue, x, vector, gains, residual)
    yield both("channel_sums", channel_sums.channel_sums, channel_sums_twin.channel_sums, x)
    yield both("conv3d", conv3d.conv3d, conv3d_twin.conv3d, x, kernel, vector)
    yield both("trilinear_conv", trilinear_conv.trilinear_conv, trilinear_conv_twin.trilinear_conv, y, small)
    merged = phase_upsample.merge_weights(small.float())
    wanted = torch.nn.functional.conv3d(
        torch.nn.functional.interpolate(y.float(), scale_factor=2.0, mode="nearest"), small.float(), padding=1
    )
    yield "phase_upsample", phase_upsample.phase_upsample(y, merged.bfloat16()), wanted
    for width in (32, 64, 128):
        tokens = [random(2, 300, 4, width) for _ in range(3)]
        yield both(f"attention {width}", attention.attention, attention_twin.attention, *tokens)
    labels = torch.randint(0, 200, (1, 12, 20, 9), generator=generator).to(device, torch.uint8)
    bits = random(16, 8, 3, 3, 3) / 10
    yield both("unpack_bits", unpack_bits.unpack_bits, unpack_bits_twin.unpack_bits, labels, bits)


def _first(result: Any) -> Tensor:
    found: Tensor = torch.cat([each.flatten() for each in result]) if isinstance(result, tuple) else result
    return found


def _error(found: Tensor, wanted: Tensor) -> float:
    apart = torch.linalg.vector_norm(found.double() - wanted.double()) / torch.linalg.vector_norm(wanted.double())
    return float(f"{float(apart):.3g}")
