"""The usual reasons for which TensorRT builds no engine, in words that help."""

from __future__ import annotations

import re

#: What TensorRT says, and what it means.
_REASONS = (
    (
        r"2147483647|INT32_MAX|2\^31|exceed\w* the (maximum|limit).*(volume|elements|dimension)|too many elements",
        "a tensor has more elements than TensorRT can count (2^31). Build a plan whose largest size is smaller; for "
        "decoding, the stages take volumes in slabs",
    ),
    (
        r"out of memory|OutOfMemory|insufficient (memory|workspace)|memory allocation|cudaErrorMemoryAllocation",
        "the GPU has too little memory for it, or --memory allows too little. Give more with --memory, free the GPU of "
        "other processes, or build a plan whose largest size is smaller",
    ),
    (
        r"could not find any implementation|no implementation",
        "TensorRT found no way to compute a node, which mostly means that --memory allows it too little. Give more, or "
        "leave --memory out; if that does not help, try --engine-precision fp32",
    ),
    (
        r"unsupported SM|compute capability|no kernel image|CUDA initialization failure|insufficient.*driver",
        "this TensorRT does not run on this GPU or driver. Install versions that fit (NVIDIA's support matrix)",
    ),
)


def explained(text: str) -> str:
    """TensorRT's words, and before them what they mean and what to do, if they are some of the usual ones."""
    meaning = next((told for pattern, told in _REASONS if re.search(pattern, text, re.IGNORECASE)), None)
    return text if meaning is None else f"{meaning}. TensorRT's words: {text}"
