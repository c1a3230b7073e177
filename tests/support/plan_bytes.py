"""Plan files written byte by byte as docs/plan_format.md has them, without ctfast's writer, and ways to spoil them."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST: dict[str, Any] = json.loads((Path(__file__).with_name("tiny_manifest.json")).read_text(encoding="utf-8"))

# The tensors that MANIFEST describes: float16 0..5, then float32 7 and 8.
WEIGHTS = struct.pack("<6e2f", *range(6), 7, 8)
SECTIONS = {
    "denoiser/model.xml": b"<net/>",
    "denoiser/model.bin": WEIGHTS,
    "vae_decoder/model.xml": b"<net/>" * 1000,
    "vae_decoder/model.bin": b"",
}

HEADER_BYTES, ENTRY_BYTES = 160, 192
# Name of each header field, where it lies, and its type.
HEADER_FIELDS = {
    "version": (8, "<I"),
    "oldest reader": (12, "<I"),
    "file size": (24, "<Q"),
    "manifest offset": (32, "<Q"),
    "manifest length": (40, "<Q"),
    "table offset": (80, "<Q"),
    "section count": (88, "<I"),
}
ENTRY_FIELDS = {"offset": (0, "<Q"), "length": (8, "<Q"), "name length": (48, "<H")}


def build(manifest: bytes, sections: Mapping[str, bytes]) -> bytearray:
    """A whole plan file."""
    manifest_at = HEADER_BYTES + ENTRY_BYTES * len(sections)
    body, table = bytearray(manifest), bytearray()
    for name, data in sections.items():
        body += bytes(-(manifest_at + len(body)) % 4096)
        entry = struct.pack("<QQ", manifest_at + len(body), len(data)) + hashlib.sha256(data).digest()
        table += (entry + struct.pack("<H14x", len(name)) + name.encode()).ljust(ENTRY_BYTES, b"\0")
        body += data
    header = bytearray(HEADER_BYTES)
    struct.pack_into("<8sIIHHH", header, 0, b"CTFASTPL", 1, 1, 0, 1, 0)
    struct.pack_into("<QQQ", header, 24, manifest_at + len(body), manifest_at, len(manifest))
    struct.pack_into("<QI", header, 80, HEADER_BYTES, len(sections))
    return seal(header + table + body)


def seal(data: bytearray) -> bytearray:
    """Make the checksums of manifest, table and header right, so that a reader's later checks are reached."""
    if len(data) >= HEADER_BYTES:
        (offset, length), (table, count) = struct.unpack_from("<QQ", data, 32), struct.unpack_from("<QI", data, 80)
        data[48:80] = hashlib.sha256(data[offset : offset + length]).digest()
        data[96:128] = hashlib.sha256(data[table : table + count * ENTRY_BYTES]).digest()
        data[128:160] = hashlib.sha256(data[:128]).digest()
    return data


def good() -> bytearray:
    """A plan that every reader accepts."""
    return build(json.dumps(MANIFEST, ensure_ascii=False).encode(), SECTIONS)


def with_field(at: int, kind: str, value: int, data: bytearray | None = None) -> bytearray:
    """The good plan with one number changed and its checksums right."""
    data = data or good()
    struct.pack_into(kind, data, at, value)
    return seal(data)


def with_name(name: bytes) -> bytearray:
    """The good plan whose second section has another name."""
    data = good()
    at = HEADER_BYTES + ENTRY_BYTES
    struct.pack_into("<H", data, at + 48, len(name))
    data[at + 64 : at + 192] = name[:128].ljust(128, b"\0")
    return seal(data)


def mutations() -> Iterator[tuple[str, bytes]]:
    """Hundreds of files around the good plan: most must be refused, all alike by both readers."""
    plan = bytes(good())
    size, entries = len(plan), range(HEADER_BYTES, HEADER_BYTES + ENTRY_BYTES * len(SECTIONS), ENTRY_BYTES)
    yield "good", plan
    for at in range(HEADER_BYTES):
        for bit in (1, 128):
            yield f"header byte {at} ^ {bit}", _flipped(plan, at, bit)
    for at in [*range(HEADER_BYTES, entries.stop, 17), entries.stop + 3, 4095, 4096, 4101, 4110, 8192, 8211, size - 1]:
        yield f"byte {at}", _flipped(plan, at, 4)
    for length in [*range(0, 170, 3), *range(170, size, 997), size - 1]:
        yield f"cut to {length}", plan[:length]
    for extra in (b"\0", b"x", bytes(4096)):
        yield f"{len(extra)} bytes appended", plan + extra
        yield (
            f"{len(extra)} bytes appended, size told",
            bytes(with_field(24, "<Q", size + len(extra), bytearray(plan + extra))),
        )
    numbers = [0, 1, 2, 7, 159, 160, 161, entries.stop, 4095, 4096, 4097, 8192, size - 1, size, size + 1, 2**16 - 1]
    numbers += [2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 4096, 2**64 - 1]
    fields = {name: (at, kind) for name, (at, kind) in HEADER_FIELDS.items()}
    for index, entry in enumerate(entries):
        fields |= {f"entry {index} {name}": (entry + at, kind) for name, (at, kind) in ENTRY_FIELDS.items()}
    for field, (at, kind) in fields.items():
        for value in numbers:
            if value < 256 ** struct.calcsize(kind):
                yield f"{field} = {value}", bytes(with_field(at, kind, value))
    for name in (
        b"",
        b"a",
        b"a b",
        b"..",
        b"a/../b",
        b"/a",
        b"a/",
        b"a//b",
        b"notes\n",
        b"\xff",
        "größe".encode(),
        b"'\\",
    ):
        yield f"name {name!r}", bytes(with_name(name))
    for name in (b"a" * 128, b"a" * 129, b"denoiser/model.xml", b"vae_decoder/model.xml"):
        yield f"name {name!r}", bytes(with_name(name))
    for text in (
        b"",
        b"{}",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\xf0\x9f\x98\x80",
        b"\xef\xbf\xbf",
    ):
        yield f"manifest {text!r}", bytes(build(text, SECTIONS))
    rng = random.Random(0)
    for index in range(300):
        data = bytearray(plan)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(entries.stop)] = rng.choice((0, 1, 16, 127, 255, rng.randrange(256)))
        yield f"random {index}", bytes(seal(data))


def _flipped(data: bytes, at: int, bits: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]
