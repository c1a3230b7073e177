"""OpenVINO networks of a few convolutions with the canonical tensor names, as IR in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

CHANNELS = 4  # of the latent
WIDTH = 8


def _input(name: str, shape: list[int], dtype: Any = np.float32) -> Any:
    node = op.parameter(shape, dtype, name=name)
    node.output(0).set_names({name})
    return node


def _named(node: Any, name: str) -> Any:
    node.output(0).set_names({name})
    return node


def _conv(x: Any, rng: np.random.Generator, fan_in: int, fan_out: int) -> Any:
    weight = rng.standard_normal((fan_out, fan_in, 3, 3, 3)).astype(np.float32) / np.float32(np.sqrt(27 * fan_in))
    return op.convolution(x, op.constant(weight), [1] * 3, [1] * 3, [1] * 3, [1] * 3)


def _spread(x: Any, values: int) -> Any:
    """[B, values] to [B, values, 1, 1, 1], so that it broadcasts over a volume."""
    return op.reshape(x, op.constant(np.array([-1, values, 1, 1, 1], dtype=np.int64)), False)


def denoiser(seed: int = 0) -> ov.Model:
    """Depends on every input: latent, timestep, class_label, spacing and two residuals."""
    rng = np.random.default_rng(seed)
    latent = _input("latent", [-1, CHANNELS, -1, -1, -1])
    timestep = _input("timestep", [-1])
    label = _input("class_label", [-1], np.int64)
    spacing = _input("spacing", [-1, 3])
    down = _input("down_residual_00", [-1, WIDTH, -1, -1, -1])
    middle = _input("middle_residual", [-1, WIDTH, -1, -1, -1])
    embedding = op.multiply(_spread(timestep, 1), op.constant(np.float32(1e-3)))
    embedding = op.add(embedding, _spread(op.convert(label, "f32"), 1))
    mean = op.reduce_mean(_spread(spacing, 3), op.constant(np.array([1])), keep_dims=True)
    embedding = op.add(embedding, op.multiply(mean, op.constant(np.float32(1e-3))))
    h = op.sigmoid(op.add(_conv(latent, rng, CHANNELS, WIDTH), embedding))
    h = op.add(h, down)
    h = op.add(op.sigmoid(_conv(h, rng, WIDTH, WIDTH)), middle)
    prediction = _named(_conv(h, rng, WIDTH, CHANNELS), "prediction")
    return ov.Model([prediction], [latent, timestep, label, spacing, down, middle], "denoiser")


def controlnet(seed: int = 1) -> ov.Model:
    """Two residuals from latent, timestep, condition embedding and class label."""
    rng = np.random.default_rng(seed)
    latent = _input("latent", [-1, CHANNELS, -1, -1, -1])
    timestep = _input("timestep", [-1])
    condition = _input("condition_embedding", [-1, WIDTH, -1, -1, -1])
    label = _input("class_label", [-1], np.int64)
    embedding = op.add(
        op.multiply(_spread(timestep, 1), op.constant(np.float32(1e-3))), _spread(op.convert(label, "f32"), 1)
    )
    h = op.sigmoid(op.add(op.add(_conv(latent, rng, CHANNELS, WIDTH), condition), embedding))
    down = _named(_conv(h, rng, WIDTH, WIDTH), "down_residual_00")
    middle = _named(_conv(op.sigmoid(down), rng, WIDTH, WIDTH), "middle_residual")
    return ov.Model([down, middle], [latent, timestep, condition, label], "controlnet")


def stack(width: int, layers: int, seed: int = 2) -> ov.Model:
    """A denoiser that takes time: ``layers`` convolutions of ``width`` channels on latent alone."""
    rng = np.random.default_rng(seed)
    latent = _input("latent", [-1, CHANNELS, -1, -1, -1])
    h = op.sigmoid(_conv(latent, rng, CHANNELS, width))
    for _ in range(layers):
        h = op.sigmoid(_conv(h, rng, width, width))
    return ov.Model([_named(_conv(h, rng, width, CHANNELS), "prediction")], [latent], "stack")


def decoder(seed: int = 3, factor: int = 4) -> ov.Model:
    """Latent to an image of one channel, ``factor`` times larger along each axis."""
    rng = np.random.default_rng(seed)
    latent = _input("latent", [-1, CHANNELS, -1, -1, -1])
    h = op.sigmoid(_conv(latent, rng, CHANNELS, WIDTH))
    scales = op.constant(np.full(3, factor, np.float32))
    axes = op.constant(np.array([2, 3, 4]))
    h = op.interpolate(h, scales, "linear_onnx", "scales", axes=axes)
    return ov.Model([_named(_conv(h, rng, WIDTH, 1), "image")], [latent], "decoder")


def encoder(seed: int = 4, factor: int = 4) -> ov.Model:
    """Image to mean and log-variance of a latent."""
    rng = np.random.default_rng(seed)
    image = _input("image", [-1, 1, -1, -1, -1])
    h = op.avg_pool(_conv(image, rng, 1, WIDTH), [factor] * 3, [0] * 3, [0] * 3, [factor] * 3, False)
    mean = _named(_conv(h, rng, WIDTH, CHANNELS), "mean")
    return ov.Model([mean, _named(_conv(h, rng, WIDTH, CHANNELS), "log_variance")], [image], "encoder")


def to_ir(model: ov.Model, compress: bool = False) -> tuple[str, bytes]:
    """(xml, weights) as a plan holds them; ``compress`` stores the weights as float16."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=compress)
        return path.read_text(), path.with_suffix(".bin").read_bytes()


class Reference:
    """The same network through OpenVINO's own Python interface, in fp32."""

    def __init__(self, model: ov.Model) -> None:
        self._compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.inputs = [port.any_name for port in model.inputs]
        self.outputs = [port.any_name for port in model.outputs]

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        results = self._compiled(inputs)
        return {name: np.array(results[name]) for name in self.outputs}
