"""gzip on several threads: zlib, on one, takes longer over a large volume than its last layers take to decode."""

from __future__ import annotations

import os
from typing import Protocol

from isal import igzip_threaded

# Of ISA-L's 0 to 3: on CT a fiftieth larger than zlib's level 1 and several times as fast.
LEVEL = 2
# What one thread compresses at a time. The bytes depend on it, so it is no setting.
BLOCK = 1 << 20
# More would wait for the one thread that writes.
_MOST_THREADS = 4


class Sink(Protocol):
    """What compressed bytes go to."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Append all of ``data``."""

    def flush(self) -> None:
        """Hand what was written on."""


class GzipStream:
    """Compresses what is written to it into ``file``, which stays open.

    The bytes depend on the data alone: not on time or name, nor on how many threads there are or how the data were cut
    into calls of ``write``. OSErrors of ``file`` come out of a later ``write`` or of ``close``.
    """

    def __init__(self, file: Sink, threads: int | None = None) -> None:
        """``threads``: how many compress; None for as many as are of use and this process may have."""
        count = min(_MOST_THREADS, len(os.sched_getaffinity(0))) if threads is None else threads
        self._stream = igzip_threaded.open(file, "wb", compresslevel=LEVEL, threads=count, block_size=BLOCK)
        self._rest = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Compress bytes (contiguous memory of any format)."""
        view = memoryview(data).cast("B")
        if self._rest:
            taken = BLOCK - len(self._rest)
            self._rest += view[:taken]
            view = view[taken:]
            if len(self._rest) < BLOCK:
                return
            self._stream.write(self._rest)
            self._rest = bytearray()
        whole = len(view) - len(view) % BLOCK
        for start in range(0, whole, BLOCK):
            self._stream.write(view[start : start + BLOCK])
        self._rest += view[whole:]

    def close(self) -> None:
        """Compress what is left and write the trailer; the threads end even if that fails."""
        try:
            self._stream.write(self._rest)
        finally:
            self._rest = bytearray()
            self._stream.close()
