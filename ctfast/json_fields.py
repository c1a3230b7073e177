"""Typed reading of JSON objects that notes every problem instead of stopping at the first.

A getter always returns a value of its type; where it noted a problem, that value is a harmless stand-in, so the caller
must look at the list of problems before it uses what it read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Fields:
    """One JSON object being read.

    ``where`` is its place in the document, for messages ("sizes.rule"). With ``strict``, ``finish`` also notes keys
    that nobody asked for.
    """

    def __init__(self, value: object, where: str, problems: list[str], *, strict: bool) -> None:
        """Start on ``value``; anything but an object is noted and then read as an empty one without further notes."""
        self._problems = problems
        self._strict = strict
        self._where = where
        self._asked: set[str] = set()
        self._values: Mapping[str, Any] = {}
        self._silent = not isinstance(value, Mapping)
        if isinstance(value, Mapping):
            self._values = value
        else:
            problems.append(f"{where or 'the document'}: expected an object, found {shown(value)}")

    def note(self, key: str, problem: str) -> None:
        """Add a problem with ``key`` to the list."""
        if not self._silent:
            self._problems.append(f"{self.place(key)}: {problem}")

    def place(self, key: str) -> str:
        """The key's place in the document."""
        return f"{self._where}.{key}" if self._where else key

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        self._asked.add(key)
        return self._values.get(key) is not None

    def text(self, key: str, choices: tuple[str, ...] = (), *, empty: bool = False) -> str:
        """A string, one of ``choices`` if there are any, not blank unless ``empty``."""
        value = self._value(key)
        if choices and value not in choices:
            self._expected(key, "one of " + ", ".join(choices), value)
        elif not isinstance(value, str) or (not empty and not value.strip()):
            self._expected(key, "a string" if empty else "a string that is not blank", value)
        else:
            return value
        return ""

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._value(key)
        if isinstance(value, bool):
            return value
        self._expected(key, "true or false", value)
        return False

    def whole(self, key: str, low: int) -> int:
        """A whole number of at least ``low``."""
        value = self._value(key)
        if is_whole(value) and value >= low:
            return int(value)
        self._expected(key, f"a whole number of at least {low}", value)
        return low

    def number(self, key: str, *, positive: bool = False) -> float:
        """A finite number."""
        value = self._value(key)
        if _is_number(value) and (value > 0 or not positive):
            return float(value)
        self._expected(key, "a positive number" if positive else "a number", value)
        return 1.0

    def number_or_none(self, key: str) -> float | None:
        """A finite number, or None where there is none."""
        return self.number(key) if self.has(key) else None

    def wholes(self, key: str, low: int, length: int | None = None) -> tuple[int, ...]:
        """A list of whole numbers of at least ``low``."""
        value = self._value(key)
        if _is_list(value, length) and all(is_whole(item) and item >= low for item in value):
            return tuple(value)
        count = "" if length is None else f"{length} "
        self._expected(key, f"a list of {count}whole numbers of at least {low}", value)
        return (max(low, 1),) * (length or 0)

    def triple(self, key: str) -> tuple[int, int, int]:
        """Three positive whole numbers, for x, y, z."""
        x, y, z = self.wholes(key, 1, 3)
        return x, y, z

    def positive_triple(self, key: str) -> tuple[float, float, float]:
        """Three positive numbers, for x, y, z."""
        value = self._value(key)
        if _is_list(value, 3) and all(_is_number(item) and item > 0 for item in value):
            return float(value[0]), float(value[1]), float(value[2])
        self._expected(key, "a list of 3 positive numbers", value)
        return 1.0, 1.0, 1.0

    def texts(self, key: str, *, at_least: int = 0) -> tuple[str, ...]:
        """A list of different strings that are not blank."""
        value = self._value(key)
        if (
            _is_list(value, None)
            and len(value) >= at_least
            and all(isinstance(item, str) and item.strip() for item in value)
            and len(set(value)) == len(value)
        ):
            return tuple(value)
        self._expected(key, f"a list of {f'at least {at_least} ' if at_least else ''}different strings", value)
        return ()

    def mapping(self, key: str) -> dict[str, Any]:
        """An object, as it is."""
        value = self._value(key)
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return dict(value)
        self._expected(key, "an object", value)
        return {}

    def child(self, key: str) -> Fields:
        """An object to be read in turn."""
        self._asked.add(key)
        if key in self._values:
            return Fields(self._values[key], self.place(key), self._problems, strict=self._strict)
        self._expected(key, "an object", None)
        nothing = Fields({}, "", [], strict=False)
        nothing._silent = True
        return nothing

    def children(self, key: str) -> list[tuple[str, Fields]]:
        """An object of objects, each with its name."""
        return [
            (name, Fields(value, f"{self.place(key)}.{name}", self._problems, strict=self._strict))
            for name, value in self.mapping(key).items()
        ]

    def values(self, key: str) -> tuple[Any, ...]:
        """A list, as it is."""
        value = self._value(key)
        if _is_list(value, None):
            return tuple(value)
        self._expected(key, "a list", value)
        return ()

    def items(self, key: str) -> list[Fields]:
        """A list of objects."""
        value = self._value(key)
        if not _is_list(value, None):
            self._expected(key, "a list of objects", value)
            return []
        return [
            Fields(item, f"{self.place(key)}[{index}]", self._problems, strict=self._strict)
            for index, item in enumerate(value)
        ]

    def finish(self) -> None:
        """Note the keys that nobody asked for, if strict."""
        if self._strict:
            for key in self._values:
                if key not in self._asked:
                    self.note(key, "unknown key")

    def _value(self, key: str) -> Any:
        self._asked.add(key)
        return self._values.get(key)

    def _expected(self, key: str, expected: str, found: object) -> None:
        self.note(key, f"expected {expected}, found {shown(found) if key in self._values else 'nothing'}")


def is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number that every JSON reader holds exactly (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53


def shown(value: object) -> str:
    """A JSON value as a message shows it."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of a double
        return False


def _is_list(value: object, length: int | None) -> bool:
    return isinstance(value, (list, tuple)) and (length is None or len(value) == length)
