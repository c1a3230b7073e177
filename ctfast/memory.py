"""How much memory there is, and how much of it a request may take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

from .errors import MemoryBudgetError, RequestError
from .manifest import MemoryPeak, Size3

_UNITS = {
    **{"": 1, "b": 1},
    **{"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40},
}
_CGROUP = Path("/sys/fs/cgroup")
# Of what is free: the system's other processes go on while a request runs.
_MARGIN = 0.05


def bytes_of(value: object) -> int:
    """Bytes from a whole number or from text such as "6GiB" or "800 MB"; RequestError if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
        if match is not None and match[2].lower() in _UNITS:
            count = int(float(match[1]) * _UNITS[match[2].lower()])
            if count > 0:
                return count
    raise RequestError(f"memory: expected bytes or text such as '6GiB' or '800 MB', found {value!r}")


def text_of(count: float) -> str:
    """Bytes in binary units, as in 6.0 GiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.1f} KiB" if count else "0"


def free_bytes() -> int | None:
    """What a request may take if nothing is said: what is available less a margin; None where nobody can tell."""
    available = available_bytes()
    return None if available is None else int(available * (1 - _MARGIN))


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


def check_table(peaks: Sequence[MemoryPeak], size: Size3, windowed: bool, budget: int | None) -> None:
    """MemoryBudgetError if a plan's table predicts more than ``budget`` for generating ``size``.

    For plans from before there were programs. The table holds for decoding the whole volume; windowed decoding needs
    less and is not refused.
    """
    needed = predicted_peak(peaks, size)
    if windowed or needed is None or budget is None or needed <= budget:
        return
    raise MemoryBudgetError(
        f"size {' x '.join(str(count) for count in size)} needs about {text_of(needed)} of memory and "
        f"{text_of(budget)} are available. Ask for a smaller size, decode='windowed', or free memory"
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
