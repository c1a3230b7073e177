"""A process for each side of a comparison: its own libraries, threads and memory; only one works at a time."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class Side:
    """A pipeline in a process of its own; methods are called by name."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        """``name`` is "monai" or "ctfast" and the precision."""
        context = multiprocessing.get_context("spawn")
        kind, dtype = name.split()
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind), name=self.name, daemon=True)
        self._process.start()
        theirs.close()
        self.load_seconds: float = self.call("load", folder, dtype, threads)

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the pipeline; RuntimeError with its traceback if it raises."""
        self._pipe.send((method, arguments, options))
        done, result = self._pipe.recv()
        if not done:
            raise RuntimeError(f"{self.name}: {method} failed\n{result}")
        return result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()


def limit_threads(threads: int) -> None:
    """For this process and its children; to be called before the libraries are loaded that read these."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)


def run_apart(function: Any, *arguments: Any) -> Any:
    """Call a function in a process that ends with it, so that what it loads does not stay in memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _serve(pipe: Connection, kind: str) -> None:
    pipeline: Any
    if kind == "monai":
        from peer.pipeline import MonaiPipeline

        pipeline = MonaiPipeline()
    else:
        from ours import CtfastPipeline

        pipeline = CtfastPipeline()
    while True:
        try:
            method, arguments, options = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(pipeline, method)(*arguments, **options)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
