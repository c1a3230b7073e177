"""Compiles Triton kernels for GPUs that are not there, from the very calls that would run them.

``python -m support.kernel_compiler <module> <capability>`` (from tests/, without TRITON_INTERPRET) runs CASES[module]
on tensors of torch's device "meta", which have shapes and no memory, compiles what each would launch, and prints as
JSON what the assembler says of it. Types that do not fit and too much shared memory are errors here as on a GPU. The
arguments of kernels are annotated as tl.tensor and tl.constexpr: the compiler refuses names such as Any.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
#: Most shared memory a block may have, by compute capability: CUDA's programming guide, "Compute Capabilities".
_SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448}
_TYPES = {
    **{torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"},
    **{torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32"},
}
_OPTIONS = ("num_warps", "num_stages")


class Compiler:
    """Stands in for ctfast.kernels.dispatch.launch; keeps what was compiled."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.made: list[dict[str, Any]] = []

    def __call__(self, kernel: Any, grid: Sequence[int], tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
        names = kernel.arg_names
        values = dict(zip(names, arguments, strict=False)) | {k: v for k, v in options.items() if k not in _OPTIONS}
        signature, constants, attributes = {}, {}, {}
        for place, name in enumerate(names):
            value = values[name]
            if name in kernel.constexprs_by_name or value is None or (type(value) is int and value == 1):
                signature[name], constants[(place,)] = "constexpr", value
                continue
            signature[name] = _signature(value)
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel.jit, signature, constants, attributes)
        target = GPUTarget("cuda", self.capability, 32)
        chosen = {name: options[name] for name in _OPTIONS if name in options}
        compiled = triton.compile(source, target=target, options=chosen)
        shared = compiled.metadata.shared
        if shared > _SHARED[self.capability]:
            raise MemoryError(f"{kernel.jit.__name__} wants {shared} bytes of shared memory on {self.capability}")
        entry = {"kernel": kernel.jit.__name__, "programs": list(grid), "shared": shared}
        self.made.append(entry | _resources(compiled) | {"wgmma": "wgmma" in compiled.asm["ptx"]})


class _Kernel:
    def __init__(self, function: Any) -> None:
        self.jit = function
        self.arg_names = function.arg_names
        self.constexprs_by_name = {function.arg_names[place] for place in function.constexprs}


def _signature(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _resources(compiled: Any) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([_TOOL, what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("-res-usage", "-sass")
        )
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    stack = found["STACK"] + found["LOCAL"]
    return {"registers": found["REG"], "stack": stack, "spills_in_loops": _spills_in_loops(code)}


def _spills_in_loops(code: str) -> int:
    """How many instructions between a branch back and its target load or store registers that did not fit."""
    lines = [(int(address, 16), text) for address, text in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?);", code)]
    loops = []
    for address, text in lines:
        target = re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < address:  # one to itself ends a program
            loops.append((int(target[1], 16), address))
    spills = [address for address, text in lines if re.search(r"\b(LDL|STL)\b", text)]
    return sum(any(first <= address <= last for first, last in loops) for address in spills)


def compiled(module: str, capability: int, run: Callable[[Any], object]) -> list[dict[str, Any]]:
    """What ``run(module)`` would launch, compiled."""
    kernels = import_module(f"ctfast.kernels.{module}")
    compiler = Compiler(capability)
    # trilinear_conv launches by conv3d.
    import_module("ctfast.kernels.conv3d").launch = kernels.launch = lambda kernel, *others, **options: compiler(
        _Kernel(kernel), *others, **options
    )
    run(kernels)
    return compiler.made


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without memory; five axes in channels-last order."""
    values = torch.empty(*shape, dtype=dtype, device="meta")
    return values.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else values


def _attention(kernels: Any) -> None:
    q, k, v = meta(1, 4096, 3, 8, 32).unbind(2)
    kernels._run(kernels._default(32, q.dtype), q, k, v, 0.2, None, None, None)
    q, k, v = meta(2, 100, 3, 8, 96, dtype=torch.float16).unbind(2)
    kernels._run(kernels._default(96, q.dtype), q, k, v, 0.2, (k, v), meta(2, 100, 8, 1, dtype=q.dtype), None)


def _conv3d(kernels: Any) -> None:
    shape, weight = (1, 64, 64, 64, 64), meta(64, 192, 3, 3, 3)
    x, x2, partial_sums = meta(1, 128, 64, 64, 64), meta(1, 64, 64, 64, 64), meta(0, dtype=torch.float32)
    slides = kernels.default(64, x.dtype)
    kernels.run(slides, shape, x, weight, second=x2, partial_sums=partial_sums)
    before = [meta(1, 192, dtype=torch.float32)] * 2
    plain = {**slides, "SLIDE": False}
    kernels.run(plain, shape, x, weight, meta(64), 1, x2, *before, True, meta(1, 64), meta(*shape))


def _trilinear_conv(kernels: Any) -> None:
    x, folded = meta(1, 128, 64, 64, 64), meta(8, 128, 3, 3, 3, 128).permute(0, 1, 5, 2, 3, 4)
    kernels.run(kernels.default(128, x.dtype), (1, 128, 128, 128, 128), x, folded, meta(128), phases=8)
    part = folded[:, :64]
    kernels.run(kernels.default(64, x.dtype), (1, 64, 128, 128, 128), x, part, meta(64), phases=8)


def _depthwise(kernels: Any) -> None:
    x, weight, point = meta(1, 64, 64, 64, 64), kernels.in_order(meta(64, 1, 3, 3, 3)), meta(128, 64)
    kernels._run(kernels.default(x.dtype), x, weight, point, meta(64), meta(128), "between")


CASES: dict[str, Callable[[Any], None]] = {
    "attention": _attention,
    "conv3d": _conv3d,
    "depthwise": _depthwise,
    "trilinear_conv": _trilinear_conv,
}

if __name__ == "__main__":
    print(json.dumps(compiled(sys.argv[1], int(sys.argv[2]), CASES[sys.argv[1]])))
