"""Compression of image data, in large steps: gzip's file object takes several times as long."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import BinaryIO

# Level 1: intensities hardly shrink further, and higher levels take several times as long.
LEVEL = 1
_STEP = 4 << 20
_GZIP = 31  # zlib's number for a gzip header and trailer; the header then has neither a time nor a name


def write_gzip(file: BinaryIO, parts: Sequence[bytes]) -> None:
    """Write ``parts``, one after the other, as one gzip stream."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _STEP):
            file.write(packer.compress(view[start : start + _STEP]))
    file.write(packer.flush())
