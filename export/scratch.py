"""Folders for what is large and passing, which outlive their owner only until somebody needs the place again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctfast.errors import OutputError


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder ``<parent>/<prefix>...``; gone at the end, whatever happened.

    While it lives its owner holds a lock on it, which the system takes away when the process ends, however it ends.
    So folders of that prefix that a killed process left are told from those in use, and are removed first. Where the
    file system has no locks they stay. OSError: the folder cannot be made.
    """
    clean(parent, prefix)
    path, lock = _locked_folder(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextmanager
def folder_beside(target: Path, use: str, room: str) -> Iterator[Path]:
    """A folder beside a plan for what is large and passing; what a killed build of the same plan left goes first.

    ``use`` is a part of its name, and ``room``, as in "twice", how often the plan's size it may take. OutputError:
    the disk is full, or something else keeps the build from writing there.
    """
    prefix = f".ctfast-{use}-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}-"
    try:
        with owned_folder(target.parent, prefix) as folder:
            yield folder
    except OSError as error:
        raise OutputError(
            f"'{target}': the build could not write beside it: {error.strerror or error}. Make room there (about "
            f"{room} the plan's size), check the folder's permissions, or give another path"
        ) from error


def clean(parent: Path, prefix: str) -> None:
    """Remove the folders of that prefix whose owner is gone."""
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # in use, no locks here, or somebody else's: none is ours to complain about
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = -1
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return path, lock
        except FileNotFoundError:
            pass  # somebody cleaned between the two calls, when it had no lock yet
        except BaseException:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(path, ignore_errors=True)
            raise
        if lock >= 0:
            os.close(lock)
