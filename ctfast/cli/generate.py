"""``ctfast generate``: volumes from noise, or from a label map."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .common import ProgressBar, add_engine_options, add_memory_option, by, command_parser, emit, load_engine, written

if TYPE_CHECKING:
    from ..io.files import SavedFiles

_DEFAULT_NAME = "ct.nii.gz"
# Options that are fields of a request by the same name.
_REQUEST_OPTIONS = (
    *("size", "spacing", "steps", "solver", "time_grid", "seed", "mask", "modality", "guidance", "regions"),
    *("decode", "window", "overlap", "memory"),
)


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = command_parser(
        subparsers,
        "generate",
        "generate CT or MR volumes",
        "Generate synthetic volumes. A JSON with everything that made a volume is written beside it.",
        "ctfast generate -o ct.nii.gz --seed 1 --mask mask.nii.gz --preview ct.png",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        default=_DEFAULT_NAME,
        help=".nii.gz, .nii, .nrrd or .npz (default: %(default)s); with --count a folder, a name that gets numbers, or "
        "a pattern with {sample} and {seed}",
    )
    parser.add_argument(
        "--preview", metavar="PNG", help="also write a picture; with --count it gets numbers as the output"
    )
    parser.add_argument("--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels (default: the plan's)")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="mm (default: the plan's)")
    parser.add_argument("--seed", type=int, default=0, help="0 to 2^64 - 1 (default: 0)")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="first number within the seed (default: 0)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many volumes (default: 1)")
    parser.add_argument(
        "--mask", metavar="FILE", help="label map in the plan's vocabulary that the volume shall follow"
    )
    parser.add_argument("--modality", help="name or code among the plan's")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="0 for none (default: the plan's)")
    group = parser.add_argument_group("sampling")
    group.add_argument("--steps", type=int, metavar="N", help="1 to 1000 (default: the plan's)")
    group.add_argument("--solver", help="euler, heun, ab2, dpmpp_2m or unipc; ddpm or ddim for DDPM plans")
    group.add_argument(
        "--time-grid", choices=("monai", "exact", "tuned"), help="rounded as in MONAI, exact, or the plan's"
    )
    group.add_argument("--regions", nargs=2, metavar=("TOP", "BOTTOM"), help="of head, thorax, abdomen, pelvis")
    group.add_argument("--decode", choices=("exact", "windowed"), default="exact", help="default: exact")
    group.add_argument(
        "--window", type=int, nargs=3, metavar=("X", "Y", "Z"), help="latent voxels, for windowed decoding"
    )
    group.add_argument("--overlap", type=float, metavar="FRACTION", help="of windows, for windowed decoding")
    add_memory_option(parser)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.count < 1:
        raise RequestError(f"--count: expected a whole number from 1 on, found {args.count}")
    start = time.perf_counter()
    targets = _targets(args)
    engine = load_engine(args)
    saved: list[SavedFiles] = []
    metas: list[dict[str, Any]] = []
    with ProgressBar(args) as progress, closing(engine.generate_many(_requests(args, targets), progress)) as volumes:
        for volume in volumes:
            if args.count > 1:  # the bar shows the volume after this one, which is being computed now
                progress.prefix = f"{min(len(saved) + 2, args.count)}/{args.count} "
            saved.append(written(volume))
            metas.append(dict(volume.meta))
    seconds = time.perf_counter() - start
    grid = f"{by(metas[0]['size'])} voxels of {by(metas[0]['spacing'], '.4g')} mm"
    where = f"{saved[0].image}" if args.count == 1 else f"{saved[0].image} to {saved[-1].image}"
    result = {
        "volumes": [{**files.as_dict(), "meta": meta} for files, meta in zip(saved, metas, strict=True)],
        "seconds": round(seconds, 3),
    }
    emit(args, result, f"{where}: {grid}, seed {args.seed}, {seconds:.1f} s")
    return 0


def _requests(args: argparse.Namespace, targets: Sequence[tuple[Path, Path | None]]) -> Iterator[dict[str, Any]]:
    common = {name: getattr(args, name) for name in _REQUEST_OPTIONS}
    for index, (output, preview) in enumerate(targets):
        yield {**common, "sample": args.sample + index, "output": output, "preview": preview}


def _targets(args: argparse.Namespace) -> list[tuple[Path, Path | None]]:
    """Output and preview of each volume; the first ones are checked now, before time is spent."""
    from ..io.files import FORMATS, check_preview, check_writable, make_folder, split_name

    previews: list[Path | None] = [None] * args.count
    if args.count == 1:
        outputs = [_filled(args.output, args.seed, args.sample)]
        if outputs[0].is_dir() or args.output.endswith("/"):
            outputs = [outputs[0] / _DEFAULT_NAME]
        if args.preview is not None:
            previews = [_filled(args.preview, args.seed, args.sample)]
    else:
        output = args.output
        if "{sample" not in output and not output.lower().endswith(FORMATS):
            output = f"{output.rstrip('/')}/{_DEFAULT_NAME}"
        samples = range(args.sample, args.sample + args.count)
        outputs = [_filled(_numbered(output, split_name(output)[1]), args.seed, sample) for sample in samples]
        if args.preview is not None:
            pattern = _numbered(args.preview, Path(args.preview).suffix)
            previews = [_filled(pattern, args.seed, sample) for sample in samples]
    for output in outputs:
        split_name(output)
    for preview in previews:
        if preview is not None:
            check_preview(preview)
    for target in (outputs[0], previews[0]):
        if target is not None:
            if args.count > 1:
                make_folder(target.parent)
            check_writable(target)
    return list(zip(outputs, previews, strict=True))


def _numbered(name: str, suffix: str) -> str:
    """The name with a place for the number before its suffix, unless it has one."""
    return name if "{sample" in name else f"{name[: -len(suffix)]}_{{sample:04d}}{suffix}"


def _filled(name: str, seed: int, sample: int) -> Path:
    if "{" not in name:
        return Path(name)
    try:
        return Path(name.format(seed=seed, sample=sample))
    except (KeyError, IndexError, ValueError, AttributeError):
        raise RequestError(
            f"'{name}': a pattern may hold {{sample}} and {{seed}}, as in ct_{{sample:04d}}.nii.gz"
        ) from None
