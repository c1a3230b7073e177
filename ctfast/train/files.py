"""What training writes: checkpoints, whole or not at all, and the log of a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from ctfast.errors import OutputError


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """``torch.save``, whole or not at all.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(dict(state), temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        if temporary.is_file():
            temporary.unlink()
        raise OutputError(f"{path}: could not be written ({error}); what was there before is unchanged") from error


class Log:
    """``log.jsonl`` and TensorBoard events in a folder; only the first rank writes."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = (folder / "log.jsonl").open("a") if rank == 0 else None
        self._events = SummaryWriter(str(folder)) if rank == 0 else None
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._started = time.perf_counter()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()

    def add(self, losses: Mapping[str, float]) -> None:
        """Take in the losses of one step."""
        self._steps += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def write_means(self, step: int, rate: float) -> None:
        """Write the means of the steps since the last call.

        A loss that some steps lack (the contrastive one, where a batch has no ROI) counts as zero there.
        """
        means = {name: total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        self._write({**means, "step": step, "rate": rate, "seconds": round(time.perf_counter() - self._started, 1)})
        self._plot(means | {"rate": rate}, step)

    def write_validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a validation, named ``val_...``."""
        self._write({"step": step, **{f"val_{name}": value for name, value in figures.items()}})
        self._plot({f"val/{name}": value for name, value in figures.items()}, step)

    def _write(self, entry: Mapping[str, float]) -> None:
        if self._file is not None:
            rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}
            self._file.write(json.dumps(rounded) + "\n")
            self._file.flush()

    def _plot(self, values: Mapping[str, float], step: int) -> None:
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
