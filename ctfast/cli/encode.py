"""``ctfast encode``: an image as a latent."""

from __future__ import annotations

import argparse
from typing import Any

from .common import ProgressBar, add_engine_options, add_memory_option, by, command_parser, emit, load_engine


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "encode",
        "turn an image into a latent",
        "Encode an image with the plan's VAE; the latent keeps the image's place in space.",
        "ctfast encode ct.nii.gz -o latent.npz",
    )
    parser.add_argument("image", help=".nii.gz, .nii, .nrrd or .npz")
    parser.add_argument("-o", "--output", metavar="NPZ", default="latent.npz", help="default: %(default)s")
    parser.add_argument("--sample", action="store_true", help="draw from the posterior instead of taking its mean")
    parser.add_argument("--seed", type=int, default=0, help="of --sample, 0 to 2^64 - 1 (default: 0)")
    add_memory_option(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..io.files import check_writable
    from ..io.latent import checked_name

    target = checked_name(args.output)
    check_writable(target)
    engine = load_engine(args)
    with ProgressBar(args) as progress:
        encoded = engine.encode_image(
            args.image, sample=args.sample, seed=args.seed, memory=args.memory, progress=progress
        )
    sha256 = encoded.save(target)
    shape = encoded.latent.shape
    result = {"latent": str(target), "shape": list(shape), "sha256": sha256, "meta": dict(encoded.meta)}
    emit(args, result, f"{target}: latent of {by(shape)} (channels, x, y, z)")
    return 0
