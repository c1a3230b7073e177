"""Writer of the plan file; docs/plan_format.md has the layout, ctfast/plan.py and csrc/core/plan.cc read it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import OutputError
from .manifest import PlanManifest
from .manifest_checks import problems_with_sections
from .plan_layout import (
    ALIGNMENT,
    CHUNK,
    ENTRY,
    FORMAT_VERSION,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NAME_BYTES,
    OLDEST_READER,
    name_problem,
    refuse,
)


def write(
    path: str | os.PathLike[str],
    manifest: PlanManifest | Mapping[str, Any],
    sections: Mapping[str, bytes | memoryview | Path],
    *,
    scratch: Path | None = None,
) -> None:
    """Write a plan atomically: the file is there as a whole or not at all.

    ``sections`` come in file order; a Path is streamed from disk. PlanError: bad manifest or section names, a section
    that a network needs is missing, or a Path cannot be read. OutputError: disk full or no permission; nothing is left
    behind. A process killed while it writes can leave a hidden temporary file, which readers refuse unless it is whole;
    it is in ``scratch``, a folder on the same file system, or beside the plan.
    """
    source = manifest.to_json() if isinstance(manifest, PlanManifest) else manifest
    checked = PlanManifest.from_json(source, strict=True)
    lengths = {name: _source_length(name, data) for name, data in sections.items()}
    problems = [
        f"the section name '{name}' {problem}"
        for name in sections
        if (problem := name_problem(name.encode("utf-8", "surrogatepass")) or _length_problem(name))
    ]
    problems += problems_with_sections(checked, lengths)
    if problems:
        what = f"the plan cannot be written: {'; '.join(problems)}"
        refuse(os.fspath(path), what, "Correct what is given to plan.write()")
    text = json.dumps(checked.to_json(), ensure_ascii=False, allow_nan=False).encode()

    target = Path(path)
    temporary = (scratch or target.parent) / f".ctfast-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            _write_file(file, text, sections, lengths)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        need = len(text) + sum(lengths.values())
        raise OutputError(
            f"'{os.fspath(path)}': the plan of about {need} bytes could not be written: {error.strerror or error}. "
            "Make room there, check the folder and its permissions, or give another path"
        ) from error


def _write_file(
    file: IO[bytes], text: bytes, sections: Mapping[str, bytes | memoryview | Path], lengths: Mapping[str, int]
) -> None:
    """Everything but the header first, and the header last, so that an unfinished file is never taken for a plan."""
    manifest_at = HEADER_BYTES + len(sections) * ENTRY.size
    table = bytearray()
    end = manifest_at + len(text)
    file.write(bytes(manifest_at) + text)
    for name, data in sections.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        file.write(bytes(offset - end))
        digest = hashlib.sha256()
        for chunk in _source_chunks(name, data, lengths[name]):
            file.write(chunk)
            digest.update(chunk)
        table += ENTRY.pack(offset, lengths[name], digest.digest(), len(name), b"", name.encode("ascii"))
        end = offset + lengths[name]
    file.seek(HEADER_BYTES)
    file.write(table)
    file.flush()
    os.fsync(file.fileno())

    reader, release = OLDEST_READER
    text_sha256, table_sha256 = hashlib.sha256(text).digest(), hashlib.sha256(table).digest()
    header = HEADER.pack(
        *(MAGIC, FORMAT_VERSION, reader, *release, 0, end, manifest_at, len(text), text_sha256),
        *(HEADER_BYTES, len(sections), 0, table_sha256),
    )
    file.seek(0)
    file.write(header + hashlib.sha256(header).digest())
    file.flush()
    os.fsync(file.fileno())


def _source_length(name: str, data: bytes | memoryview | Path) -> int:
    if not isinstance(data, Path):
        return memoryview(data).nbytes
    try:
        return data.stat().st_size
    except OSError as error:
        refuse(str(data), f"section '{name}' cannot be read: {error.strerror}", "Check the path and its permissions")


def _source_chunks(name: str, data: bytes | memoryview | Path, length: int) -> Iterator[bytes | memoryview]:
    """The section's bytes in pieces; PlanError if a file cannot be read or has not ``length`` bytes any more."""
    if not isinstance(data, Path):
        yield memoryview(data).cast("B")
        return
    found = 0
    try:
        with open(data, "rb") as file:
            while chunk := file.read(CHUNK):
                found += len(chunk)
                if found > length:
                    break
                yield chunk
    except OSError as error:
        refuse(str(data), f"section '{name}' cannot be read: {error.strerror}", "Check the path and its permissions")
    if found != length:
        refuse(str(data), f"section '{name}' changed while it was read", "Write the plan again when nothing else does")


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; file systems that cannot do so for a folder are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _length_problem(name: str) -> str | None:
    return f"is longer than {NAME_BYTES} characters" if len(name) > NAME_BYTES else None
