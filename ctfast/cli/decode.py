"""``ctfast decode``: a latent as an image."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .common import ProgressBar, add_engine_options, add_memory_option, by, command_parser, emit, load_engine, written


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "decode",
        "turn a latent into an image",
        "Decode a latent with the plan's VAE.",
        "ctfast decode latent.npz -o ct.nii.gz",
    )
    parser.add_argument("latent", help="an .npz as written by 'ctfast encode'")
    parser.add_argument("-o", "--output", metavar="FILE", default="ct.nii.gz", help="default: %(default)s")
    parser.add_argument("--preview", metavar="PNG", help="also write a picture")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="mm (default: the latent's)")
    parser.add_argument("--decode", choices=("exact", "windowed"), default="exact", help="default: exact")
    add_memory_option(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..io.files import check_preview, check_writable, split_name
    from ..io.latent import LatentFile

    split_name(args.output)
    check_writable(args.output)
    if args.preview is not None:
        check_writable(check_preview(args.preview))
    stored = LatentFile.load(args.latent)
    engine = load_engine(args)
    made_by = stored.meta.get("plan", {}).get("sha256", engine.identity)
    if made_by != engine.identity and not args.quiet:
        print("ctfast: warning: the latent was made with another plan than the one that decodes it", file=sys.stderr)
    affine = stored.affine if args.spacing is None else None
    with ProgressBar(args) as progress:
        volume = engine.decode(
            stored.latent,
            spacing=args.spacing,
            affine=affine,
            decode=args.decode,
            memory=args.memory,
            output=args.output,
            preview=args.preview,
            progress=progress,
        )
    files = written(volume)
    result = {**files.as_dict(), "meta": dict(volume.meta)}
    emit(args, result, f"{files.image}: {by(volume.size)} voxels of {by(volume.spacing, '.4g')} mm")
    return 0
