"""What commands share: options, output for people or machines, and the progress bar."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..backends import AUTO, BACKENDS
from ..errors import OutputError

if TYPE_CHECKING:
    from ..io.files import SavedFiles
    from ..volume import Volume


def command_parser(subparsers: Any, name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
    """A sub-parser with the options that every command has, and an example under its help."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="print neither progress, warnings nor the final line")
    return parser


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Which plan to use, and how to run it."""
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", metavar="PLAN", help="path of a plan or name of an embedded one (default: headneck)")
    group.add_argument(
        "--backend",
        default=AUTO,
        metavar="NAME",
        help=f"{AUTO} (the default, the fastest there is), {', '.join(BACKENDS)}",
    )
    group.add_argument("--device", default=AUTO, help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--precision", choices=("bf16", "fp16", "fp32"), help="default: the plan's, where the processor has it"
    )
    group.add_argument("--threads", type=int, metavar="N", help="default: all that this process may use")


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """How much memory a request may take."""
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="what activations may take beyond the loaded networks, as in 6GiB or '800 MB' (default: what is free)",
    )


def load_engine(args: argparse.Namespace) -> Any:
    """The engine that the options of ``add_engine_options`` ask for."""
    from ..api import load

    return load(args.engine, device=args.device, precision=args.precision, threads=args.threads, backend=args.backend)


def written(volume: Volume) -> SavedFiles:
    """The files that a volume went to while it was made."""
    if volume.saved is None:
        raise OutputError("the volume was not written. Save it again")
    return volume.saved


def emit(args: argparse.Namespace, result: Mapping[str, Any], text: str) -> None:
    """Print a result: one JSON object with --json, ``text`` without, nothing with --quiet alone."""
    if args.json:
        print(json.dumps(result))
    elif not args.quiet:
        print(text)


class ProgressBar:
    """A progress callback that draws a bar on stderr if that is a terminal, and nothing otherwise."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._shown = sys.stderr.isatty() and not args.quiet
        self._bar: Any = None
        self._stage = ""
        self.prefix = ""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` in ``stage``."""
        if not self._shown:
            return
        if stage != self._stage or self._bar is None or done < self._bar.n:
            from tqdm import tqdm

            self._close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=self.prefix + stage, leave=False, file=sys.stderr, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def by(values: Any, digits: str = "g") -> str:
    """Numbers as in 96 x 96 x 64."""
    return " x ".join(f"{value:{digits}}" for value in values)
