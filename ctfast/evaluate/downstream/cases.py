"""Labelled volumes to train and judge segmenters with, and what tells that two of them are of one patient."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RequestError
from ...io.files import read_sidecar
from ...mask import Mask
from ..volumes import Item, Scan, VolumeSet, load_scan, some

# Spacings of sets that differ by no more than this fraction are taken as the same.
_SAME_SPACING = 0.01
#: Voxels kept in memory, 3 bytes each; volumes beyond that are read from disk whenever they are drawn.
IN_MEMORY = 1 << 30


@dataclass(frozen=True)
class Case:
    """One labelled volume.

    ``keys``: two cases that share one are of one patient. ``labels``: what its map has above 0. ``content``: SHA-256 of
    intensities and labels. ``body``: the label that its JSON says is the rest of the body.
    """

    item: Item
    keys: frozenset[str]
    labels: frozenset[int]
    content: str
    spacing: tuple[float, float, float]
    body: int | None = None

    @property
    def name(self) -> str:
        """The volume's name."""
        return self.item.name


def read_cases(
    volumes: VolumeSet, observer: Callable[[int, int], None], *, named: bool, patient: str | None = None
) -> list[Case]:
    """The cases of a set, each read once.

    A case's keys are the SHA-256 of its intensities (mirrored left to right or not), of its label map, of the mask that
    its JSON says it was generated from, and, if ``named``, its patient: what the first group of the regular expression
    ``patient`` finds in its name, the name unless given.

    RequestError: a volume without label map or without labels, an expression that is none or finds nothing in a name.
    """
    bare = [item.name for item in volumes.items if item.labels is None]
    if bare:
        raise RequestError(
            f"'{volumes.path}': expected a label map (NAME_seg or NAME_labels) beside every volume, found none for "
            f"{some(bare)}"
        )
    cases = []
    for done, item in enumerate(volumes.items):
        observer(done, len(volumes.items))
        keys = {f"patient {_patient(item.name, patient)}"} if named else set()
        cases.append(_case(item, keys))
    observer(len(volumes.items), len(volumes.items))
    return cases


def _case(item: Item, keys: set[str]) -> Case:
    scan = load_scan(item)
    assert scan.labels is not None
    hu = whole_hu(scan)
    drawn = frozenset(int(label) for label in np.unique(scan.labels) if label)
    if not drawn:
        raise RequestError(f"'{item.labels}': expected labels, found nothing but 0")
    digests = [hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in (hu, hu[::-1])]
    labels = Mask(scan.labels, None).sha256
    meta = read_sidecar(item.image)
    keys = {*keys, f"image {min(digests)}", f"labels {labels}"}
    mask = meta.get("mask")
    if isinstance(mask, Mapping) and isinstance(mask.get("sha256"), str):
        keys.add(f"labels {mask['sha256']}")
    body = meta.get("body_label")
    content = hashlib.sha256(f"{hu.shape}{digests[0]}{labels}".encode()).hexdigest()
    return Case(item, frozenset(keys), drawn, content, scan.spacing, body if isinstance(body, int) else None)


def whole_hu(scan: Scan) -> NDArray[np.int16]:
    """A volume's intensities as int16."""
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(scan.hu), limits.min, limits.max).astype(np.int16)


def _patient(name: str, pattern: str | None) -> str:
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise RequestError(f"patient: expected a regular expression, found '{pattern}': {error}") from error
    if found is None:
        raise RequestError(f"patient: '{pattern}' finds nothing in the name '{name}'")
    return str(found[1] if found.re.groups else found[0])


def check_spacings(sets: Mapping[str, Sequence[Case]]) -> None:
    """RequestError unless all volumes have about the same voxel spacing."""
    first = next(case for cases in sets.values() for case in cases)
    for what, cases in sets.items():
        for case in cases:
            if not np.allclose(case.spacing, first.spacing, rtol=_SAME_SPACING, atol=0):
                raise RequestError(
                    f"spacing: expected that of '{first.name}', {_mm(first.spacing)}, in all sets, found "
                    f"{_mm(case.spacing)} in {what} '{case.name}'; resample the volumes to one spacing first"
                )


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing) + " mm"


def labels_of(sets: Mapping[str, Sequence[Case]], asked: Sequence[int] | None = None) -> tuple[int, ...]:
    """The labels to segment: ``asked``, or those that every set has, without what is just the rest of the body.

    RequestError: none in common, or one that was asked for is missing from a set.
    """
    each = {what: frozenset[int]().union(*(case.labels for case in cases)) for what, cases in sets.items()}
    if asked is not None:
        if not asked or min(asked) < 1 or len(set(asked)) < len(asked):
            raise RequestError(f"labels: expected different whole numbers from 1 on, found {list(asked)}")
        for what, labels in each.items():
            missing = sorted(set(asked) - labels)
            if missing:
                raise RequestError(f"labels: the {what} volumes have no {_list(missing)}; they have {_list(labels)}")
        return tuple(sorted(asked))
    bodies = {case.body for cases in sets.values() for case in cases}
    common = frozenset.intersection(*each.values()) - bodies
    if not common:
        have = "; ".join(f"{what} {_list(labels)}" for what, labels in each.items())
        raise RequestError(f"labels: the sets have none in common that is not the body: {have}")
    return tuple(sorted(int(label) for label in common if label is not None))


def _list(labels: Any) -> str:
    return ", ".join(str(label) for label in sorted(labels))


class Store:
    """Volumes as int16 and class numbers as uint8, in memory as far as they fit.

    A label's class is its place in ``labels``, from 1 on; other labels are class 0.
    """

    def __init__(self, labels: Sequence[int], limit: int = IN_MEMORY) -> None:
        self._lookup = np.zeros(1 << 16, np.uint8)
        self._lookup[list(labels)] = np.arange(1, len(labels) + 1)
        self._room = limit
        self._kept: dict[Path, tuple[NDArray[np.int16], NDArray[np.uint8]]] = {}

    def get(self, case: Case) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """HU and classes of a case, both (x, y, z)."""
        kept = self._kept.get(case.item.image)
        if kept is None:
            scan = load_scan(case.item)
            assert scan.labels is not None
            kept = whole_hu(scan), self._lookup[scan.labels]
            if kept[0].size <= self._room:
                self._room -= kept[0].size
                self._kept[case.item.image] = kept
        return kept
