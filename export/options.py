"""How plans are written, and where to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ctfast.errors import OutputError, RequestError
from ctfast.export.cache import ExportCache, key_of
from ctfast.export.onnx import OPSET, OPSETS
from ctfast.export.quantize import check_available
from ctfast.export.tensors import fits_half
from ctfast.export.wrappers import Graph

BACKENDS = ("openvino",)
PRECISIONS = ("bf16", "fp16", "fp32", "int8")
WEIGHTS_DTYPES = ("float16", "float32")


#: Calls of each network that int8 is calibrated on, unless asked otherwise.
CALIBRATION = 32


@dataclass(frozen=True)
class Options:
    """How networks are written: ``precision`` is what they run in, ``weights_dtype`` how their weights are kept.

    ``keep_onnx`` is a folder for ONNX files with their weights, ``cache`` has networks that were exported before,
    ``opset`` is that of all ONNX graphs, and ``calibration`` how many calls of a network int8 is calibrated on.
    """

    precision: str = "bf16"
    weights_dtype: str = "float16"
    keep_onnx: Path | None = None
    cache: ExportCache | None = None
    opset: int = OPSET
    calibration: int = CALIBRATION

    @property
    def exported(self) -> str:
        """The precision of networks before any is quantised."""
        return "bf16" if self.precision == "int8" else self.precision

    def half(self, graph: Graph) -> bool:
        """Whether a graph's weights are written as float16."""
        return self.weights_dtype == "float16" and fits_half(graph.state)

    def key(self, graph: Graph, config: object) -> str:
        """What a graph is kept under in the cache; ``config`` is its network's shape."""
        return key_of(graph, config, {"precision": self.exported, "half": self.half(graph), "opset": self.opset})

    def kept(self, graph: Graph, config: object) -> bool:
        """Whether a build would take a graph from the cache."""
        return self.cache is not None and self.keep_onnx is None and self.cache.has(self.key(graph, config))


def checked_options(
    backend: str,
    precision: str,
    weights_dtype: str | None,
    keep_onnx: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str] | None = None,
    opset: int = OPSET,
    calibration: int | None = None,
) -> Options:
    """The options, if there are such; RequestError tells which there are."""
    if backend not in BACKENDS:
        raise RequestError(f"backend: expected {' or '.join(BACKENDS)}, found {backend!r}")
    if precision not in PRECISIONS:
        raise RequestError(f"precision: expected {' or '.join(PRECISIONS)}, found {precision!r}")
    if weights_dtype is None:
        weights_dtype = "float32" if precision == "fp32" else "float16"
    if weights_dtype not in WEIGHTS_DTYPES:
        raise RequestError(f"weights_dtype: expected {' or '.join(WEIGHTS_DTYPES)}, found {weights_dtype!r}")
    if opset not in OPSETS:
        raise RequestError(f"opset: expected {' or '.join(map(str, OPSETS))}, found {opset!r}")
    if precision == "int8":
        check_available()
    elif calibration is not None:
        raise RequestError(f"calibration: only precision 'int8' is calibrated, and this is {precision!r}; leave it out")
    count = CALIBRATION if calibration is None else calibration
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RequestError(f"calibration: expected a whole number from 1 on, found {count!r}")
    kept = None if cache is None else ExportCache(Path(cache))
    return Options(precision, weights_dtype, None if keep_onnx is None else Path(keep_onnx), kept, opset, count)


def checked_output(output: str | os.PathLike[str]) -> Path:
    """The plan's path, if a file can be there; OutputError otherwise."""
    target = Path(output)
    if target.is_dir():
        raise OutputError(f"'{target}' is a folder; give the path of the plan file to write")
    if not target.parent.is_dir():
        raise OutputError(f"the folder '{target.parent}' does not exist; make it or give another path")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"the folder '{target.parent}' is not writable; change its permissions or give another path")
    return target
