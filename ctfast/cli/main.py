"""The ``ctfast`` command: finds the module of a command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from .._version import __version__
from ..errors import CancelledError, CtfastError, RequestError

# Command, and what the overview says about it. A command exists if its module ctfast.cli.<command> does.
COMMANDS = {
    "generate": "generate CT or MR volumes",
    "build": "make a plan from checkpoints",
    "info": "show what a plan holds",
    "verify": "check a plan, or compare it with its checkpoints",
    "encode": "turn an image into a latent",
    "decode": "turn a latent into an image",
    "evaluate": "compare generated volumes with real ones",
    "train": "train networks",
    "data": "prepare or make data",
    "bench": "measure speed",
}
_EPILOG = """\
exit codes: 0 done, 1 unexpected error, 2 bad request, 3 bad plan or checkpoint, 4 device, memory or disk, 130 cancelled

example:
  ctfast generate -o ct.nii.gz --seed 1 --preview ct.png

All volumes are synthetic. Not for diagnostic use.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are RequestErrors, so that they end like all others."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments; the message names the help to read."""
        raise RequestError(f"{message} (see '{self.prog} --help')")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` are those of the process unless given."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    previous = _cancel_on_terminate()
    try:
        with warnings.catch_warnings():
            _show_warnings_in_one_line(quiet="--quiet" in words)
            return _run(words)
    except CtfastError as error:
        return _fail(str(error), error.exit_code, type(error).__name__, as_json)
    except KeyboardInterrupt:
        return _fail("cancelled", CancelledError.exit_code, CancelledError.__name__, as_json)
    except BrokenPipeError:
        # The reader of our output is gone. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("CTFAST_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error} (unexpected; set CTFAST_DEBUG=1 for the traceback)"
        return _fail(text, 1, type(error).__name__, as_json)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def build_parser(command: str | None = None) -> Parser:
    """The parser; only the module of ``command`` is imported, all others appear with their line of help alone."""
    parser = Parser(
        prog="ctfast",
        description="Fast inference for latent flow and diffusion models of 3D CT and MR.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ctfast {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", title="commands")
    for name, summary in COMMANDS.items():
        if find_spec(f"{__package__}.{name}") is None:
            continue
        if name == command:
            import_module(f"{__package__}.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _run(words: Sequence[str]) -> int:
    command = next((word for word in words if word in COMMANDS), None)
    parser = build_parser(command)
    try:
        args = parser.parse_args(words)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    if args.command is None:
        parser.print_help()
        return RequestError.exit_code
    result = import_module(f"{__package__}.{args.command}").run(args)
    return int(result or 0)


def _fail(message: str, code: int, kind: str, as_json: bool) -> int:
    line = " ".join(message.split())
    print(f"ctfast: error: {line}" if code != CancelledError.exit_code else f"ctfast: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"type": kind, "message": line, "exit_code": code}}))
    return code


def _show_warnings_in_one_line(quiet: bool) -> None:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if not quiet and issubclass(category, UserWarning):
            print(f"ctfast: warning: {' '.join(str(message).split())}", file=sys.stderr)

    warnings.showwarning = show


def _cancel_on_terminate() -> Any:
    """Let SIGTERM end a run as Ctrl-C does, so that no partial file stays; returns the handler to restore."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        return None


if __name__ == "__main__":
    sys.exit(main())
