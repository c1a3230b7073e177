"""A plan's network as torch runs it: OpenVINO's graph of operations, carried out one after the other.

What can be computed in advance, such as weights that are widened or turned, is; a tensor is let go of after its last
use. In bf16, weights of convolutions are bf16 and features follow them (and so in fp16), but a convolution whose result
the exporter wants exact (docs/plan_format.md) computes in float32, and so does what is made of a network's vectors.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import PlanError, RequestError
from ..kernels.dispatch import triton
from .torch_fusion import fused
from .torch_layers import Layer, Slot
from .torch_ops import Operation, operation

_TYPES = {
    "f16": torch.float16,
    "f32": torch.float32,
    "f64": torch.float64,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "boolean": torch.bool,
}
#: What has a convolution's kernel as its second input.
_KERNELS = ("Convolution", "ConvolutionBackpropData", "ConvolutionEpilogue", "PairConvolution", "PhaseUpsample")
#: What takes constant numbers that Python reads: on a GPU that would wait for all that runs there.
_NUMBERS = ("Interpolate", "ScaledDotProductAttention")


@dataclass
class _Step:
    run: Callable[..., Tensor | Sequence[Tensor]]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    last: list[Slot] = field(default_factory=list)  # not needed behind this step


class Graph:
    """A network or a stage, ready to run on a device."""

    def __init__(
        self,
        title: str,
        xml: bytes,
        weights: memoryview,
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
        drop: Sequence[str] = (),
    ) -> None:
        """Read a graph.

        Args:
            title: What messages call it.
            xml, weights: The IR.
            inputs, outputs: What it may call its tensors; ``self.inputs`` and ``self.outputs`` are what it does call
                them, and have names beside these where it has other tensors.
            device, dtype: Where and in what to compute.
            drop: Inputs that are zero.

        Raises:
            PlanError: An operation that this backend does not know.
        """
        self._title, self._device, self._dtype = title, device, dtype
        layers = fused(
            _read(xml),
            lambda layer: self._constant(layer, weights).reshape(-1).tolist(),
            gpu=_has_kernels(device, dtype),
        )
        self._known: dict[Slot, Tensor] = {}
        self._steps: list[_Step] = []
        self.inputs: dict[str, Slot] = {}
        self.outputs: dict[str, Slot] = {}
        by_number = {layer.number: layer for layer in layers}
        exact = _exact(layers)
        for layer in layers:
            slots = tuple((layer.number, port) for port in layer.outputs)
            if layer.kind == "Parameter":
                name = _name(layer.names[slots[0][1]], inputs)
                if name in drop:
                    self._known[slots[0]] = torch.zeros((), device=device)
                else:
                    self.inputs[name] = slots[0]
            elif layer.kind == "Const":
                self._known[slots[0]] = self._constant(layer, weights)
            elif layer.kind == "Result":
                number, port = layer.inputs[0]
                self.outputs[_name(by_number[number].names[port], outputs)] = (number, port)
            elif (carry_out := operation(layer.kind)) is not None:
                self._add(layer, carry_out, slots, layer.number in exact)
            else:
                raise PlanError(f"{title}: backend 'torch' does not know its operation '{layer.kind}'. Use 'openvino'")
        self._finish()

    @property
    def dtype(self) -> torch.dtype:
        """What convolutions are computed in."""
        return self._dtype

    def run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, float32; ``given`` are tensors on any device. RequestError: they are not the inputs."""
        return {name: result.float() for name, result in self.compute(given).items()}

    @torch.inference_mode()
    def compute(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same in the type that each output comes in."""
        if given.keys() != self.inputs.keys():
            raise RequestError(f"{self._title} takes {sorted(self.inputs)}, and was given {sorted(given)}")
        values = dict(self._known)
        for name, slot in self.inputs.items():
            values[slot] = given[name].to(self._device)
        # In float32 means in float32 on a GPU too, whose default is less (TF32).
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            for step in self._steps:
                _carry_out(step, values)
                for slot in step.last:
                    del values[slot]
        return {name: values[slot] for name, slot in self.outputs.items()}

    def _constant(self, layer: Layer, weights: memoryview) -> Tensor:
        """Weights go to the device; whole numbers, which are shapes and axes, stay where Python reads them."""
        text = layer.attributes
        dtype, size = _TYPES[text["element_type"]], int(text["size"])
        shape = [int(extent) for extent in text["shape"].split(",") if extent.strip()]
        offset = int(text["offset"])
        if not size:
            return torch.zeros(shape, dtype=dtype)
        # A copy, as the plan's memory cannot be written to and torch takes no such memory.
        tensor = torch.frombuffer(bytearray(weights[offset : offset + size]), dtype=dtype).reshape(shape)
        return tensor.to(self._device) if dtype.is_floating_point else tensor

    def _add(self, layer: Layer, operation: Operation, slots: tuple[Slot, ...], exact: bool) -> None:
        """Carry a layer out now if all it needs is known, else when the graph runs."""
        if layer.kind == "Add":
            # What is dropped is added nowhere.
            zeros = [slot for slot in layer.inputs if _is_zero(self._known.get(slot))]
            if len(zeros) == 1 and len(layer.inputs) == 2:
                (other,) = (slot for slot in layer.inputs if slot != zeros[0])
                step = _Step(_same, (other,), slots)
                self._keep(step)
                return
        if layer.kind == "PReLU" and _is_one(self._known.get(layer.inputs[1])):
            # It only marks what is wanted in float32.
            self._keep(_Step(_same, layer.inputs[:1], slots))
            return
        attributes = layer.attributes
        if layer.kind in _KERNELS and layer.inputs[1] in self._known:
            dtype = torch.float32 if exact else self._dtype
            self._known[layer.inputs[1]] = _in_order(self._known[layer.inputs[1]].to(dtype))
        fixed: dict[int, Tensor] = {}
        if layer.kind in _NUMBERS:
            known = {place: self._known.get(slot) for place, slot in enumerate(layer.inputs)}
            fixed = {
                place: tensor.cpu() for place, tensor in known.items() if tensor is not None and _is_number(tensor)
            }
        inputs = tuple(slot for place, slot in enumerate(layer.inputs) if place not in fixed)

        def run(*tensors: Tensor) -> Tensor | Sequence[Tensor]:
            rest = iter(tensors)
            return operation(attributes, *(fixed[n] if n in fixed else next(rest) for n in range(len(layer.inputs))))

        self._keep(_Step(run, inputs, slots))

    def _keep(self, step: _Step) -> None:
        if all(slot in self._known for slot in step.inputs):
            with torch.inference_mode():
                _carry_out(step, self._known)
        else:
            self._steps.append(step)

    def _finish(self) -> None:
        """Forget what nothing reads, and note when each tensor is read for the last time."""
        kept = set(self.outputs.values())
        seen: set[Slot] = set()
        steps, self._steps = self._steps, []
        for step in reversed(steps):
            if not (seen | kept) & set(step.outputs):
                continue
            self._steps.append(step)
            for slot in {*step.inputs, *step.outputs} - seen - kept:
                seen.add(slot)
                step.last.append(slot)
        self._steps.reverse()
        self._known = {slot: tensor for slot, tensor in self._known.items() if slot in seen | kept}


def _carry_out(step: _Step, values: dict[Slot, Tensor]) -> None:
    result = step.run(*(values[slot] for slot in step.inputs))
    results = (result,) if isinstance(result, Tensor) else result
    values.update(zip(step.outputs, results, strict=True))


def _in_order(kernel: Tensor) -> Tensor:
    """A kernel in the order of memory that its convolution is fastest in, and which the result then has too.

    In float32 that is as it is stored: with channels last some processors use a less accurate way of computing.
    """
    last = kernel.ndim == 5 and kernel.dtype != torch.float32
    return kernel.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def _has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels run in Triton: they take tensors that are channels last, which in float32 none is."""
    return triton is not None and device.type == "cuda" and dtype != torch.float32


def _is_number(tensor: Tensor) -> bool:
    """Whether a known tensor is a number, or the factors of a few axes."""
    return tensor.numel() == 1 or (tensor.ndim == 1 and tensor.numel() <= 5)


def _same(x: Tensor) -> Tensor:
    return x


def _is_zero(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 0 and tensor.is_floating_point() and float(tensor) == 0.0


def _is_one(tensor: Tensor | None) -> bool:
    return tensor is not None and bool((tensor == 1).all())


def _name(names: frozenset[str], wanted: Sequence[str]) -> str:
    """The one of a tensor's names that the manifest uses."""
    return next((name for name in wanted if name in names), min(names, default="unnamed"))


def _read(xml: bytes) -> list[Layer]:
    """The layers of an IR, each behind those whose results it reads."""
    root = ET.fromstring(xml)
    sources: dict[Slot, Slot] = {}
    for edge in root.iter("edge"):
        start, left, end, right = (int(edge.attrib[key]) for key in ("from-layer", "from-port", "to-layer", "to-port"))
        sources[end, right] = (start, left)
    layers = {}
    for element in root.iter("layer"):
        number = int(element.attrib["id"])
        data = element.find("data")
        attributes = dict(data.attrib) if data is not None else {}
        ports = [int(port.attrib["id"]) for port in element.findall("input/port")]
        given = {
            int(port.attrib["id"]): frozenset(port.attrib.get("names", element.attrib["name"]).split(","))
            for port in element.findall("output/port")
        }
        inputs = tuple(sources[number, port] for port in ports)
        shape = tuple(int(dim.text or -1) for dim in element.findall("output/port[1]/dim"))
        layers[number] = Layer(number, element.attrib["type"], attributes, inputs, tuple(given), given, shape)
    return _ordered(layers)


def _ordered(layers: Mapping[int, Layer]) -> list[Layer]:
    ordered: dict[int, Layer] = {}
    for root in layers.values():
        waiting = [root]
        while waiting:
            layer = waiting[-1]
            before = [layers[number] for number, _ in layer.inputs if number not in ordered]
            if before:
                waiting += before
            else:
                ordered[layer.number] = waiting.pop()
    return list(ordered.values())


def _exact(layers: Sequence[Layer]) -> set[int]:
    """The convolutions whose results are wanted in float32: those in front of a PReLU, but for a bias."""
    by_number = {layer.number: layer for layer in layers}
    found = set()
    for layer in layers:
        if layer.kind != "PReLU":
            continue
        source = by_number[layer.inputs[0][0]]
        if source.kind == "Add":
            source = next((by_number[n] for n, _ in source.inputs if by_number[n].kind in _KERNELS), source)
        if source.kind in _KERNELS:
            found.add(source.number)
    return found
