"""The memory of a torch device for the tensors between a program's stages: the runtime's ``Memory``.

The runtime handles addresses; here they are found again in the tensors that they belong to. Everything is put in the
order of the device's current stream, and nothing waits for it but ``totals``.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import MemoryBudgetError
from ..kernels.channel_sums import channel_sums

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "i64": torch.int64, "u8": torch.uint8}
# Copies of pieces are made in the widest of these that sizes and addresses are multiples of.
_WIDE = (torch.int64, torch.int32, torch.int16, torch.uint8)


class TorchMemory:
    """Memory of a device, by address."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._blocks: dict[int, Tensor] = {}
        self._starts: list[int] = []

    def allocate(self, count: int) -> int:
        """The address of ``count`` bytes; MemoryBudgetError if the device has not as many."""
        try:
            block = torch.empty(count, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            raise MemoryBudgetError(
                f"could not allocate {count} bytes on device '{self.device}'; ask for a smaller size or a smaller "
                "memory budget, or free memory"
            ) from error
        return self._held(block)

    def release(self, address: int) -> None:
        """Give a block back; what is queued on the stream may still use it."""
        del self._blocks[address]
        self._starts.remove(address)

    def put(self, tensor: Tensor) -> int:
        """The address of a contiguous tensor on the device, which is held until it is released."""
        return self._held(tensor.detach().view(-1).view(torch.uint8))

    def view(self, dtype: str, shape: Sequence[int], address: int) -> Tensor:
        """The tensor at an address."""
        kind = DTYPES[dtype]
        count = kind.itemsize
        for extent in shape:
            count *= extent
        return self._bytes(address, count).view(kind).view(*shape)

    def copy(self, target: int, target_stride: int, source: int, source_stride: int, width: int, count: int) -> None:
        """Copy ``count`` pieces of ``width`` bytes that begin ``stride`` bytes apart, and do not overlap."""
        if count == 1 or (target_stride == width and source_stride == width):
            self._bytes(target, width * count).copy_(self._bytes(source, width * count), non_blocking=True)
            return
        places = (target, target_stride, source, source_stride, width)
        kind = next(kind for kind in _WIDE if all(place % kind.itemsize == 0 for place in places))
        pieces = [
            self._bytes(address, stride * (count - 1) + width)
            .view(kind)
            .as_strided((count, width // kind.itemsize), (stride // kind.itemsize, 1))
            for address, stride in ((target, target_stride), (source, source_stride))
        ]
        pieces[0].copy_(pieces[1], non_blocking=True)

    def move(self, target: int, source: int, count: int) -> None:
        """Copy bytes that may overlap."""
        if target != source and count > 0:
            rows = self._bytes(source, count)
            self._bytes(target, count).copy_(rows.clone() if abs(target - source) < count else rows, non_blocking=True)

    def row_sums(self, channels: int) -> TorchSums:
        """Sums per channel, in float64 on the device."""
        return TorchSums(self, channels)

    def spilled_rows(self, rows: int, width: int) -> HostRows:
        """Rows in this computer's memory, page-locked where the device is another."""
        return HostRows(self, rows, width)

    def _held(self, block: Tensor) -> int:
        address = block.data_ptr()
        self._blocks[address] = block
        insort(self._starts, address)
        return address

    def _bytes(self, address: int, count: int) -> Tensor:
        start = self._starts[bisect_right(self._starts, address) - 1]
        offset = address - start
        return self._blocks[start][offset : offset + count]


class TorchSums:
    """Sums of a tensor's values and of their squares, per channel."""

    def __init__(self, memory: TorchMemory, channels: int) -> None:
        self._memory = memory
        self._totals = torch.zeros(2, channels, dtype=torch.float64, device=memory.device)

    def add(self, address: int, dtype: str, voxels: int) -> None:
        """Add values that lie at ``address``, channels last."""
        channels = self._totals.shape[1]
        values = self._memory.view(dtype, (1, voxels, 1, 1, channels), address)
        sums, squares = channel_sums(values.permute(0, 4, 1, 2, 3))
        self._totals[0] += sums[0]
        self._totals[1] += squares[0]

    def totals(self) -> tuple[list[float], list[float]]:
        """Sums and sums of squares; waits for the device."""
        sums, squares = self._totals.tolist()
        return sums, squares


class HostRows:
    """Rows of a tensor in this computer's memory."""

    def __init__(self, memory: TorchMemory, rows: int, width: int) -> None:
        self._memory = memory
        self._width = width
        self._rows = torch.empty(rows * width, dtype=torch.uint8, pin_memory=memory.device.type == "cuda")

    def write(self, first: int, count: int, address: int) -> None:
        """Put ``count`` rows from ``first`` on there, from the device."""
        start, size = first * self._width, count * self._width
        rows = self._memory.view("u8", (size,), address)
        self._rows[start : start + size].copy_(rows, non_blocking=True)

    def read(self, first: int, count: int, address: int) -> None:
        """Bring ``count`` rows from ``first`` on to the device."""
        start, size = first * self._width, count * self._width
        self._memory.view("u8", (size,), address).copy_(self._rows[start : start + size], non_blocking=True)
