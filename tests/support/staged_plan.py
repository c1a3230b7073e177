"""The tiny plan with a VAE of one residual block that is there twice: whole, and as a program of three stages."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from ctfast import plan as plan_file

from . import tiny_networks as nets
from . import tiny_plan

WIDTH = 8
GROUPS = 2
EPS = 1e-5
FACTOR = 4
BLOCK = FACTOR**3
ONE = [1, 1, 1]


class Weights:
    """Kernels in the whole network's axes (x, y, z), drawn from a seed."""

    def __init__(self, seed: int, first: tuple[int, int, int], last: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(seed)

        def kernel(fan_in: int, fan_out: int, size: int) -> Any:
            shape = (fan_out, fan_in, size, size, size)
            return (rng.standard_normal(shape) / np.sqrt(fan_in * size**3)).astype(np.float32)

        self.first, self.middle, self.last = kernel(*first), kernel(WIDTH, WIDTH, 3), kernel(*last)
        self.affine = {
            f"norm{index}.{name}": (rng.standard_normal(WIDTH) + (name == "weight")).astype(np.float32)
            for index in (1, 2)
            for name in ("weight", "bias")
        }


DECODER = Weights(21, (nets.CHANNELS, WIDTH, 3), (WIDTH, BLOCK, 1))
ENCODER = Weights(22, (BLOCK, WIDTH, 1), (WIDTH, 2 * nets.CHANNELS, 3))


def _axes(*order: int) -> Any:
    return op.constant(np.array(order, np.int64))


def _unfold(x: Any, rows_last: bool) -> Any:
    """Channels to blocks of voxels: [1, 64, x, y, z] to [1, 1, 4x, 4y, 4z], or the same in channels-last rows."""
    if rows_last:  # [1, z, y, x, 64], a block being (x, y, z)
        shape = op.shape_of(x)
        z, y, w = (op.gather(shape, _axes(axis), _axes(0)) for axis in (1, 2, 3))
        split = op.reshape(x, op.concat([z, y, w, _axes(FACTOR, FACTOR, FACTOR)], 0), False)
        split = op.transpose(split, _axes(0, 5, 1, 4, 2, 3))
        four = _axes(FACTOR)
        target = [_axes(1), op.multiply(z, four), op.multiply(y, four), op.multiply(w, four), _axes(1)]
        return op.reshape(split, op.concat(target, 0), False)
    return op.depth_to_space(x, "depth_first", FACTOR)


def _fold(x: Any, rows_last: bool) -> Any:
    if rows_last:  # [1, 4z, 4y, 4x, 1]
        shape = op.shape_of(x)
        four = _axes(FACTOR)
        z, y, w = (op.divide(op.gather(shape, _axes(axis), _axes(0)), four) for axis in (1, 2, 3))
        split = op.reshape(x, op.concat([z, four, y, four, w, four], 0), False)
        split = op.transpose(split, _axes(0, 2, 4, 5, 3, 1))
        return op.reshape(split, op.concat([_axes(1), z, y, w, _axes(BLOCK)], 0), False)
    return op.space_to_depth(x, "depth_first", FACTOR)


def _conv(x: Any, kernel: Any, pad: int) -> Any:
    return op.convolution(x, op.constant(kernel), ONE, [pad] * 3, [pad] * 3, ONE)


def _rows_conv(x: Any, kernel: Any) -> Any:
    """The same on channels-last rows: zero-padded along y and x, valid along z."""
    pad = kernel.shape[-1] // 2
    first = op.transpose(x, _axes(0, 4, 1, 2, 3))
    turned = op.constant(np.ascontiguousarray(kernel.transpose(0, 1, 4, 3, 2)))
    return op.transpose(op.convolution(first, turned, ONE, [0, pad, pad], [0, pad, pad], ONE), _axes(0, 2, 3, 4, 1))


def _norm(x: Any, weights: Weights, index: int) -> Any:
    scale, shift = (op.constant(weights.affine[f"norm{index}.{name}"]) for name in ("weight", "bias"))
    return op.group_normalization(x, scale, shift, GROUPS, EPS)


def _block(x: Any, weights: Weights) -> Any:
    return op.add(_conv(op.swish(_norm(x, weights, 1)), weights.middle, 1), x)


def decoder() -> ov.Model:
    """The whole decoder."""
    latent = nets._input("latent", [-1, nets.CHANNELS, -1, -1, -1])
    h = _block(_conv(latent, DECODER.first, 1), DECODER)
    image = _unfold(_conv(_norm(h, DECODER, 2), DECODER.last, 0), rows_last=False)
    return ov.Model([nets._named(image, "image")], [latent], "vae_decoder")


def encoder() -> ov.Model:
    """The whole encoder."""
    image = nets._input("image", [-1, 1, -1, -1, -1])
    h = _block(_conv(_fold(image, rows_last=False), ENCODER.first, 0), ENCODER)
    moments = op.split(_conv(_norm(h, ENCODER, 2), ENCODER.last, 1), op.constant(np.int64(1)), 2)
    mean, log_variance = (op.add(part, op.constant(np.float32(0))) for part in moments.outputs())
    return ov.Model([nets._named(mean, "mean"), nets._named(log_variance, "log_variance")], [image], "vae_encoder")


def _stage(name: str, reads: str, channels: int, fan_in: int, make: Any, **more: Any) -> tuple[dict[str, Any], Any]:
    inputs = [nets._input("x", [1, -1, -1, -1, fan_in])]
    x: Any = inputs[0]
    if "norm" in more:
        inputs += [nets._input(each, [1, 1, 1, 1, fan_in]) for each in ("scale", "shift")]
        x = op.add(op.multiply(x, inputs[1]), inputs[2])
    x = make["before"](x)
    if "mask" in more:
        inputs.append(nets._input("mask", [1, -1, 1, 1, 1]))
        x = op.multiply(x, inputs[-1])
    y = make["after"](_rows_conv(x, make["kernel"]))
    if "adds" in more:
        inputs.append(nets._input("residual", [1, -1, -1, -1, channels]))
        y = op.add(y, inputs[-1])
    entry = {"name": name, "reads": reads, "writes": name, "channels": channels, "halo": [0, 0], **more}
    entry["multiply_adds"] = make["kernel"].size
    return entry, ov.Model([nets._named(op.add(y, op.constant(np.float32(0))), "y")], inputs, name)


def _same(x: Any) -> Any:
    return x


def _norm_entry(index: int) -> dict[str, Any]:
    return {"groups": GROUPS, "eps": EPS, "weight": f"norm{index}.weight", "bias": f"norm{index}.bias"}


_AROUND: dict[str, Any] = {"halo": [1, 1], "mask": {"grid": "input", "before": 1, "after": 1}}


def _middle(reads: str, weights: Weights) -> tuple[dict[str, Any], Any]:
    make = {"before": op.swish, "kernel": weights.middle, "after": _same}
    return _stage("block", reads, WIDTH, WIDTH, make, norm=_norm_entry(1), adds=reads, **_AROUND)


def decoder_stages() -> list[tuple[dict[str, Any], ov.Model]]:
    """Manifest entries and graphs of the decoder's stages."""
    first = {"before": _same, "kernel": DECODER.first, "after": _same}
    last = {"before": _same, "kernel": DECODER.last, "after": lambda y: _unfold(y, rows_last=True)}
    return [
        _stage("conv_in", "latent", WIDTH, nets.CHANNELS, first, **_AROUND),
        _middle("conv_in", DECODER),
        _stage("conv_out", "block", 1, WIDTH, last, norm=_norm_entry(2), up=[FACTOR] * 3),
    ]


def encoder_stages() -> list[tuple[dict[str, Any], ov.Model]]:
    """The same of the encoder."""
    first = {"before": lambda x: _fold(x, rows_last=True), "kernel": ENCODER.first, "after": _same}
    last = {"before": _same, "kernel": ENCODER.last, "after": _same}
    return [
        _stage("conv_in", "image", WIDTH, 1, first, down=[FACTOR] * 3),
        _middle("conv_in", ENCODER),
        _stage("moments", "block", 2 * nets.CHANNELS, WIDTH, last, norm=_norm_entry(2), **_AROUND),
    ]


def _append(blob: bytearray, data: bytes) -> int:
    blob += bytes(-len(blob) % 64)
    offset = len(blob)
    blob += data
    return offset


def _staged(name: str, model: ov.Model, weights: Weights, stages: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The network's entry in the manifest, and its sections: all graphs over one file of weights."""
    xml, first = nets.to_ir(model)
    blob = bytearray(first)
    sections = {f"{name}/model.xml": xml.encode()}
    for entry, graph in stages:
        text, constants = nets.to_ir(graph)
        start = _append(blob, constants)
        moved = re.sub(r' offset="(\d+)"', lambda found, by=start: f' offset="{int(found[1]) + by}"', text)
        sections[f"{name}/stages/{entry['name']}.xml"] = moved.encode()
    tensors = {
        key: {"offset": _append(blob, value.tobytes()), "shape": [WIDTH], "dtype": "float32", "transposed": False}
        for key, value in weights.affine.items()
    }
    source = model.inputs[0].any_name
    program = {
        "input": source,
        "input_channels": nets.CHANNELS if source == "latent" else 1,
        "output": stages[-1][0]["writes"],
        "stages": [entry for entry, _ in stages],
    }
    entry = {
        "backend": "openvino",
        "precision": "fp32",
        "weights_dtype": "float32",
        "inputs": [source],
        "outputs": [port.any_name for port in model.outputs],
        "drop_if_unused": [],
        "tensors": tensors,
        "program": program,
    }
    return entry, {**sections, f"{name}/model.bin": bytes(blob)}


def write(path: Path, footprints: bool = True, **changes: Any) -> Path:
    """Write the plan; ``changes`` replace top-level keys of the manifest.

    With ``footprints`` the networks say what they need as a whole, which is made up: 100 bytes per voxel.
    """
    manifest = deepcopy(tiny_plan.MANIFEST) | changes
    manifest["networks"] = {}
    sections: dict[str, bytes] = {}
    for name, make in tiny_plan.NETWORKS.items():
        if name.startswith("vae_"):
            model, weights, stages = (
                (decoder(), DECODER, decoder_stages())
                if name == "vae_decoder"
                else (encoder(), ENCODER, encoder_stages())
            )
            manifest["networks"][name], own = _staged(name, model, weights, stages)
        else:
            manifest["networks"][name], own = tiny_plan.plain_network(name, make)
        sections |= own
        if footprints:
            manifest["networks"][name]["footprint"] = {"loaded_bytes": 1000, "bytes_per_voxel": 100.0}
    plan_file.write(path, manifest, sections)
    return path
