"""``ctfast encode``: an image as a latent."""

from __future__ import annotations

import argparse
from typing import Any

from .common import ProgressBar, add_engine_options, by, command_parser, emit, load_engine


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "encode",
        "turn an image into a latent",
        "Encode an image of a legal size with the plan's VAE; the latent keeps the image's place in space.",
        "ctfast encode ct.nii.gz -o latent.npz",
    )
    parser.add_argument("image", help=".nii.gz, .nii, .nrrd or .npz")
    parser.add_argument("-o", "--output", metavar="NPZ", default="latent.npz", help="default: %(default)s")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..io.files import check_writable
    from ..io.latent import LatentFile, checked_name
    from ..provenance import about_plan

    target = checked_name(args.output)
    check_writable(target)
    engine = load_engine(args)
    with ProgressBar(args) as progress:
        latent, affine = engine.encode_with_affine(args.image, progress=progress)
    sha256 = LatentFile(latent, affine, about_plan(engine.manifest, engine.identity)).save(target)
    result = {"latent": str(target), "shape": list(latent.shape), "sha256": sha256}
    emit(args, result, f"{target}: latent of {by(latent.shape)} (channels, x, y, z)")
    return 0
