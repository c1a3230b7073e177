"""``ctfast data``: a group of commands, each in a module ``data_<command>`` beside this one."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec
from typing import Any

COMMANDS = ("phantom", "prepare")


def add_parser(subparsers: Any) -> None:
    """Add the group's parser and those of its commands that are installed."""
    parser = subparsers.add_parser(
        "data",
        help="prepare or make data",
        description="Make example label maps; prepare scans for training.",
        epilog="example:\n  ctfast data phantom -o mask.nii.gz --seed 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_subparsers(dest="data_command", metavar="command", title="commands", required=True)
    for command in COMMANDS:
        if find_spec(_module(command)) is not None:
            import_module(_module(command)).add_parser(group)


def run(args: argparse.Namespace) -> int:
    """Run the chosen command."""
    return int(import_module(_module(args.data_command)).run(args) or 0)


def _module(command: str) -> str:
    return f"{__package__}.data_{command}"
