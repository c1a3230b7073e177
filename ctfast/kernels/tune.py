"""Measure the kernels' launch configurations on this machine's GPU: ``python -m ctfast.kernels.tune``.

Writes the table that ``tuning.configuration`` reads, at the shapes of the official networks for volumes of 256^3 and
512^3 voxels, or of those that are asked for. Nothing else should run on the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..io.atomic import OutputFiles
from .dispatch import triton
from .tuning import Tunable, table_path, tune, type_name

#: Where an operation's Tunable is: module and name.
_TUNABLES = {
    "affine_silu": ("affine_silu", "TUNABLE"),
    "attention": ("attention", "ATTENTION"),
    "channel_sums": ("channel_sums", "TUNABLE"),
    "conv3d": ("conv3d", "CONV3D"),
    "depthwise": ("depthwise", "DEPTHWISE"),
    "epilogue": ("epilogue", "TUNABLE"),
    "phase_upsample": ("phase_upsample", "TUNABLE"),
    "trilinear_conv": ("trilinear_conv", "TRILINEAR_CONV"),
    "unpack_bits": ("unpack_bits", "TUNABLE"),
}
_DTYPES = {type_name(dtype): dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)}

#: Channels at each edge of a feature map: latents of 64^3 and 128^3 through the denoiser, slabs of the decoder.
_FEATURES = [
    (1, channels, *extents)
    for edge in (64, 128)
    for channels, extents in (
        (64, (edge,) * 3),
        (128, (edge,) * 3),
        (128, (edge // 2,) * 3),
        (256, (edge // 2,) * 3),
        (256, (edge // 4,) * 3),
        (512, (edge // 4,) * 3),
        (512, (edge // 8,) * 3),
        (256, (16, edge, edge)),
        (128, (16, 2 * edge, 2 * edge)),
        (64, (16, 4 * edge, 4 * edge)),
    )
]
_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "attention": [(1, (edge // 2**level) ** 3, 8 * (level - 1), 32) for edge in (64, 128) for level in (2, 3)],
    "conv3d": [
        (*shape, made, 3, 1) for shape in _FEATURES for made in {shape[1], shape[1] // 2, 2 * shape[1]} if made <= 512
    ],
    "depthwise": [(*shape, shape[1]) for shape in _FEATURES],
    "phase_upsample": [
        (1, channels, *(edge // part,) * 3) for edge in (64, 128) for channels, part in ((128, 1), (256, 2), (512, 4))
    ],
    "trilinear_conv": [(1, 256, 16, 128, 128, 256), (1, 128, 16, 256, 256, 128)],
    "unpack_bits": [(1, 256, 256, 256), (1, 512, 512, 512)],
}


def tunable(operation: str) -> Tunable:
    """How an operation is measured.

    Raises:
        ValueError: There is no such operation.
    """
    if operation not in _TUNABLES:
        raise ValueError(f"there is no operation '{operation}'; there are {', '.join(_TUNABLES)}")
    module, name = _TUNABLES[operation]
    found: Tunable = getattr(import_module(f"{__package__}.{module}"), name)
    return found


def measure(
    operations: Iterable[str],
    dtypes: Iterable[str],
    device: torch.device,
    shapes: Sequence[Sequence[int]] | None = None,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A table of some operations, over what ``known`` has of them, with the versions that it was measured with.

    Raises:
        ValueError: An operation or a type that there is not.
        RuntimeError: No configuration of an operation runs at one of the shapes.
    """
    table: dict[str, Any] = {} if known is None else {key: dict(value) for key, value in known.items()}
    for operation in operations:
        how = tunable(operation)
        for name in dtypes:
            if name not in _DTYPES:
                raise ValueError(f"there is no type '{name}'; there are {', '.join(_DTYPES)}")
            wanted = _SHAPES.get(operation, _FEATURES) if shapes is None else shapes
            found = tune(how, wanted, _DTYPES[name], device)
            own = table.setdefault(operation, {})
            own[name] = {**own.get(name, {}), **found}
    return {
        "device": torch.cuda.get_device_name(device),
        "versions": {
            "torch": str(torch.__version__),
            "triton": str(triton.__version__),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        },
        "operations": table,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table; 1 where there is no GPU or no triton."""
    parser = argparse.ArgumentParser(prog="python -m ctfast.kernels.tune", description="Measure launch configurations.")
    parser.add_argument("--operations", default=",".join(_TUNABLES), help="divided by commas (default: all)")
    parser.add_argument("--dtypes", default="bfloat16", help="divided by commas: bfloat16, float16, float32")
    parser.add_argument("--shapes", help="such as 1x64x128x128x128, divided by commas (default: the networks')")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", type=Path, help="the table (default: that of the device, in the package)")
    options = parser.parse_args(arguments)
    if triton is None or not torch.cuda.is_available():
        lacking = "triton is not installed" if triton is None else "torch finds no CUDA device"
        print(f"nothing can be measured here: {lacking}", file=sys.stderr)
        return 1
    device = torch.device(options.device)
    shapes = None
    if options.shapes is not None:
        shapes = [[int(extent) for extent in shape.split("x")] for shape in options.shapes.split(",")]
    name = torch.cuda.get_device_name(device)
    path = table_path(name) if options.output is None else options.output
    known = json.loads(path.read_text(encoding="utf-8"))["operations"] if path.exists() else None
    try:
        table = measure(options.operations.split(","), options.dtypes.split(","), device, shapes, known)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    with OutputFiles() as files:
        files.add_text(path, json.dumps(table, indent=1, sort_keys=True) + "\n")
    print(f"{path}: {', '.join(table['operations'])} on {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
