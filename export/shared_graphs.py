"""Further graphs over a network's weights: IR files whose constants lie in the network's ``model.bin``."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ctfast.export.openvino import fingerprint
from ctfast.export.tensors import ALIGNMENT
from ctfast.manifest import TensorEntry


class SharedWeights:
    """A network's ``model.bin``, to which only those constants are added that it does not hold yet."""

    def __init__(self, xml: Path, weights: Path, table: Mapping[str, TensorEntry]) -> None:
        """``xml`` is the network's graph and ``table`` tells where its tensors are; both point into ``weights``."""
        self._weights = weights
        self._places: dict[bytes, int] = {}
        data = np.memmap(weights, np.uint8, "r")
        spans = {(place.offset, place.size) for place in _constants(ET.parse(xml).getroot())}
        spans |= {(entry.offset, math.prod(entry.shape) * np.dtype(entry.dtype).itemsize) for entry in table.values()}
        for offset, size in sorted(spans):
            self._places.setdefault(fingerprint(data[offset : offset + size]), offset)

    def save(self, model: ov.Model, path: Path) -> None:
        """Write a graph to ``path`` and what ``model.bin`` lacks of its constants to the end of that.

        The same model gives the same file: nodes are named by their order, which tells nothing of the process.
        """
        _rename(model)
        ov.save_model(model, str(path), compress_to_fp16=False)
        own = path.with_suffix(".bin")
        data = np.fromfile(own, np.uint8)
        own.unlink()
        root = ET.fromstring(path.read_bytes())
        for constant in _constants(root):
            offset = self.place(data[constant.offset : constant.offset + constant.size])
            constant.attributes.set("offset", str(offset))
        path.write_bytes(b'<?xml version="1.0"?>\n' + ET.tostring(root))

    def place(self, values: NDArray[np.uint8]) -> int:
        """Where these bytes are in ``model.bin``; they are added to it if they are not there yet."""
        key = fingerprint(values)
        if key not in self._places:
            with self._weights.open("ab") as file:
                file.write(bytes(-file.tell() % ALIGNMENT))
                self._places[key] = file.tell()
                file.write(values.tobytes())
        return self._places[key]


class _Constant:
    """A constant in an IR, whose attributes tell where its bytes are."""

    def __init__(self, attributes: ET.Element) -> None:
        self.attributes = attributes
        self.offset, self.size = int(attributes.get("offset", 0)), int(attributes.get("size", 0))


def _constants(root: ET.Element) -> Iterator[_Constant]:
    for layer in root.iter("layer"):
        attributes = layer.find("data")
        if layer.get("type") == "Const" and attributes is not None and int(attributes.get("size", 0)):
            yield _Constant(attributes)


def _rename(model: ov.Model) -> None:
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{node.get_type_name()}_{index}")
