"""Reading an HTML page: is it well formed, and what is in it."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from typing import Any

from PIL import Image

_VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """A page that was read; AssertionError if its tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    @property
    def text(self) -> str:
        """What a reader sees as text."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    def pictures(self) -> list[Any]:
        """The pictures inside the page."""
        found = []
        for image in self.all("img"):
            kind, data = (image["src"] or "").split(",", 1)
            assert kind == "data:image/jpeg;base64"
            found.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element without content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that it is the last one that was opened."""
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        """Collect text, without the style sheet."""
        if not self._open or self._open[-1] != "style":
            self.words.append(data)
