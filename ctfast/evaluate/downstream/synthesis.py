"""A synthetic set out of a plan: one volume or more for every label map of a set of real volumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...io.files import make_folder, read_sidecar
from ...labels import LabelMap
from ...mask import Mask
from ...observer import Observer, report
from ..volumes import Item, VolumeSet

if TYPE_CHECKING:
    from ...engine import Engine

STAGE = "generate"


@dataclass(frozen=True)
class _Wanted:
    """A volume to make: from whose label map, with which sample number, to which file."""

    source: Item
    sample: int
    target: Path

    @property
    def labels(self) -> Path:
        """The label map that it is made from."""
        assert self.source.labels is not None
        return self.source.labels

    @property
    def item(self) -> Item:
        """The volume as one of a set; ctfast writes the mask beside it, which is its label map."""
        stem = self.target.name.removesuffix(".nii.gz")
        return Item(stem.removesuffix("_ct"), self.target, self.target.with_name(f"{stem}_labels.nii.gz"))


def make_set(
    engine: Engine, real: VolumeSet, folder: Path, *, copies: int = 1, seed: int = 0, observer: Observer
) -> VolumeSet:
    """Generate ``copies`` volumes of every label map of ``real`` into ``folder``, or take those that are there already.

    Volume number i of the set is sample i of ``seed``. What lies there is taken if its JSON names the same plan, label
    map, seed and sample, so that a run that was broken off goes on. RequestError: the plan takes no masks, or not
    these; OutputError: a volume cannot be written; CancelledError: the observer wants to stop.
    """
    if copies < 1:
        raise RequestError(f"copies: expected a whole number from 1 on, found {copies}")
    make_folder(folder)
    wanted = [
        _Wanted(item, index * copies + copy, folder / f"{item.name}_{copy}_ct.nii.gz")
        for index, item in enumerate(real.items)
        for copy in range(copies)
    ]
    missing = [each for each in wanted if not _is_there(each, engine, seed)]
    done = len(wanted) - len(missing)

    def requests() -> Iterator[dict[str, Any]]:
        for each in missing:
            mask = LabelMap.load(each.labels)
            yield {"mask": mask, "seed": seed, "sample": each.sample, "output": each.target}

    def asks(*_: object) -> bool:
        return observer(STAGE, done, len(wanted))

    with closing(engine.generate_many(requests(), asks)) as volumes:
        for _ in volumes:
            done += 1
            report(observer, STAGE, done, len(wanted))
    return VolumeSet(folder, tuple(each.item for each in wanted))


def about_set(engine: Engine, copies: int, seed: int) -> dict[str, Any]:
    """What made a set, JSON-ready."""
    manifest, schedule = engine.manifest, engine.manifest.schedule
    return {
        "plan": {"name": manifest.name, "variant": manifest.variant, "sha256": engine.identity},
        "solver": schedule.solver,
        "copies": copies,
        "seed": seed,
    }


def _is_there(wanted: _Wanted, engine: Engine, seed: int) -> bool:
    """Whether the file is what would be generated."""
    if not wanted.target.exists():
        return False
    meta = read_sidecar(wanted.target)
    mask = Mask(LabelMap.load(wanted.labels).array, None).sha256
    return (
        (meta.get("plan") or {}).get("sha256") == engine.identity
        and (meta.get("mask") or {}).get("sha256") == mask
        and (meta.get("seed"), meta.get("sample")) == (seed, wanted.sample)
    )
