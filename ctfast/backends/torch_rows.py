"""A program's finished rows on their way from the device to this computer, the next ones being computed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import cuda
from ..errors import RequestError
from .torch_updates import stream_of

Take = Callable[[int, NDArray[Any]], object]
Convert = Callable[[int, Tensor], Tensor]

_INT16 = torch.iinfo(torch.int16)


class HostSink:
    """Gives rows to ``take``, in order, as arrays that are valid during the call; ``flush`` gives the last ones."""

    def __init__(self, take: Take, convert: Convert) -> None:
        """``convert(first, rows)``: what to do to rows on the device first."""
        self._take, self._convert = take, convert
        self._buffers: list[Tensor | None] = [None, None]
        self._waiting: tuple[int, Tensor, Any] | None = None

    def __call__(self, first: int, rows: Tensor) -> None:
        """Rows [rows, y, x, channels] from ``first`` on; they may be written over once what is queued is done."""
        result = self._convert(first, rows)
        if not result.is_cuda:
            self._take(first, result.numpy())
            return
        buffer = self._buffer(result)
        buffer.copy_(result, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self.flush()
        self._waiting = (first, buffer, done)

    def flush(self) -> None:
        """Wait for what is on its way, and hand it on."""
        if self._waiting is not None:
            first, buffer, done = self._waiting
            self._waiting = None
            done.synchronize()
            self._take(first, buffer.numpy())

    def _buffer(self, rows: Tensor) -> Tensor:
        """Page-locked memory in which nothing waits."""
        self._buffers.reverse()
        kept = self._buffers[0]
        if kept is None or kept.numel() < rows.numel() or kept.dtype != rows.dtype:
            kept = torch.empty(rows.numel(), dtype=rows.dtype, pin_memory=True)
            self._buffers[0] = kept
        return kept[: rows.numel()].view(rows.shape)


@dataclass
class Intensities:
    """The decoder's rows as int16, as csrc/core/epilogue.cc makes them of a whole image.

    ``low`` and ``high`` are infinite where there is no limit. ``labels`` (z, y, x): where they are 0 the voxel is
    ``air``.
    """

    scale: float
    offset: float
    low: float
    high: float
    air: int
    labels: NDArray[np.uint16] | None = None
    _bad: Tensor | None = None
    _voxels: int = 0

    def __call__(self, first: int, rows: Tensor) -> Tensor:
        """[rows, y, x, 1] to [rows, y, x]."""
        image = rows[..., 0]
        self._voxels += image.numel()
        inside = None if self.labels is None else np.ascontiguousarray(self.labels[first : first + len(image)] != 0)
        return self._by_kernel(image, inside) if cuda.serves(image) else self._by_torch(image, inside)

    def _by_torch(self, image: Tensor, inside: NDArray[np.bool_] | None) -> Tensor:
        finite = torch.isfinite(image)
        bad = (~finite).sum()
        self._bad = bad if self._bad is None else self._bad + bad
        value = torch.where(finite, image, 0.0) * self.scale + self.offset
        low, high = max(self.low, _INT16.min), min(self.high, _INT16.max)
        result = value.clamp(low, high).round().to(torch.int16)
        if inside is not None:
            result.masked_fill_(~torch.from_numpy(inside).to(result.device), self.air)
        return result

    def _by_kernel(self, image: Tensor, inside: NDArray[np.bool_] | None) -> Tensor:
        """The same in one pass over the image."""
        if self._bad is None:
            self._bad = torch.zeros(1, dtype=torch.int64, device=image.device)
        result = torch.empty(image.shape, dtype=torch.int16, device=image.device)
        cuda.intensities(
            image,
            result,
            self._bad,
            scale=self.scale,
            offset=self.offset,
            low=self.low,
            high=self.high,
            air=self.air,
            labels=None if inside is None else torch.from_numpy(inside).to(image.device),
            stream=stream_of(image),
        )
        return result

    def check(self) -> None:
        """RequestError if voxels were not finite."""
        bad = 0 if self._bad is None else int(self._bad)
        if bad:
            raise RequestError(
                f"expected finite intensities from the decoder, found {bad} of {self._voxels} voxels that are NaN or "
                "infinite; check the weights and the latent, or use a plan of higher precision"
            )
