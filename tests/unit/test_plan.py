"""Reading the plan file in Python, what is refused and how, and agreement with the reader in C++."""

from __future__ import annotations

import errno
import gc
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import plan_bytes

from ctfast import file_kind
from ctfast.errors import CancelledError, PlanError
from ctfast.plan import Plan

REMEDIES = (
    "ctfast build",
    "pip install -U ctfast",
    "permissions",
    "Copy",
    "Download",
    "unpack",
    "git lfs",
    "Give the path",
)


def message_of(data: bytes) -> str | None:
    """What the reader refuses ``data`` with, or None if it accepts them."""
    try:
        Plan.parse(data, "x.plan").verify()
    except PlanError as error:
        return str(error)
    return None


def refusal(data: bytes) -> str:
    message = message_of(data)
    assert message is not None
    return message


def test_opens_a_good_plan(tmp_path: Path) -> None:
    path = tmp_path / "good.plan"
    path.write_bytes(plan_bytes.good())
    opened = Plan.open(path)
    assert opened.name == str(path)
    assert opened.file_size == path.stat().st_size
    assert json.loads(opened.manifest_text) == plan_bytes.MANIFEST
    assert opened.manifest.to_json() == plan_bytes.MANIFEST
    assert [section.name for section in opened.sections] == list(plan_bytes.SECTIONS)
    assert {name: bytes(opened.section(name)) for name in plan_bytes.SECTIONS} == plan_bytes.SECTIONS
    assert all(section.offset % 4096 == 0 for section in opened.sections)
    opened.verify()


def test_a_view_outlives_its_plan_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(plan_bytes.good())
    view = Plan.open(path).section("denoiser/model.bin")
    path.unlink()
    gc.collect()
    assert bytes(view) == plan_bytes.WEIGHTS
    assert view.readonly


def test_opening_reads_no_section() -> None:
    data = plan_bytes.good()
    data[8192] ^= 1
    opened = Plan.parse(data)
    with pytest.raises(PlanError, match=r"checksum of section 'denoiser/model\.bin' does not match"):
        opened.verify()


def test_verify_reports_bytes_and_can_be_cancelled() -> None:
    opened = Plan.parse(plan_bytes.good())
    seen: list[tuple[str, int, int]] = []
    opened.verify(lambda *progress: seen.append(progress))
    total = sum(map(len, plan_bytes.SECTIONS.values()))
    assert seen[0] == ("verify", 0, total)
    assert seen[-1] == ("verify", total, total)
    with pytest.raises(CancelledError):
        opened.verify(lambda *_: False)


def test_identity_changes_with_any_content() -> None:
    manifest = json.dumps(plan_bytes.MANIFEST).encode()
    others = [
        plan_bytes.build(manifest + b" ", plan_bytes.SECTIONS),
        plan_bytes.build(manifest, plan_bytes.SECTIONS | {"denoiser/model.bin": bytes(20)}),
        plan_bytes.build(manifest, plan_bytes.SECTIONS | {"notes": b""}),
        plan_bytes.build(manifest, plan_bytes.SECTIONS),
        plan_bytes.build(manifest, plan_bytes.SECTIONS),
    ]
    assert len({Plan.parse(data).identity for data in others}) == len(others) - 1


def test_a_newer_plan_that_allows_this_reader_is_read() -> None:
    data = plan_bytes.with_field(8, "<I", 9)
    struct.pack_into("<H", data, 22, 77)  # a reserved field, in use by then
    Plan.parse(plan_bytes.seal(data)).verify()


SIZE = len(plan_bytes.good())
REFUSALS: list[tuple[str, Callable[[], bytes], list[str]]] = [
    ("empty", lambda: b"", ["the file is empty", "Copy the file again, or build it again with: ctfast build"]),
    ("cut header", lambda: bytes(plan_bytes.good()[:100]), ["100 bytes", "160 of a plan's header", "Copy"]),
    ("foreign", lambda: b"some text, not a plan" * 20, ["not a plan", "'some tex'", "CTFASTPL", "ctfast build"]),
    (
        "newer",
        lambda: plan_bytes.with_field(16, "<Q", 3 << 32 | 12 << 16, plan_bytes.with_field(8, "<Q", 2 << 32 | 7)),
        ["newer ctfast", "format version 7", "reader of version 2", "ctfast 0.12.3", "pip install -U ctfast"],
    ),
    ("version 0", lambda: plan_bytes.with_field(8, "<I", 0), ["format version 0", "Build it again"]),
    ("header", lambda: plan_bytes._flipped(plan_bytes.good(), 30, 1), ["checksum of the header", "altered", "Copy"]),
    ("truncated", lambda: bytes(plan_bytes.good()[:-9]), [f"expected {SIZE} bytes, found {SIZE - 9}", "Copy"]),
    ("appended", lambda: bytes(plan_bytes.good() + b"x"), [f"expected {SIZE} bytes, found {SIZE + 1}", "Copy"]),
    ("table offset", lambda: plan_bytes.with_field(80, "<Q", 2**63), ["section table", str(2**63), str(SIZE)]),
    ("table", lambda: plan_bytes._flipped(plan_bytes.good(), 200, 1), ["checksum of the section table", "Copy"]),
    ("manifest length", lambda: plan_bytes.with_field(40, "<Q", 2**64 - 1), ["manifest", str(2**64 - 1), str(SIZE)]),
    ("manifest", lambda: plan_bytes._flipped(plan_bytes.good(), 1000, 1), ["checksum of the manifest", "Copy"]),
    ("manifest text", lambda: plan_bytes.build(b"\xff{}", {}), ["not UTF-8", "Copy"]),
    ("long name", lambda: plan_bytes.with_name(b"a" * 129), ["section 2 of 4", "at most 128", "found 129"]),
    ("name twice", lambda: plan_bytes.with_name(b"denoiser/model.xml"), ["section 2 of 4", "twice"]),
    ("climbing name", lambda: plan_bytes.with_name(b"../x"), ["'../x', has '..'", "Copy"]),
    ("name in bytes", lambda: plan_bytes.with_name(b"\xff'"), [r"'\xff\x27'", "characters other than"]),
    ("bounds", lambda: plan_bytes.with_field(360, "<Q", SIZE), [f"({SIZE} bytes, at byte 8192)", "past the end"]),
    ("overlap", lambda: plan_bytes.with_field(352, "<Q", 4096), ["starts at byte 4096", "ends at 4102"]),
    ("unaligned", lambda: plan_bytes.with_field(352, "<Q", 8193), ["byte 8193", "multiple of 4096"]),
    ("padding", lambda: plan_bytes._flipped(plan_bytes.good(), 8191, 1), ["byte 8191", "not zero", "Copy"]),
]


@pytest.mark.parametrize(("make", "words"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_each_refusal_says_what_was_found_and_what_to_do(make: Callable[[], bytes], words: list[str]) -> None:
    message = refusal(make())
    assert message.startswith("'x.plan': ")
    assert [word for word in words if word not in message] == []


def test_paths_that_hold_no_plan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").touch()
    expected = {
        "missing": "there is no such file. Give the path of a plan",
        "nu\0ll": r"nu\x00ll': there is no such file",
        "": "this is a folder",
        "pipe": "not a regular file",
        "loop": "cannot be read: " + os.strerror(errno.ELOOP),
        "empty": "the file is empty",
    }
    for name, words in expected.items():
        with pytest.raises(PlanError) as caught:
            Plan.open(f"{tmp_path}/{name}")
        assert words in str(caught.value)


def test_tells_what_a_foreign_file_is() -> None:
    cases = {kind.looks_like: bytes(at) + magic for at, magic, kind in file_kind._SIGNATURES}
    cases["a PyTorch checkpoint"] = b"PK\x03\x04" + bytes(26) + b"archive/data.pkl"
    cases["an ONNX model"] = b"\x08\x0a\x12\x07pytorch"
    cases["a file of zeros, as an unfinished copy leaves"] = bytes(1000)
    for looks_like, head in cases.items():
        for data in (head, head + bytes(1000)):
            message = refusal(data)
            assert f"it looks like {looks_like}. " in message
            assert any(remedy in message for remedy in REMEDIES)


def test_no_section_of_that_name() -> None:
    with pytest.raises(PlanError, match=r"no section 'vae'; it has: denoiser/model\.xml, denoiser/model\.bin"):
        Plan.parse(plan_bytes.good()).section("vae")


def test_manifest_is_checked_against_the_sections() -> None:
    text = json.dumps(plan_bytes.MANIFEST).encode()
    sections = plan_bytes.SECTIONS | {"denoiser/model.bin": bytes(13)}
    del sections["vae_decoder/model.xml"]
    opened = Plan.parse(plan_bytes.build(text, sections), "x.plan")
    with pytest.raises(PlanError) as caught:
        opened.manifest  # noqa: B018
    message = str(caught.value)
    assert "network 'vae_decoder' needs the section 'vae_decoder/model.xml'" in message
    assert "tensor 'time_embed.0.bias' of network 'denoiser' ends at byte 20" in message
    assert "has 13 bytes" in message


@pytest.mark.parametrize("text", [b"", b"[]", b'{"a": NaN}', b"{", b"[" * 100000, b'{"format": ' + b"9" * 5000 + b"}"])
def test_a_manifest_that_is_no_json_object_is_refused(text: bytes) -> None:
    opened = Plan.parse(plan_bytes.build(text, {}), "x.plan")
    with pytest.raises(PlanError, match=r"^'x\.plan': the manifest "):
        opened.manifest  # noqa: B018


def outcome(reader: Any, path: Path) -> list[Any]:
    """What a reader makes of a file: everything it offers, or the error that it raises."""
    told: list[Any] = []
    try:
        opened = reader(path)
        manifest = opened.manifest_text if isinstance(opened, Plan) else opened.manifest
        sections = [tuple(vars(s).values()) if isinstance(opened, Plan) else s for s in opened.sections]
        told += [opened.name, opened.identity, opened.file_size, manifest, sections]
        told += [bytes(opened.section(name)) for name, *_ in sections]
        opened.verify()
        opened.section("ab\n\u00e9sent")
    except Exception as error:  # of whichever class: the classes are compared
        told += [type(error), str(error)]
    return told


def test_every_mutation_is_read_or_refused_with_a_remedy() -> None:
    outcomes = {label: message_of(data) for label, data in plan_bytes.mutations()}
    for label, message in outcomes.items():
        assert message is None or any(remedy in message for remedy in REMEDIES), label
    accepted = [label for label, message in outcomes.items() if message is None]
    assert len(outcomes) > 800
    assert len(accepted) > 20  # so that the refusals are not of everything
    assert not [label for label in accepted if label.startswith(("header", "byte", "cut"))]


def test_both_readers_agree(tmp_path: Path) -> None:
    native = pytest.importorskip("ctfast._native", reason="the native extension is not built")
    path = tmp_path / "größe.plan"
    foreign = [
        (kind.looks_like, bytes(at) + magic + bytes(n)) for at, magic, kind in file_kind._SIGNATURES for n in (0, 600)
    ]
    compared = 0
    for label, data in [*plan_bytes.mutations(), *foreign]:
        path.write_bytes(data)
        assert outcome(Plan.open, path) == outcome(native.Plan, path), label
        compared += 1
    assert compared > 800
    for name in ("missing", "", "größe.plan/x", "\x1b[31m"):
        there = Path(f"{tmp_path}/{name}")
        assert outcome(Plan.open, there) == outcome(native.Plan, there)
