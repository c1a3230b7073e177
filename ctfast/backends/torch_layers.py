"""A graph of operations in which patterns are found and put one layer in the place of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

#: Which layer, and which of its outputs.
Slot = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """An operation of a graph; ``names`` are those of its outputs by port.

    ``shape`` is that of its first output, -1 where an extent is free. Layers that stand for several have an attribute
    "parts": what each of their inputs is, divided by commas.
    """

    number: int
    kind: str
    attributes: Mapping[str, str]
    inputs: tuple[Slot, ...]
    outputs: tuple[int, ...]
    names: Mapping[int, frozenset[str]]
    shape: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """The extent of the second axis, -1 where that is free or there is none."""
        return self.shape[1] if len(self.shape) > 1 else -1

    @property
    def slot(self) -> Slot:
        """Its first output."""
        return self.number, self.outputs[0]

    def part(self, name: str) -> Slot | None:
        """The input that "parts" calls ``name``."""
        names = self.attributes.get("parts", "").split(",")
        return self.inputs[names.index(name)] if name in names else None

    def with_part(self, name: str, slot: Slot) -> Layer:
        """With one more input."""
        parts = f"{self.attributes['parts']},{name}"
        return replace(self, inputs=(*self.inputs, slot), attributes={**self.attributes, "parts": parts})

    def with_attributes(self, **more: str) -> Layer:
        """With more attributes."""
        return replace(self, attributes={**self.attributes, **more})


class LayerGraph:
    """Layers by number, who reads whom, and what constants hold."""

    def __init__(self, layers: Sequence[Layer], values: Callable[[Layer], list[float]]) -> None:
        """Start from ``layers``; ``values`` gives those of a constant."""
        self.layers: dict[int, Layer] = {}
        self._rank = {layer.number: place for place, layer in enumerate(layers)}
        self._values = values
        self._readers: dict[Slot, dict[int, int]] = {}  # how often each layer reads a slot
        for layer in layers:
            self.put(layer)

    def of_kind(self, *kinds: str) -> list[Layer]:
        """The layers of some kinds, as they are now, first ones first."""
        found = [layer for layer in self.layers.values() if layer.kind in kinds]
        return sorted(found, key=lambda layer: self._rank[layer.number])

    def put(self, layer: Layer) -> None:
        """Add a layer, in the place of the one of its number if there is one."""
        self.drop(layer.number)
        self.layers[layer.number] = layer
        for slot in layer.inputs:
            readers = self._readers.setdefault(slot, {})
            readers[layer.number] = readers.get(layer.number, 0) + 1

    def drop(self, number: int) -> None:
        """Take a layer out."""
        gone = self.layers.pop(number, None)
        for slot in set(() if gone is None else gone.inputs):
            self._readers[slot].pop(number)

    def replace(self, gone: Sequence[Layer], one: Layer) -> None:
        """Put one layer in the place of several; the last of them has its number."""
        for layer in gone:
            self.drop(layer.number)
        self.put(one)

    def redirect(self, old: Slot, new: Slot) -> None:
        """Have those who read ``old`` read ``new``."""
        for number in list(self._readers.get(old, ())):
            layer = self.layers[number]
            self.put(replace(layer, inputs=tuple(new if slot == old else slot for slot in layer.inputs)))

    def new_number(self, place: Layer) -> int:
        """A number that no layer has, for one that is to be carried out about where ``place`` was."""
        number = max(self._rank) + 1
        self._rank[number] = self._rank[place.number]
        return number

    def source(self, slot: Slot) -> Layer:
        """The layer that a slot is of."""
        return self.layers[slot[0]]

    def readers(self, layer: Layer) -> list[Layer]:
        """Who reads a layer's first output."""
        return [self.layers[number] for number in self._readers.get(layer.slot, ())]

    def reader(self, layer: Layer | None, *kinds: str) -> Layer | None:
        """The layer that alone reads what ``layer`` gives, once, if it is of one of these kinds."""
        if layer is None or len(layer.outputs) != 1:
            return None
        found = self._readers.get(layer.slot, {})
        if list(found.values()) != [1]:
            return None
        (number,) = found
        return self.layers[number] if self.layers[number].kind in kinds else None

    def other(self, layer: Layer, slot: Slot) -> Slot:
        """What a layer of two inputs reads beside ``slot``."""
        (found,) = (each for each in layer.inputs if each != slot)
        return found

    def constant(self, slot: Slot) -> Layer | None:
        """The constant that a slot is of, also by way of a conversion (weights that are stored as float16)."""
        layer = self.source(slot)
        if layer.kind == "Convert":
            layer = self.source(layer.inputs[0])
        return layer if layer.kind == "Const" else None

    def numbers(self, slot: Slot) -> list[float] | None:
        """The values of a constant, or None if the slot is of none."""
        layer = self.source(slot)
        return self._values(layer) if layer.kind == "Const" else None

    def is_one(self, slot: Slot) -> bool:
        """Whether a slot is the constant 1."""
        constant = self.source(slot)
        return constant.kind == "Const" and math.prod(extents(constant)) == 1 and self._values(constant) == [1]

    def per_channel(self, layer: Layer, source: Layer, channels: int) -> Slot | None:
        """What a layer joins to the result of ``source``, if that is a constant with one value per channel."""
        if layer.inputs[0] == layer.inputs[1]:
            return None
        other = self.other(layer, source.slot)
        constant = self.constant(other)
        if constant is None:
            return None
        shape = extents(constant)
        return other if len(shape) in (4, 5) and shape[-4] == math.prod(shape) == channels else None

    def ordered(self) -> list[Layer]:
        """The layers, each behind those whose results it reads, and otherwise in the order they came in."""
        waiting = {number: {source for source, _ in layer.inputs} for number, layer in self.layers.items()}
        readers: dict[int, list[int]] = {}
        for number, sources in waiting.items():
            for source in sources:
                readers.setdefault(source, []).append(number)
        ready = [(self._rank[number], number) for number, sources in waiting.items() if not sources]
        heapify(ready)
        ordered = []
        while ready:
            _, number = heappop(ready)
            ordered.append(self.layers[number])
            for reader in readers.get(number, ()):
                waiting[reader].discard(number)
                if not waiting[reader]:
                    heappush(ready, (self._rank[reader], reader))
        return ordered


def extents(constant: Layer) -> list[int]:
    """The shape of a constant."""
    return [int(extent) for extent in constant.attributes["shape"].split(",") if extent.strip()]
