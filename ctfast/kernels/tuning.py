"""Launch configurations of kernels: measured ones in tables, sane ones where there is none.

A table is a JSON file, tables/<device>.json: what was measured with, and ``{"<operation>": {"<dtype>": {"<bucket>":
configuration}}}``. A bucket is a shape with every extent rounded up to a power of two, such as "1x64x128x128x128".
Nothing is measured while a network runs: ``python -m ctfast.kernels.tune`` makes tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

#: Block sizes, warps and stages by the names that the kernel takes them by; what is not a number is a decision.
Configuration = Mapping[str, int | bool]

#: The default, and what is tried, of operations that read and write tiles of voxels and channels once.
TILE: Configuration = {"BLOCK_V": 64, "BLOCK_C": 64, "num_warps": 4}
TILES: Sequence[Configuration] = [
    {"BLOCK_V": block_v, "BLOCK_C": block_c, "num_warps": warps}
    for block_v in (16, 32, 64, 128)
    for block_c in (32, 64, 128)
    for warps in (4, 8)
]

_FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Tunable:
    """An operation whose configuration can be measured.

    ``example`` makes inputs of a shape and type on a device, and returns what runs the operation once with a
    configuration. ``rival`` does so for what the operation competes with (cuDNN, say); where there is one, tables say
    ``"use": true`` for the shapes at which the operation is faster, and false for the others.
    """

    name: str
    default: Configuration
    candidates: Sequence[Configuration]
    example: Callable[[Sequence[int], torch.dtype, torch.device], Callable[[Configuration], object]]
    rival: Callable[[Sequence[int], torch.dtype, torch.device], Callable[[], object]] | None = None


def bucket(shape: Iterable[int]) -> str:
    """A shape's key: every extent rounded up to a power of two."""
    return "x".join(str(1 << max(int(extent) - 1, 0).bit_length()) for extent in shape)


def type_name(dtype: torch.dtype) -> str:
    """ "bfloat16" and so on, as tables have it."""
    return str(dtype).removeprefix("torch.")


def file_name(device: str) -> str:
    """The table's file of a device, by its name: "NVIDIA H200" is in nvidia-h200.json."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


def table_path(device: str) -> Path:
    """Where the package has, or would have, a device's table."""
    return _FOLDER / file_name(device)


def configuration(tunable: Tunable, x: Tensor, shape: Sequence[int] | None = None) -> Configuration:
    """The table's configuration for ``x`` on its device, over the default's values; the default where it has none.

    Args:
        tunable: The operation.
        x: A tensor of the operation's device and type.
        shape: What the table's key is made of, by default the tensor's shape.
    """
    if not x.is_cuda:
        return tunable.default
    table = _table(torch.cuda.get_device_name(x.device))
    found = table.get(tunable.name, {}).get(type_name(x.dtype), {}).get(bucket(x.shape if shape is None else shape))
    return tunable.default if found is None else {**tunable.default, **found}


@lru_cache
def _table(device: str) -> Mapping[str, Any]:
    try:
        text = table_path(device).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    entries: Mapping[str, Any] = json.loads(text)["operations"]
    return entries


def tune(
    tunable: Tunable, shapes: Iterable[Sequence[int]], dtype: torch.dtype, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Measure every candidate at every shape: the fastest one's configuration by bucket.

    Candidates that the device refuses (too much shared memory, say) are left out.

    Raises:
        RuntimeError: No candidate ran.
    """
    table = {}
    for shape in shapes:
        run = tunable.example(shape, dtype, device)
        times: list[tuple[float, Configuration]] = []
        refused: Exception | None = None
        for candidate in (tunable.default, *tunable.candidates):
            try:
                times.append((_milliseconds(partial(run, candidate)), candidate))
            except Exception as error:  # triton's own kinds, and torch's when memory is short
                refused = error
        if not times:
            raise RuntimeError(f"{tunable.name}: no configuration runs at {tuple(shape)}") from refused
        best, winner = min(times, key=lambda each: each[0])
        entry: dict[str, Any] = {**winner}
        if tunable.rival is not None:
            entry["use"] = best < _milliseconds(tunable.rival(shape, dtype, device))
        table[bucket(shape)] = entry
    return table


def _milliseconds(run: Callable[[], object], warm_up: int = 3, repeats: int = 15) -> float:
    """The median time of one run on the device, by CUDA events."""
    for _ in range(warm_up):
        run()
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)
