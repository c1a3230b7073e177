"""Volumes on their way into files, row by row; a row is all voxels of one z."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_STEP = 16 << 20  # bytes that are brought into a file's order at a time
_LINES = 4  # lines of a row that are copied at a time out of an array of another order; what they touch stays cached


class RowStream(Protocol):
    """What takes rows in order."""

    def write(self, rows: NDArray[Any]) -> None:
        """Write rows (z, y, x), those that follow the ones before."""

    def close(self) -> None:
        """Write what is left."""


def contiguous(rows: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of rows (z, y, x), x fastest, some at a time, so that no array is copied as a whole."""
    step = max(1, _STEP // max(1, rows[:1].nbytes))
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        if not block.flags.c_contiguous:
            block = np.empty(block.shape, block.dtype)
            copy_rows(rows[first : first + step], block)
        yield block.reshape(-1).view(np.uint8).data


def copy_rows(rows: NDArray[Any], out: NDArray[Any]) -> None:
    """Copy rows (z, y, x) of any order and type into an array with x fastest."""
    step = max(1, _STEP // max(1, out[:1].nbytes))
    for first in range(0, len(rows), step):
        for line in range(0, rows.shape[1], _LINES):
            out[first : first + step, line : line + _LINES] = rows[first : first + step, line : line + _LINES]


class BackgroundRows:
    """Writes rows on a thread of its own, so that who computes them goes on.

    The thread opens the stream too, and closes it in any case. Its error is raised by the next ``put`` or ``finish``.
    """

    def __init__(self, open_stream: Callable[[], RowStream]) -> None:
        self._open = open_stream
        self._queue: queue.SimpleQueue[NDArray[Any] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ctfast-rows", daemon=True)
        self._thread.start()

    def put(self, rows: NDArray[Any]) -> None:
        """Have rows (z, y, x) written after those before; they must not change until ``finish``."""
        if self._error is not None:
            self.finish()
        self._queue.put(rows)

    def finish(self) -> None:
        """Wait until everything is written."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End the thread; what it has not written stays unwritten, and its error untold."""
        self._abandoned.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            stream = self._open()
            try:
                while (rows := self._queue.get()) is not None and not self._abandoned.is_set():
                    stream.write(rows)
            finally:
                stream.close()
        except BaseException as error:
            self._error = error
