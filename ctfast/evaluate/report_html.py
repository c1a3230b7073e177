"""Pieces of a report's page: one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from .montage import Picture

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --faint: #5a626c; --line: #d5dae0; --shade: #f3f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --text: #e4e7eb; --faint: #a0a8b2; --line: #363d46; --shade: #1e2329; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 86rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, ul { margin: .4rem 0; max-width: 70rem; } ul { padding-left: 1.3rem; }
.notice { border: 2px solid #d55e00; padding: .4rem .8rem; font-weight: 600; display: inline-block; }
.faint, caption, figcaption, .method { color: var(--faint); font-size: .87rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--shade); }
td { font-variant-numeric: tabular-nums; }
.hash { display: inline-block; width: 9.5rem; overflow-wrap: anywhere; }
td .method, .wide { display: inline-block; min-width: 18rem; }
.worse { color: #d55e00; font-weight: 600; } .better { color: #008a64; font-weight: 600; }
tbody th { font-weight: 600; white-space: nowrap; }
.charts { columns: 2 34rem; column-gap: 2rem; } .charts figure { margin-bottom: 1.2rem; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; margin: .8rem 0;
  align-items: start; }
figure { margin: 0; break-inside: avoid; }
figure img { max-width: 100%; height: auto; display: block; background: #101010; }
figure svg { width: 100%; height: auto; max-width: 46rem; display: block; }
.case { border-top: 1px solid var(--line); padding: .4rem 0; break-inside: avoid; }
@media screen and (max-width: 50rem) { .pair { grid-template-columns: 1fr; } body { padding: .8rem; } }
@media print {
  :root { --back: #fff; --text: #000; --faint: #444; --line: #bbb; --shade: #eee; }
  body { padding: 0; font-size: 10pt; } .scroll { overflow: visible; } h2, h3 { break-after: avoid; }
  .charts { columns: auto; } figure svg { max-width: 34rem; } td .method, .wide { min-width: 8rem; }
  tr { break-inside: avoid; } * { print-color-adjust: exact; }
}
"""


class Html(str):
    """Text that is HTML already; any other is escaped."""


def shown(value: object) -> str:
    """A value as HTML."""
    return value if isinstance(value, Html) else escape(str(value))


def number(value: float | None) -> str:
    """A figure with four digits, a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def interval(low: float | None, high: float | None) -> str:
    """An interval as in "1.2 to 3.4", a dash for none."""
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def paragraph(value: object, kind: str = "") -> Html:
    """A paragraph; ``kind`` is a class of the style sheet."""
    return Html(f"<p{_class(kind)}>{shown(value)}</p>")


def span(kind: str, value: object) -> Html:
    """Words of a class."""
    return Html(f"<span{_class(kind)}>{shown(value)}</span>")


def bullets(items: Iterable[object]) -> Html:
    """A list; nothing without items."""
    rows = "".join(f"<li>{shown(item)}</li>" for item in items)
    return Html(f"<ul>{rows}</ul>" if rows else "")


def division(kind: str, parts: Iterable[object]) -> Html:
    """Parts inside an element of a class."""
    return Html(f"<div{_class(kind)}>{''.join(shown(part) for part in parts)}</div>")


def heading(level: int, value: object) -> Html:
    """A heading."""
    return Html(f"<h{level}>{shown(value)}</h{level}>")


def table(caption: object, head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose first column names its rows."""
    top = "".join(f'<th scope="col">{shown(cell)}</th>' for cell in head)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{shown(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{shown(first)}</th>{cells}</tr>')
    return Html(
        f'<div class="scroll"><table><caption>{shown(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def chart(svg: str, caption: object) -> Html:
    """An SVG with what it shows under it."""
    return Html(f"<figure>{svg}<figcaption>{shown(caption)}</figcaption></figure>")


def photo(picture: Picture, name: str, caption: object) -> Html:
    """A volume's picture, inside the page."""
    data = base64.b64encode(picture.jpeg).decode("ascii")
    alt = escape(f"{name}: {picture.about}", quote=True)
    return Html(
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{picture.width}" height="{picture.height}" '
        f'alt="{alt}"><figcaption>{shown(caption)}</figcaption></figure>'
    )


def missing(caption: object) -> Html:
    """What stands in a picture's place where there is none."""
    return Html(f"<figure><figcaption>{shown(caption)}</figcaption></figure>")


def section(title: str, parts: Iterable[object]) -> Html:
    """A part of the page under a heading."""
    return Html(f"<section>\n{heading(2, title)}\n{chr(10).join(shown(part) for part in parts)}\n</section>")


def document(title: str, lead: Iterable[object], sections: Iterable[Html]) -> str:
    """The page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be loaded or run, whatever a volume is called.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n{heading(1, title)}\n{chr(10).join(shown(part) for part in lead)}\n</header>\n"
        f"{chr(10).join(sections)}\n</main>\n</body>\n</html>\n"
    )


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""
