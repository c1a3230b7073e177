"""Prediction of a generation's peak memory, for the plan's table.

A network's tensors at a given size are known from its graph: walk the operations in order, add each result, drop each
tensor after its last reader, let element-wise operations work in place. OpenVINO needs more than that, since it
reorders tensors between memory layouts: up to 1.39 times on the official denoiser (bf16 and fp32, four sizes), 1.22
times on the decoder (bf16, 64^3 latent) and 1.1 times on the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import openvino as ov

from ctfast.export.wrappers import Graph
from ctfast.manifest import Footprint, MemoryPeak, Sizes
from ctfast.sessions import ELEMENT_BYTES

#: Interpreter, OpenVINO and its kernels.
BASE_BYTES = 160 << 20

#: Memory in use over memory of live tensors, rounded up from what was measured (``FEWER_LAYOUTS``: of these networks).
LAYOUT_FACTOR = 1.4
FEWER_LAYOUTS: Mapping[str, float] = {"vae_decoder": 1.22, "vae_encoder": 1.1}

_SAME_MEMORY = frozenset({"Reshape", "Result", "Squeeze", "Unsqueeze"})
_IN_PLACE = frozenset({"Add", "Clamp", "Convert", "Multiply", "PRelu", "Swish"})


def footprint(graph: Graph, model: ov.Model, weight_bytes: int, precision: str) -> Footprint:
    """Footprint of a graph's model: mapped weights, their copy in the compiled network's layout, and live tensors.

    All tensors grow with the number of voxels (attention's scores are never held as a whole), so one size tells all.
    """
    size = (4, 4, 4)
    examples = {
        port.name: list(tensor.shape) for port, tensor in zip(graph.inputs, graph.example(size, 1), strict=True)
    }
    shaped = model.clone()
    shaped.reshape(examples)
    grids = [shape[2:] for shape in examples.values() if len(shape) == 5]
    grids += [list(port.get_shape())[2:] for port in shaped.outputs if len(port.get_shape()) == 5]
    parameters = sum(tensor.numel() for tensor in graph.state.values())
    width = ELEMENT_BYTES[precision]
    peak = _peak_elements(shaped) * width * FEWER_LAYOUTS.get(graph.name, LAYOUT_FACTOR)
    return Footprint(weight_bytes + parameters * width, peak / max(math.prod(grid) for grid in grids))


def predict(
    footprints: Mapping[str, Footprint], sizes: Sizes, compression: int, label_bits: int
) -> tuple[MemoryPeak, ...]:
    """Peak bytes of one generation at every size that the rule lists, or at the default if it lists none.

    Counted are the networks of a generation with a mask, if the plan takes one, since each stays loaded; the whole
    volume is decoded at once. A run in fp32 of a plan made for bf16 needs about twice as much.
    """
    on_image = [footprints[name] for name in ("vae_decoder", "controlnet_condition") if name in footprints]
    on_latent = [footprints[name] for name in ("denoiser", "controlnet") if name in footprints]
    loaded = BASE_BYTES + sum(each.loaded_bytes for each in (*on_image, *on_latent))
    # Beside the networks: two float32 copies of the image, its int16 result, the labels and their bits.
    host = 4 + 4 + 2 + ((2 + 4 * label_bits) if label_bits else 0)
    per_voxel = host + sum(each.bytes_per_voxel for each in on_image)
    per_voxel += sum(each.bytes_per_voxel for each in on_latent) / compression**3
    return tuple(MemoryPeak(size, int(loaded + per_voxel * math.prod(size))) for size in _listed(sizes))


def _listed(sizes: Sizes) -> Iterable[tuple[int, int, int]]:
    rule = sizes.rule
    if rule.legal:
        listed = set(rule.legal)
    elif rule.xy and rule.z:
        listed = {(side, side, depth) for side in rule.xy for depth in rule.z}
    else:
        listed = set()
    return sorted(listed | {sizes.default}, key=lambda size: (math.prod(size), size))


def _peak_elements(model: ov.Model) -> int:
    """Most elements of a shaped model's tensors that live at the same time; constants are not counted."""
    nodes = model.get_ordered_ops()
    fixed: set[str] = set()
    owner: dict[tuple[str, int], tuple[str, int]] = {}
    elements: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for index, node in enumerate(nodes):
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = [source for source in node.input_values() if source.get_node().get_friendly_name() not in fixed]
        if kind in ("Constant", "ShapeOf") or (not sources and kind != "Parameter"):
            fixed.add(name)
            continue
        keys = [(source.get_node().get_friendly_name(), source.get_index()) for source in sources]
        for output in node.outputs():
            key, count = (name, output.get_index()), math.prod(output.get_shape())
            shares = [
                owner[before]
                for before, source in zip(keys, sources, strict=True)
                if kind in _SAME_MEMORY
                or (
                    kind in _IN_PLACE
                    and len(source.get_target_inputs()) == 1
                    and math.prod(source.get_shape()) == count
                )
            ]
            owner[key] = shares[0] if shares else key
            if not shares:
                elements[key] = count
            last[owner[key]] = index
        for before in keys:
            last[owner[before]] = index
    born: dict[int, int] = {}
    freed: dict[int, int] = {}
    position = {node.get_friendly_name(): index for index, node in enumerate(nodes)}
    for key, count in elements.items():
        born[position[key[0]]] = born.get(position[key[0]], 0) + count
        freed[last[key]] = freed.get(last[key], 0) + count
    live = peak = 0
    for index in range(len(nodes)):
        live += born.get(index, 0)
        peak = max(peak, live)
        live -= freed.get(index, 0)
    return peak
