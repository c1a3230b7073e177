"""Layout of the plan file, shared by the Python reader (plan.py) and the writer (plan_writer.py).

docs/plan_format.md explains it; csrc/core/plan.cc states the same constants for the C++ reader.
"""

from __future__ import annotations

import re
import struct
from typing import NoReturn

from .errors import PlanError

FORMAT_VERSION = 1
OLDEST_READABLE = 1  # the oldest format version that this ctfast still reads
OLDEST_READER = (1, (0, 1, 0))  # the reader version that plans written here need, and the first ctfast that has it
MAGIC = b"CTFASTPL"
# magic, format version, oldest reader version, ctfast release of that reader (3), reserved, file size, manifest offset
# and length and sha256, table offset, section count, reserved, table sha256; the sha256 of all these follows.
HEADER = struct.Struct("<8sIIHHHHQQQ32sQII32s")
HEADER_BYTES = HEADER.size + 32
# offset, length, sha256, name length, reserved, name
ENTRY = struct.Struct("<QQ32sH14s128s")
NAME_BYTES = 128
ALIGNMENT = 4096
CHUNK = 4 << 20  # bytes read, written or hashed at a time

AGAIN = "Copy the file again, or build it again with: ctfast build"
GIVE_PLAN = "Give the path of a plan, or build one with: ctfast build"


def name_problem(name: bytes) -> str | None:
    """What is wrong with a section's name apart from its length, or None."""
    if not name:
        return "is empty"
    if not re.fullmatch(rb"[A-Za-z0-9_./-]+", name):
        return "has characters other than A-Z a-z 0-9 _ . / -"
    if b".." in name:
        return "has '..' in it"
    if b"" in name.split(b"/"):
        return "has an empty part around a '/'"
    return None


def printable(data: bytes) -> str:
    """Untrusted bytes made safe to show in a message."""
    return "".join(chr(b) if 32 <= b <= 126 and b not in b"\\'" else f"\\x{b:02x}" for b in data)


def refuse(name: str, what: str, remedy: str) -> NoReturn:
    """Raise the PlanError about the file ``name``: what is wrong with it, and what to do."""
    # The name may be in any script, but must not send control codes to a terminal.
    shown = re.sub(r"[\x00-\x1f\x7f]", lambda match: printable(match[0].encode()), name)
    raise PlanError(f"'{shown}': {what}. {remedy}")
