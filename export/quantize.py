"""Networks in int8: their OpenVINO graphs, quantised after training by NNCF and calibrated on the plan's own samplings.

Quantised are the convolutions that read an activation, with their inputs: after a norm and an activation function these
are of one scale in all samplings. Whatever reads or makes something of another scale stays as it was: the first and the
last convolution, the last block's, those on the skip and between the resolutions, attention, norms, and the time
embedding. What each of these costs in accuracy, and what it would gain in time, is told in docs/numerics.md.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from ctfast.errors import RequestError
from ctfast.export.cache import Part
from ctfast.export.openvino import mark_precise, rename_counted
from ctfast.manifest import Footprint
from ctfast.observer import Observer, report

if TYPE_CHECKING:
    from ctfast.export.quantize_data import Call

_log = logging.getLogger(__name__)

#: Networks that are quantised where a plan has them: those that are called in every step. The others run once for each
#: volume, and the VAE's stages would need its weights a second time.
NETWORKS = ("denoiser", "controlnet")

#: Convolutions before the output that stay in higher precision: the output's and the last block's two.
LAST_KEPT = 3

_ACTIVATIONS = frozenset({"Gelu", "PRelu", "Relu", "Swish"})


#: Writes networks as a plan.
PlanWriter = Callable[[Path, Mapping[str, Part]], None]


def check_available() -> None:
    """RequestError unless NNCF is installed; it is loaded when it is used."""
    if find_spec("nncf") is None:
        raise RequestError("precision 'int8' needs NNCF, which is not installed: pip install 'ctfast[int8]'")


def quantized(
    parts: Mapping[str, Part], write: PlanWriter, folder: Path, calibration: int, watch: Observer
) -> dict[str, Part]:
    """The networks of a plan, those in NETWORKS in int8; the others, and their weights, are as they were.

    Args:
        parts: All networks of the plan by name.
        write: Makes a plan of them, which is sampled from for the calibration.
        folder: For files.
        calibration: Calls of each network that are looked at.
        watch: Told of the progress; CancelledError if it wants to stop.
    """
    from ctfast.export.quantize_data import recorded  # needs the native module, as no other build does

    names = [name for name in NETWORKS if name in parts]
    plan = folder / "calibration.plan"
    write(plan, parts)
    calls = recorded(plan, names, calibration, _renamed(watch))
    plan.unlink()
    return {
        name: _part(name, part, calls[name], folder, watch) if name in names else part for name, part in parts.items()
    }


def _renamed(watch: Observer) -> Observer:
    """An observer for the sampling, which is a part of building here."""
    return lambda stage, done, total: watch("calibrate", done, total)


def _part(name: str, part: Part, calls: list[Call], folder: Path, watch: Observer) -> Part:
    model = ov.Core().read_model(part.files["model.xml"])
    chosen = quantizable(model)
    if not chosen:
        _log.warning("%s: it has no convolutions that could be quantised, and stays as it is", name)
        return part
    result = _quantize(model, chosen, calls, name, watch)
    rename_counted(result, {*part.entry["inputs"], *part.entry["outputs"]})
    xml = folder / f"{name}-int8.xml"
    ov.save_model(result, str(xml), compress_to_fp16=False)
    xml.write_bytes(mark_precise(xml.read_bytes()))
    weights = xml.with_suffix(".bin")
    saved = part.files["model.bin"].stat().st_size - weights.stat().st_size
    found = Footprint(part.footprint.loaded_bytes - saved, part.footprint.bytes_per_voxel)
    entry = {
        **part.entry,
        "precision": "int8",
        "weights_dtype": "int8",
        "tensors": {},
        "footprint": asdict(found),
        "onnx": None,
    }
    _log.info("%s: %d of its convolutions are int8, %d bytes saved", name, len(chosen), saved)
    return Part(entry, found, {"model.xml": xml, "model.bin": weights})


def quantizable(model: ov.Model) -> list[str]:
    """Names of the convolutions that are quantised, in the order in which they are computed."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    return [
        node.get_friendly_name()
        for node in found[: -_kept(found)]
        if node.input_value(0).get_node().get_type_name() in _ACTIVATIONS
    ]


def _kept(convolutions: Collection[ov.Node]) -> int:
    """How many at the end stay as they are: of a small network, at least the last one."""
    return LAST_KEPT if len(convolutions) > 2 * LAST_KEPT else 1


def _quantize(model: ov.Model, chosen: Collection[str], calls: list[Call], name: str, watch: Observer) -> ov.Model:
    """The model with int8 convolutions ``chosen``; all else stays as it is."""
    check_available()
    nncf: Any = import_module("nncf")
    ranges: Any = import_module("nncf.quantization.range_estimator")
    logging.getLogger("nncf").setLevel(logging.WARNING)
    nodes = model.get_ordered_ops()
    others = {node.get_friendly_name() for node in nodes if node.get_type_name() == "Convolution"} - set(chosen)
    # Left alone, NNCF rounds additions, norms and the time step too, which costs 20 dB.
    types = {node.get_type_name() for node in nodes} - {"Constant", "Convolution", "Parameter", "Result"}
    done = 0

    def next_call(call: Call) -> dict[str, Any]:
        nonlocal done
        report(watch, f"quantise {name}", done, len(calls))
        done = min(done + 1, len(calls))
        return {key: np.ascontiguousarray(values) for key, values in call.items()}

    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars; stdout is for results
        result: ov.Model = nncf.quantize(
            model,
            nncf.Dataset(calls, next_call),
            subset_size=len(calls),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=sorted(others), types=sorted(types), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # It changes nothing that could be measured here, and takes half of the time.
                disable_bias_correction=True,
                # The widest range ever seen, not the calls' mean: what is clipped in an early step bends the rest.
                activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX,
            ),
        )
    return result
