"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import OutputError

_CHUNK = 1 << 20


def output_error(path: Path, error: OSError) -> OutputError:
    """An OutputError that says why ``path`` cannot be written and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why, remedy = "the disk is full", "Free some space or write to another disk"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why, remedy = "permission was denied", "Choose a folder that you may write to"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        why, remedy = f"the folder '{path.parent}' does not exist", "Make it first or choose another"
    elif error.errno == errno.EISDIR:
        why, remedy = "it is a folder", "Give the name of a file"
    elif error.errno == errno.ENAMETOOLONG:
        why, remedy = "the name is too long", "Choose a shorter one"
    else:
        why, remedy = error.strerror or str(error), "Check the path and the disk"
    return OutputError(f"cannot write '{path}': {why}. {remedy}.")


def check_name(path: Path) -> None:
    """OutputError if ``path`` cannot be the name of a file: it is a folder, or the system takes no such name."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise output_error(path, OSError(errno.EISDIR, ""))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise output_error(path, error) from error
    except ValueError as error:  # a null character
        raise OutputError(f"cannot write {str(path)!r}: {error}. Choose another name.") from error


class PartFile:
    """A file on its way to ``path``, written from its beginning to its end; see ``OutputFiles.begin``.

    Every method that touches the disk raises OutputError with the file's final name.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; returns how many."""
        try:
            count = self._file.write(data)
        except OSError as error:
            raise output_error(self.path, error) from error
        self._digest.update(data)
        return count

    def flush(self) -> None:
        """Hand what was written to the system."""
        try:
            self._file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error

    def finish(self) -> str:
        """Bring the file to the disk and close it; returns its SHA-256 in hexadecimal."""
        self.flush()
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise output_error(self.path, error) from error
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close the file, whatever state it is in."""
        with contextlib.suppress(OSError):
            self._file.close()


class OutputFiles:
    """A group of files that are written beside their targets and put in place together.

    Used as a context manager: ``add`` and ``begin`` write each file under a temporary name in its target's folder;
    leaving the block moves all of them to their names, in the order they were added. When the block raises (Ctrl-C
    included), nothing is left behind and files that already were there stay as they were.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Path, Path]] = []
        self._parts: list[PartFile] = []

    def __enter__(self) -> OutputFiles:
        return self

    def begin(self, path: Path) -> PartFile:
        """A file that becomes ``path``, to be written bit by bit and finished before the block is left.

        OutputError: no permission, no such folder.
        """
        check_name(path)
        temporary = self._temporary(path)
        try:
            part = PartFile(path, os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb"))
        except OSError as error:
            raise output_error(path, error) from error
        self._parts.append(part)
        return part

    def add(self, path: Path, write: Callable[[BinaryIO], object]) -> str:
        """Let ``write`` fill the file that becomes ``path``; returns its SHA-256 in hexadecimal.

        OutputError: no space, no permission, no such folder.
        """
        check_name(path)
        temporary = self._temporary(path)
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            return sha256_of(temporary)
        except OSError as error:
            raise output_error(path, error) from error

    def add_text(self, path: Path, text: str) -> str:
        """A file of text in UTF-8 that becomes ``path``; returns and raises what ``add`` does."""
        return self.add(path, lambda file: file.write(text.encode()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not in place yet; for a group that is given up without its block."""
        for part in self._parts:
            part.abandon()
        for temporary, _ in self._pending:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _temporary(self, path: Path) -> Path:
        temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(6)}.part")
        self._pending.append((temporary, path))
        return temporary

    def _commit(self) -> None:
        for temporary, path in self._pending:
            _move(temporary, path)


def _move(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
