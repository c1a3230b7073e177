"""Reading what ``ctfast evaluate`` saved as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import RequestError
from ..json_fields import Fields


def saved_text(path: Path, command: str) -> str:
    """A file's text; RequestError if it is missing or none. ``command`` is what writes such files."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"'{path}' cannot be read: {error}. Give a file that '{command}' wrote") from error


def saved_fields(text: str, what: str, expected: str, newest: int) -> tuple[Fields, list[str]]:
    """The fields of a result, and the list that their problems go to; RequestError: no JSON, or of a newer format."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise RequestError(f"{what}: expected {expected}, found {error}") from error
    problems: list[str] = []
    fields = Fields(content, "", problems, strict=True)
    if fields.whole("format", 1) != newest and not problems:
        raise RequestError(f"{what}: written by a newer ctfast; expected format {newest}. Update ctfast")
    return fields, problems
