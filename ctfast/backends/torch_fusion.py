"""Operations that torch does in one call, found in OpenVINO's graphs, where they are several.

A group norm is written as an enlarged batch norm would be: groups in front, mean and variance of each, back to the
shape it had, times a scale, plus a shift. A convolution's bias is an addition behind it. As one call each keeps the
order of its tensor's memory, and reads it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

#: Which layer, and which of its outputs.
Slot = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """An operation of a graph; ``names`` are those of its outputs by port.

    ``channels`` is the extent of its first output's second axis, -1 where that is free or there is none.
    """

    number: int
    kind: str
    attributes: Mapping[str, str]
    inputs: tuple[Slot, ...]
    outputs: tuple[int, ...]
    names: Mapping[int, frozenset[str]]
    channels: int = -1


def fused(layers: Sequence[Layer], whole: Callable[[Layer], list[int]]) -> list[Layer]:
    """The layers, in their order, with one for each group norm and for each convolution with its bias.

    Args:
        layers: Each behind those whose results it reads.
        whole: The values of a constant of whole numbers.
    """
    graph = _Graph(layers, whole)
    for layer in layers:
        if layer.kind == "MVN":
            graph.fuse_norm(layer)
        elif layer.kind == "Convolution":
            graph.fuse_bias(layer)
    return [graph.kept[layer.number] for layer in layers if layer.number in graph.kept]


class _Graph:
    def __init__(self, layers: Sequence[Layer], whole: Callable[[Layer], list[int]]) -> None:
        self.kept = {layer.number: layer for layer in layers}
        self._layers = dict(self.kept)
        self._whole = whole
        self._readers: dict[Slot, list[Layer]] = {}
        for layer in layers:
            for slot in layer.inputs:
                self._readers.setdefault(slot, []).append(layer)

    def fuse_norm(self, norm: Layer) -> None:
        """Put one layer in the place of the last of the five, if they are a group norm."""
        grouped = self._layers[norm.inputs[0][0]]
        back = self._reader(norm, "Reshape")
        scale = self._reader(back, "Multiply")
        shift = self._reader(scale, "Add")
        if grouped.kind != "Reshape" or back is None or scale is None or shift is None:
            return
        features = grouped.inputs[0]
        channels = self._layers[features[0]].channels
        factor, offset = self._per_channel(scale, back, channels), self._per_channel(shift, scale, channels)
        target, axes = self._numbers(grouped.inputs[1]), self._numbers(norm.inputs[1])
        if factor is None or offset is None or target is None or axes != list(range(2, len(target))):
            return
        groups = target[1]
        if target != [0, groups, -1, *[0] * (len(target) - 3)] or not self._undoes(back, features, target, channels):
            return
        attributes = {"num_groups": str(groups), "epsilon": norm.attributes["eps"]}
        kind = "GroupNormalization"
        one = replace(shift, kind=kind, attributes=attributes, inputs=(features, factor, offset))
        self._replace((grouped, norm, back, scale), one)

    def fuse_bias(self, convolution: Layer) -> None:
        """Put a convolution with a bias in the place of the addition, if one value per channel is added."""
        addition = self._reader(convolution, "Add")
        bias = None if addition is None else self._per_channel(addition, convolution, convolution.channels)
        if addition is None or bias is None:
            return
        one = replace(
            addition,
            kind=convolution.kind,
            attributes=convolution.attributes,
            inputs=(*convolution.inputs, bias),
        )
        self._replace((convolution,), one)

    def _replace(self, gone: Sequence[Layer], one: Layer) -> None:
        for layer in gone:
            del self.kept[layer.number]
        self.kept[one.number] = one

    def _undoes(self, back: Layer, features: Slot, target: list[int], channels: int) -> bool:
        """Whether a reshape gives the features' shape back to what another one gave the shape ``target``."""
        shape = self._layers[back.inputs[1][0]]
        if shape.kind == "ShapeOf":
            return shape.inputs[0] == features
        # The extents behind the first spatial one have stayed; the two before are told, and so the rest is one's.
        return len(target) > 3 and self._numbers(back.inputs[1]) == [0, channels, *target[2:]]

    def _numbers(self, slot: Slot) -> list[int] | None:
        constant = self._layers[slot[0]]
        return self._whole(constant) if constant.kind == "Const" else None

    def _reader(self, layer: Layer | None, kind: str) -> Layer | None:
        """The layer that alone reads what ``layer`` gives, if it is of that kind."""
        if layer is None:
            return None
        readers = self._readers.get((layer.number, layer.outputs[0]), [])
        return readers[0] if len(readers) == 1 and readers[0].kind == kind else None

    def _per_channel(self, layer: Layer, source: Layer, channels: int) -> Slot | None:
        """What a layer joins to the result of ``source``, if that is a constant with one value per channel."""
        (other,) = (slot for slot in layer.inputs if slot[0] != source.number)
        constant = self._layers[other[0]]
        if constant.kind == "Convert":  # weights that are stored as float16
            constant = self._layers[constant.inputs[0][0]]
        if constant.kind != "Const":
            return None
        shape = [int(extent) for extent in constant.attributes["shape"].split(",") if extent.strip()]
        return other if len(shape) in (4, 5) and shape[-4] == math.prod(shape) == channels else None
