"""Amounts of memory as people write them, and what a request may take if nothing is said."""

from __future__ import annotations

from typing import Any

import pytest

from ctfast import memory
from ctfast.errors import RequestError
from ctfast.memory import bytes_of, free_bytes, text_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("6GiB", 6 << 30),
        ("800 MB", 800_000_000),
        (" 1.5 gib ", 3 << 29),
        ("2TB", 2 * 10**12),
        ("1TiB", 1 << 40),
        ("64 KiB", 65536),
        ("3kB", 3000),
        ("512B", 512),
        ("123456", 123456),
        (77, 77),
    ],
)
def test_amounts(value: Any, expected: int) -> None:
    assert bytes_of(value) == expected


@pytest.mark.parametrize(
    "value", ["", "GiB", "6 GiBs", "-1GiB", "1e9", "6G", "0", "0.0001B", 0, -5, 1.5, True, None, [1]]
)
def test_no_amounts(value: Any) -> None:
    with pytest.raises(RequestError, match=r"memory: expected bytes or text such as '6GiB' or '800 MB', found"):
        bytes_of(value)


def test_amounts_as_text() -> None:
    assert [text_of(count) for count in (0, 512, 300 << 10, 3 << 19, 6 << 30, 40 << 40)] == [
        "0",
        "0.5 KiB",
        "300.0 KiB",
        "1.5 MiB",
        "6.0 GiB",
        "40960.0 GiB",
    ]


def test_a_margin_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert free_bytes() == 950
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert free_bytes() is None
