"""What Triton's interpreter (3.6) lacks that kernels need; a GPU has it.

Loops over a number that is known only when a kernel runs: the interpreter keeps it as an array of one element, which
NumPy from 2.4 on makes no index of. Products of bfloat16 blocks: it multiplies their bit patterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_patch_tensor = interpreter._patch_lang_tensor
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


def fill() -> None:
    """Add both to the interpreter of this process. May be called again."""
    interpreter._patch_lang_tensor = _patch_tensor_and_index
    interpreter.InterpreterBuilder.create_dot = _dot
