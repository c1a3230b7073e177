"""The plan file: the Python reader. The writer is plan_writer.py, which ``write`` comes from.

The reader's twin is csrc/core/plan.cc; docs/plan_format.md has the layout. Both readers make the same checks in the
same order and refuse with the same words, so a change here is a change there and in the document.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import CancelledError, PlanError
from .file_kind import FILE_KIND_BYTES, file_kind
from .manifest import PlanManifest
from .manifest_checks import problems_with_sections
from .plan_layout import (
    AGAIN,
    ALIGNMENT,
    CHUNK,
    ENTRY,
    FORMAT_VERSION,
    GIVE_PLAN,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NAME_BYTES,
    OLDEST_READABLE,
    name_problem,
    printable,
    refuse,
)
from .plan_writer import write

__all__ = ["FORMAT_VERSION", "Observer", "Plan", "PlanSection", "write"]

Observer = Callable[[str, int, int], "bool | None"]


@dataclass(frozen=True)
class PlanSection:
    """One entry of the section table; ``sha256`` is hexadecimal."""

    name: str
    offset: int
    length: int
    sha256: str


class Plan:
    """A plan that was opened and checked, all but the sections' bytes (``verify`` does those).

    ``name`` is the path given to ``open``, ``manifest_text`` the manifest's JSON, ``sections`` are in file order.
    """

    name: str
    manifest_text: str
    sections: tuple[PlanSection, ...]

    def __init__(self, data: memoryview, name: str) -> None:
        """Check ``data``, which holds a whole plan; ``open`` and ``parse`` are the ways to get here."""
        self.name = name
        self._data = data
        self._check_size_and_magic()
        self._check_version()
        self._read_header()
        self._read_sections(self._read_table())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Plan:
        """Map the file and check it; PlanError says what is wrong and what to do.

        The file must not be changed in place while it is open; ctfast itself only ever replaces plans.
        """
        name = os.fspath(path)
        try:
            mode = os.stat(name).st_mode  # asked before opening, since opening a pipe would wait for its other end
            if stat.S_ISDIR(mode):
                refuse(name, "this is a folder, not a plan", GIVE_PLAN)
            if not stat.S_ISREG(mode):
                refuse(name, "this is not a regular file", GIVE_PLAN)
            with open(name, "rb") as file:
                if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
                    return cls(memoryview(b""), name)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError):  # ValueError: a null character in the path
            refuse(name, "there is no such file", GIVE_PLAN)
        except OSError as error:
            refuse(name, f"the file cannot be read: {error.strerror}", "Check the path and its permissions")
        return cls(memoryview(mapped), name)

    @classmethod
    def parse(cls, data: bytes | memoryview, name: str = "plan") -> Plan:
        """The same checks on bytes in memory; ``name`` stands for the path in messages."""
        return cls(memoryview(data).cast("B").toreadonly(), name)

    @cached_property
    def manifest(self) -> PlanManifest:
        """The manifest, validated, also against the sections that its networks need."""
        try:
            manifest = PlanManifest.from_json(self.manifest_text)
        except PlanError as error:
            raise PlanError(f"'{self.name}': {error}") from None
        problems = problems_with_sections(manifest, {section.name: section.length for section in self.sections})
        if problems:
            refuse(self.name, "; ".join(problems), AGAIN)
        return manifest

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return len(self._data)

    @property
    def identity(self) -> str:
        """SHA-256 of the header in hexadecimal: it covers the checksums of all the rest, so it identifies the plan."""
        return self._data[HEADER.size : HEADER_BYTES].hex()

    def section(self, name: str) -> memoryview:
        """Read-only bytes of a section, valid as long as the view lives. PlanError if there is no such section."""
        for section in self.sections:
            if section.name == name:
                return self._data[section.offset : section.offset + section.length]
        names = ", ".join(section.name for section in self.sections) or "none"
        what = f"the plan has no section '{printable(name.encode('utf-8', 'surrogatepass'))}'; it has: {names}"
        refuse(self.name, what, "Build a plan that has it with: ctfast build")

    def verify(self, observer: Observer | None = None) -> None:
        """Compare every section's checksum, and see that the rest of the file is zero.

        Reports stage "verify" in bytes. PlanError names the first section that differs; CancelledError if the observer
        returns False.
        """
        total = sum(section.length for section in self.sections)
        done = 0
        _report(observer, done, total)
        for section in self.sections:
            digest = hashlib.sha256()
            view = self.section(section.name)
            for start in range(0, section.length, CHUNK):
                digest.update(view[start : start + CHUNK])
                done += len(view[start : start + CHUNK])
                _report(observer, done, total)
            if digest.hexdigest() != section.sha256:
                what = (
                    f"the checksum of section '{section.name}' does not match (expected {section.sha256}, "
                    f"found {digest.hexdigest()}): the file was altered or damaged"
                )
                refuse(self.name, what, AGAIN)
        self._check_padding()

    def summary(self) -> dict[str, Any]:
        """What ``ctfast info --json`` prints: a JSON-ready dict."""
        from .plan_info import summary

        return summary(self)

    def describe(self) -> str:
        """What ``ctfast info`` prints."""
        from .plan_info import describe

        return describe(self)

    def _check_size_and_magic(self) -> None:
        head = bytes(self._data[:FILE_KIND_BYTES])
        ours = head.startswith(MAGIC[: len(head)])
        kind = None if ours else file_kind(head)
        looks = f"; it looks like {kind.looks_like}" if kind else ""
        foreign_remedy = kind.remedy if kind else GIVE_PLAN
        if len(self._data) < HEADER_BYTES:
            found = f"the file has {len(self._data)} bytes, fewer than the {HEADER_BYTES} of a plan's header"
            what = found if head else "the file is empty"
            refuse(self.name, what + looks, AGAIN if ours else foreign_remedy)
        if not ours:
            begin = f"it begins with '{printable(head[: len(MAGIC)])}' where a plan has '{MAGIC.decode()}'"
            refuse(self.name, f"this is not a plan: {begin}{looks}", foreign_remedy)

    def _check_version(self) -> None:
        _, version, oldest_reader, *release = HEADER.unpack_from(self._data)[:6]
        if oldest_reader > FORMAT_VERSION:
            what = (
                f"the plan was made for a newer ctfast: it has format version {version} and needs a reader of version "
                f"{oldest_reader}, and this ctfast reads version {FORMAT_VERSION}; it needs ctfast "
                f"{'.'.join(map(str, release))} or newer"
            )
            refuse(self.name, what, "Upgrade with: pip install -U ctfast")
        if version < OLDEST_READABLE:
            what = f"the plan has format version {version}, and this ctfast reads from version {OLDEST_READABLE} on"
            refuse(self.name, what, "Build it again with: ctfast build")

    def _read_header(self) -> None:
        if hashlib.sha256(self._data[: HEADER.size]).hexdigest() != self.identity:
            what = "the checksum of the header does not match: the file was altered or damaged"
            refuse(self.name, what, AGAIN)
        fields = HEADER.unpack_from(self._data)
        expected, self._manifest_at, self._manifest_length, self._manifest_sha256 = fields[7:11]
        self._table_at, self._count, _, self._table_sha256 = fields[11:]
        size = len(self._data)
        if size != expected:
            problem = "the file is truncated" if size < expected else "bytes were appended to the file"
            refuse(self.name, f"{problem}: expected {expected} bytes, found {size}", AGAIN)

    def _read_table(self) -> memoryview:
        size = len(self._data)
        table_end = self._table_at + self._count * ENTRY.size
        if self._table_at < HEADER_BYTES or table_end > size:
            what = (
                f"the section table ({self._count} sections, at byte {self._table_at}) does not lie between the header "
                f"and the end of the file at {size}"
            )
            refuse(self.name, what, AGAIN)
        table = self._data[self._table_at : table_end]
        if hashlib.sha256(table).digest() != self._table_sha256:
            what = "the checksum of the section table does not match: the file was altered or damaged"
            refuse(self.name, what, AGAIN)

        manifest_end = self._manifest_at + self._manifest_length
        if self._manifest_at < table_end or manifest_end > size:
            what = (
                f"the manifest ({self._manifest_length} bytes, at byte {self._manifest_at}) does not lie between the "
                f"section table and the end of the file at {size}"
            )
            refuse(self.name, what, AGAIN)
        manifest = self._data[self._manifest_at : manifest_end]
        if hashlib.sha256(manifest).digest() != self._manifest_sha256:
            what = "the checksum of the manifest does not match: the file was altered or damaged"
            refuse(self.name, what, AGAIN)
        try:
            self.manifest_text = str(manifest, "utf-8")
        except UnicodeDecodeError:
            refuse(self.name, "the manifest is not UTF-8 text", AGAIN)
        return table

    def _read_sections(self, table: memoryview) -> None:
        sections: list[PlanSection] = []
        names: set[str] = set()
        size = len(self._data)
        end = self._manifest_at + self._manifest_length
        for index, (offset, length, digest, name_length, _, raw) in enumerate(ENTRY.iter_unpack(table)):
            which = f"section {index + 1} of {self._count}"
            if name_length > NAME_BYTES:
                what = f"the name of {which} is too long: at most {NAME_BYTES} characters, found {name_length}"
                refuse(self.name, what, AGAIN)
            quoted = f"'{printable(raw[:name_length])}'"
            problem = name_problem(raw[:name_length])
            if problem:
                refuse(self.name, f"the name of {which}, {quoted}, {problem}", AGAIN)
            name = raw[:name_length].decode("ascii")
            if name in names:
                refuse(self.name, f"the name of {which}, {quoted}, is given twice", AGAIN)
            names.add(name)
            if offset + length > size:
                what = f"section {quoted} ({length} bytes, at byte {offset}) reaches past the end of the file at {size}"
                refuse(self.name, what, AGAIN)
            if offset < end:
                what = f"section {quoted} starts at byte {offset}, before what precedes it ends at {end}"
                refuse(self.name, what, AGAIN)
            if offset % ALIGNMENT:
                what = f"section {quoted} starts at byte {offset}, not at a multiple of {ALIGNMENT}"
                refuse(self.name, what, AGAIN)
            end = offset + length
            sections.append(PlanSection(name, offset, length, digest.hex()))
        self.sections = tuple(sections)

    def _check_padding(self) -> None:
        """Nothing may hide between the parts: what no checksum covers is zero."""
        end = HEADER_BYTES
        parts = [(self._table_at, self._count * ENTRY.size), (self._manifest_at, self._manifest_length)]
        parts += [(section.offset, section.length) for section in self.sections]
        for offset, length in [*parts, (len(self._data), 0)]:
            for start in range(end, offset, CHUNK):
                gap = bytes(self._data[start : min(start + CHUNK, offset)])
                stray = len(gap) - len(gap.lstrip(b"\0"))
                if stray < len(gap):
                    what = (
                        f"byte {start + stray} lies between the parts of the plan and is not zero: the file was "
                        "altered or damaged"
                    )
                    refuse(self.name, what, AGAIN)
            end = offset + length


def _report(observer: Observer | None, done: int, total: int) -> None:
    if observer is not None and observer("verify", done, total) is False:
        raise CancelledError(f"cancelled during stage 'verify', {done} of {total} done")
