"""What made the volumes of a set: the plans, requests and licences that the JSON files beside them name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..io.files import read_sidecar
from .report_html import Html, paragraph, span, table
from .volumes import Item


@dataclass(frozen=True)
class Source:
    """A plan and the settings that it ran with."""

    plan: str
    sha256: str
    request: str
    software: str
    licence: str
    synthetic: bool


def sources_of(items: Iterable[Item]) -> tuple[dict[Source, int], int]:
    """How many volumes each source made, and how many say nothing of theirs."""
    found: dict[Source, int] = {}
    silent = 0
    for item in items:
        meta = read_sidecar(item.image)
        if not isinstance(meta.get("plan"), Mapping):
            silent += 1
            continue
        source = _source(meta)
        found[source] = found.get(source, 0) + 1
    return found, silent


def sources_table(items: Iterable[Item]) -> list[Html]:
    """The same for a page."""
    found, silent = sources_of(items)
    parts = []
    if found:
        head = ("plan", "SHA-256", "volumes", "request", "software", "licence", "marked as synthetic")
        rows = [
            (
                each.plan,
                span("hash", each.sha256),
                count,
                each.request,
                each.software,
                span("wide", each.licence),
                "yes" if each.synthetic else "no",
            )
            for each, count in found.items()
        ]
        parts.append(table("What made the generated volumes, from the JSON beside them", head, rows))
    if silent:
        parts.append(paragraph(f"{silent} of the generated volumes have no JSON beside them that names a plan."))
    return parts


def _source(meta: Mapping[str, Any]) -> Source:
    plan, licence = meta["plan"], _mapping(meta.get("licence"))
    guidance = _mapping(meta.get("guidance"))
    request = [f"{meta.get('steps', '?')} steps of {meta.get('solver', '?')}"]
    if meta.get("time_grid"):
        request.append(f"{meta['time_grid']} time grid")
    if guidance.get("kind", "none") != "none":
        request.append(f"guidance {guidance['kind']} {guidance.get('scale')}")
    request.append("from label maps" if meta.get("mask") else "without label maps")
    software = [f"ctfast {meta.get('ctfast', '?')}"]
    if meta.get("backend"):
        software.append(f"{meta['backend']} on {meta.get('device', '?')}")
    precision = sorted({str(value) for value in _mapping(meta.get("precision")).values()})
    return Source(
        plan=" ".join(dict.fromkeys(str(plan[key]) for key in ("name", "variant", "revision") if plan.get(key))),
        sha256=str(plan.get("sha256", "?")),
        request=", ".join(request),
        software=", ".join([*software, *precision]),
        licence=": ".join(str(licence[key]) for key in ("class", "text") if licence.get(key)) or "not stated",
        synthetic=bool(meta.get("synthetic")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
