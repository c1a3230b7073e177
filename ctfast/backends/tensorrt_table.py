"""What lies beside an engine in a plan: its axes, its limits, and which bytes of ``model.bin`` are its weights."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Types of weights as tables name them, and what TensorRT calls them.
TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int64": 8, "int32": 4, "bool": 1}

#: An axis of an input: its extent, or the name of a free one and the factor it is a multiple of.
Axis = int | tuple[str, int]


@dataclass(frozen=True)
class Weight:
    """Where an engine's weights are in ``model.bin``, and the order of axes and type that the engine takes them in."""

    offset: int
    dtype: str
    shape: tuple[int, ...]
    permutation: tuple[int, ...] | None
    type: str

    def array(self, data: Any) -> NDArray[Any]:
        """The weights as the engine takes them; bf16 as its bits, uint16. ``data`` is the buffer of ``model.bin``."""
        flat = np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<"), math.prod(self.shape), self.offset)
        shaped = flat.reshape(self.shape)
        if self.permutation is not None:
            shaped = shaped.transpose(self.permutation)
        if self.type == "bf16":
            return bfloat16_bits(np.ascontiguousarray(shaped, np.float32))
        return np.ascontiguousarray(shaped, np.float16 if self.type == "fp16" else np.float32)


@dataclass(frozen=True)
class Table:
    """An engine's table; docs/plan_format.md has its keys."""

    graph: str
    axes: Mapping[str, tuple[Axis, ...]]
    limits: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    weights: Mapping[str, Weight]
    constants: Mapping[str, tuple[str, str]]

    def values(self, name: str, data: Any) -> tuple[str, NDArray[Any]]:
        """Type and values of one of the engine's weights; KeyError or ValueError if ``data`` does not have it."""
        if name in self.weights:
            return self.weights[name].type, self.weights[name].array(data)
        kind, text = self.constants[name]
        return kind, np.frombuffer(base64.b64decode(text), f"V{_BYTES[kind]}")

    def to_json(self) -> bytes:
        """As it is in a plan."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Table:
        """The inverse; ValueError, KeyError or TypeError for what is none."""
        value = json.loads(text)
        return cls(
            str(value["graph"]),
            {
                name: tuple(axis if isinstance(axis, int) else (str(axis[0]), int(axis[1])) for axis in axes)
                for name, axes in value["axes"].items()
            },
            {name: (tuple(low), tuple(high)) for name, (low, high) in value["limits"].items()},
            {
                name: Weight(
                    entry["offset"],
                    entry["dtype"],
                    tuple(entry["shape"]),
                    None if entry["permutation"] is None else tuple(entry["permutation"]),
                    entry["type"],
                )
                for name, entry in value["weights"].items()
            },
            {name: (str(kind), str(text)) for name, (kind, text) in value["constants"].items()},
        )

    def problem(self, shapes: Mapping[str, Sequence[int]]) -> str | None:
        """Which of these shapes the engine does not take, or None."""
        for name, shape in shapes.items():
            low, high = self.limits[name]
            if len(shape) != len(low) or any(not a <= n <= b for n, a, b in zip(shape, low, high, strict=True)):
                return f"input '{name}' has shape {list(shape)}, and its engine takes {list(low)} to {list(high)}"
        return None

    def shape(self, name: str, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """The shape of an input that nobody gave, from those that were given."""
        roots = {
            axis[0]: extent // axis[1]
            for given, shape in shapes.items()
            for axis, extent in zip(self.axes[given], shape, strict=True)
            if not isinstance(axis, int)
        }
        return tuple(axis if isinstance(axis, int) else roots[axis[0]] * axis[1] for axis in self.axes[name])


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 rounded to the nearest bfloat16, ties to even; NumPy has no such type. Weights are finite."""
    bits = np.atleast_1d(values).view(np.uint32).reshape(values.shape)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
