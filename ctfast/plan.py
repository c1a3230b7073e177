"""The plan file: writer and Python reader.

The reader's twin is csrc/core/plan.cc; docs/plan_format.md has the layout. Both readers make the same checks in the same
order and refuse with the same words, so a change here is a change there and in the document.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .manifest import PlanManifest

FORMAT_VERSION = 1

Observer = Callable[[str, int, int], bool | None]


@dataclass(frozen=True)
class PlanSection:
    """One entry of the section table; ``sha256`` is hexadecimal."""

    name: str
    offset: int
    length: int
    sha256: str


class Plan:
    """A plan that was opened and checked, all but the sections' bytes (``verify`` does those)."""

    name: str  # the path given to open()
    manifest_text: str
    sections: tuple[PlanSection, ...]  # in file order

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Plan:
        """Map the file and check it; PlanError says what is wrong and what to do."""
        raise NotImplementedError

    @classmethod
    def parse(cls, data: bytes | memoryview, name: str = "plan") -> Plan:
        """The same checks on bytes in memory; ``name`` stands for the path in messages."""
        raise NotImplementedError

    @cached_property
    def manifest(self) -> PlanManifest:
        """The manifest, validated, also against the sections that its networks need."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """SHA-256 of the header in hexadecimal: it covers the checksums of all the rest, so it identifies the plan."""
        raise NotImplementedError

    def section(self, name: str) -> memoryview:
        """Read-only bytes of a section; they stay valid as long as the view lives."""
        raise NotImplementedError

    def verify(self, observer: Observer | None = None) -> None:
        """Compare every section's checksum; PlanError names the first that differs. Stage "verify", in bytes."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """What ``ctfast info --json`` prints."""
        raise NotImplementedError

    def describe(self) -> str:
        """What ``ctfast info`` prints."""
        raise NotImplementedError


def write(
    path: str | os.PathLike[str],
    manifest: PlanManifest | Mapping[str, Any],
    sections: Mapping[str, bytes | memoryview | Path],
) -> None:
    """Write a plan atomically: the file is there as a whole or not at all.

    ``sections`` come in file order; a Path is streamed from disk. PlanError: bad manifest or section names, or a section
    that a network needs is missing. OutputError: disk full or no permission; nothing is left behind.
    """
    raise NotImplementedError
