"""What the tensors of a network's ONNX file say of themselves: meaning, unit, range and axes."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from ctfast.export.wrappers import Graph


class _Text(NamedTuple):
    meaning: str
    unit: str
    range: str


_RESIDUAL = _Text("what a ControlNet adds to the denoiser; zeros stand for none", "1", "any")

_TEXTS = {
    "latent": _Text("a volume's latent; decoders take it divided by the scale factor", "1", "about standard normal"),
    "timestep": _Text("the step of training that the noise belongs to, 1000 being noise alone", "step", "0 to 1000"),
    "class_label": _Text("code of the modality", "code", "0 to 127, those that the plan's manifest lists"),
    "top_region": _Text("the topmost region of the body, one-hot, times 100", "1/100", "0 or 100"),
    "bottom_region": _Text("the lowest region of the body, one-hot, times 100", "1/100", "0 or 100"),
    "spacing": _Text("voxel spacing along x, y, z", "0.01 mm", "above 0"),
    "middle_residual": _RESIDUAL,
    "condition": _Text("a label map as bits, the lowest first", "bit", "0 or 1"),
    "condition_embedding": _Text("a label map, embedded by the network controlnet_condition", "1", "any"),
    "context": _Text("what a mask is generated for", "1", "-1 to 1"),
    "image": _Text("image values; the plan's manifest tells how they become HU (key intensity)", "1", "0 to 1"),
    "logits": _Text("score of each class of labels", "1", "any"),
    "mean": _Text("mean of the latent's distribution", "1", "any"),
    "log_variance": _Text("logarithm of the variance of the latent's distribution", "1", "any"),
    "prediction": _Text("velocity, data less noise (rectified flow), or the noise (DDPM)", "1", "any"),
}

_AXES = {1: "batch", 2: "batch, value", 3: "batch, token, value", 5: "batch, channel, x, y, z"}


def describe(model: ir.Model, graph: Graph) -> None:
    """Give inputs and outputs a doc string, and the same as metadata: ``meaning``, ``unit``, ``range``, ``axes``."""
    model.graph.name = graph.name
    model.graph.doc_string = f"The network {graph.name} of a ctfast plan"
    for value in (*model.graph.inputs, *model.graph.outputs):
        name = value.name or ""
        text = _RESIDUAL if name.startswith("down_residual_") else _TEXTS.get(name)
        axes = _AXES.get(len(value.shape or ()))
        value.metadata_props.clear()
        if text is None or axes is None:
            continue
        value.doc_string = f"{text.meaning}; unit {text.unit}; {text.range}; axes ({axes})"
        value.metadata_props.update({**text._asdict(), "axes": axes})
