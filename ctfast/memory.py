"""Whether a generation fits into memory, asked before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from .errors import MemoryBudgetError
from .manifest import MemoryPeak, Size3

_GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that this process can still get: what the kernel calls available, within the container's limit.

    None where the system does not tell.
    """
    limits = [limit for limit in (_kernel_available(), _container_available(_CGROUP)) if limit is not None]
    return min(limits) if limits else None


def predicted_peak(peaks: Sequence[MemoryPeak], size: Size3) -> int | None:
    """Peak bytes of generating ``size``, from the plan's table; between its sizes, and beyond, by voxels."""
    if not peaks:
        return None
    known = sorted((prod(peak.size), peak.peak_bytes) for peak in peaks)
    voxels = prod(size)
    for count, peak_bytes in known:
        if count >= voxels:
            return peak_bytes
    count, peak_bytes = known[-1]
    return peak_bytes * voxels // count


def check_memory(peaks: Sequence[MemoryPeak], size: Size3, windowed: bool) -> None:
    """MemoryBudgetError if the plan predicts a higher peak than there is memory.

    The table holds for decoding the whole volume; windowed decoding needs less and is not refused.
    """
    needed, available = predicted_peak(peaks, size), available_bytes()
    if windowed or needed is None or available is None or needed <= available:
        return
    raise MemoryBudgetError(
        f"size {' x '.join(str(count) for count in size)} needs about {needed / _GIB:.1f} GiB of memory and "
        f"{available / _GIB:.1f} GiB are available. Ask for a smaller size, decode='windowed', or free memory"
    )


def _kernel_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _container_available(group: Path) -> int | None:
    """What control group v2 leaves; page cache counts as free, since the kernel drops it when memory runs short."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))
    except (OSError, ValueError, IndexError):
        return None
    return max(0, int(limit) - used + cache)
