"""Compiles kernels for a GPU on a machine that has none: what their launches would compile, down to machine code.

Triton's interpreter takes programs that its compiler refuses. Run as a process of its own, without TRITON_INTERPRET:
``python -m support.compile_kernels <module>:<function>``, where the function calls operations on CPU tensors; results
are not computed. It prints one line per kernel: name, registers spilled, bytes of shared memory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

TARGET = 90  # Hopper
_SHARED = 227 * 1024


def compile_launches(call: Any) -> list[str]:
    """Compile what ``call`` launches; a line about each different kernel and its constants."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    from ctfast import kernels
    from ctfast.kernels import dispatch

    lines: dict[str, str] = {}

    def launch(kernel: Any, grid: Sequence[int], tensor: Any, *arguments: Any, **options: Any) -> None:
        signature, constants, hints = {}, {}, {}
        given = dict(zip(kernel.arg_names, arguments, strict=False)) | {
            name: value for name, value in options.items() if name in kernel.arg_names
        }
        assert list(given) == kernel.arg_names, (list(given), kernel.arg_names)
        for index, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
            value = given[name]
            if parameter.is_constexpr or (isinstance(value, int) and value == 1):
                signature[name], constants[(index,)] = "constexpr", value
                continue
            signature[name] = mangle_type(value)
            aligned = value.data_ptr() % 16 == 0 if isinstance(value, torch.Tensor) else value % 16 == 0
            if aligned and not isinstance(value, float):
                hints[(index,)] = [["tt.divisibility", 16]]
        settings = {name: options[name] for name in ("num_warps", "num_stages") if name in options}
        key = f"{kernel.__name__} {sorted(map(str, constants.items()))} {signature} {settings}"
        if key in lines:
            return
        source = ASTSource(kernel, signature, constants, hints)
        compiled = triton.compile(source, target=GPUTarget("cuda", TARGET, 32), options=settings)
        assert compiled.metadata.shared <= _SHARED, (key, compiled.metadata.shared)
        lines[key] = f"{kernel.__name__} shared {compiled.metadata.shared}"

    modules = [module for name, module in sys.modules.items() if name.startswith(kernels.__name__ + ".")]
    for module in modules:
        for name, stand_in in (("launch", launch), ("available", lambda _: True)):
            if hasattr(module, name):
                setattr(module, name, stand_in)
    assert not dispatch.INTERPRETED
    call()
    return list(lines.values())


if __name__ == "__main__":
    where, _, name = sys.argv[1].partition(":")
    print("\n".join(compile_launches(getattr(import_module(where), name))))
