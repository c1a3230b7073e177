"""fp8 by explicit quantisation: NVIDIA's ModelOpt puts quantisation into a graph, and TensorRT obeys it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ctfast.errors import RequestError

#: Values of inputs that are no volumes: the limits they are drawn between. Others are normal noise.
_LIMITS = {
    **{"timestep": (0, 1000), "spacing": (50, 500), "top_region": (0, 100), "bottom_region": (0, 100)},
    **{"image": (0, 1), "condition": (0, 1)},
}

#: How many inputs the ranges of activations are measured on.
SAMPLES = 8


def quantised(graph: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a graph with fp8 quantisation beside ``graph`` and return its path.

    Ranges are measured on noise of the usual shapes, which is what a sampler begins with; ``shapes`` are those shapes.
    RequestError: ModelOpt is not installed.
    """
    try:
        modelopt: Any = import_module("modelopt.onnx.quantization")
    except ModuleNotFoundError as error:
        raise RequestError(
            f"fp8 engines need '{error.name}', which is not installed: pip install 'nvidia-modelopt[onnx]'"
        ) from error
    generator = np.random.default_rng(0)
    target = graph.with_name(f"{graph.stem}-fp8.onnx")
    modelopt.quantize(
        str(graph),
        quantize_mode="fp8",
        calibration_data={name: _noise(generator, name, shape) for name, shape in shapes.items()},
        calibration_method="max",
        use_external_data_format=True,
        output_path=str(target),
        high_precision_dtype="fp16",
    )
    return target


def _noise(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    many = (SAMPLES * shape[0], *shape[1:])
    if name == "class_label":
        return np.ones(many, np.int64)
    if name in _LIMITS:
        return generator.uniform(*_LIMITS[name], many).astype(np.float32)
    return generator.standard_normal(many).astype(np.float32)
