"""What Triton's interpreter (3.6) lacks that kernels need; a GPU has it.

Loops over a number that is known only when a kernel runs: the interpreter keeps it as an array of one element, which
NumPy from 2.4 on makes no index of. Products of bfloat16 blocks: it multiplies their bit patterns. And speed: it puts
its own language in place once more for each call of a function within a kernel, which takes longer than the call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_patch_tensor = interpreter._patch_lang_tensor
_call = interpreter.InterpretedFunction.__call__
_create_dot = interpreter.InterpreterBuilder.create_dot


def _patch_tensor_and_index(tensor: Any, scope: Any) -> None:
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def _float32(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _dot(builder: Any, a: Any, b: Any, *others: Any) -> Any:
    return _create_dot(builder, _float32(a), _float32(b), *others)


def _call_within(function: Any, *arguments: Any, **options: Any) -> Any:
    if function.fn.__module__.startswith("ctfast."):  # the kernel's own module has been given the language
        return function.rewrite()(*arguments, **options)
    return _call(function, *arguments, **options)


def fill() -> None:
    """Add all three to the interpreter of this process. May be called again."""
    interpreter._patch_lang_tensor = _patch_tensor_and_index
    interpreter.InterpreterBuilder.create_dot = _dot
    interpreter.InterpretedFunction.__call__ = _call_within
