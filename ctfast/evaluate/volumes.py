"""Folders of volumes: which files belong to a set, and reading them one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..io.files import FORMATS, read_image, split_name
from ..io.geometry import spacing_of, straight_image
from ..labels import LabelMap

HU = NDArray[np.float32]
_IMAGE_END = "_ct"
_LABEL_ENDS = ("_seg", "_labels")
# What ctfast itself, or a system, puts beside volumes.
_BESIDE = (".json", ".png", ".txt", ".csv", ".md")


@dataclass(frozen=True)
class Item:
    """One volume of a set: its name, its file, and that of its label map if it has one."""

    name: str
    image: Path
    labels: Path | None


@dataclass(frozen=True)
class VolumeSet:
    """The volumes of a folder by name; ``ignored`` are the names of files that are none."""

    path: Path
    items: tuple[Item, ...]
    ignored: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The volumes' names."""
        return tuple(item.name for item in self.items)

    @property
    def labelled(self) -> bool:
        """Whether every volume has a label map."""
        return all(item.labels is not None for item in self.items)


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume in RAS+: ``hu`` float32 (x, y, z), spacing in mm, and its labels uint16 on the same grid, or None."""

    name: str
    hu: HU
    spacing: tuple[float, float, float]
    labels: NDArray[np.uint16] | None = None


def find_set(folder: str | os.PathLike[str], limit: int | None = None) -> VolumeSet:
    """The volumes in ``folder``, sorted by name; the first ``limit`` of them.

    If files are named ``NAME_ct`` (.nii.gz, .nii, .nrrd or .npz), those are the set and ``NAME_seg`` or ``NAME_labels``
    their labels. Otherwise every image file is a volume but those that end in ``_seg`` or ``_labels``. RequestError:
    no such folder, no volumes in it, two files for one volume, labels without a volume.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RequestError(f"'{path}' is not a folder; expected one with volumes ({', '.join(FORMATS)})")
    if limit is not None and limit < 1:
        raise RequestError(f"limit: expected a whole number from 1 on, found {limit}")
    stems: dict[str, Path] = {}
    ignored: list[str] = []
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or file.is_dir() or file.name.lower().endswith(_BESIDE):
            continue
        try:
            stem = split_name(file)[0].name
        except RequestError:
            ignored.append(file.name)
            continue
        if stem in stems:
            raise RequestError(f"'{stems[stem]}' and '{file.name}' are the same volume twice; keep one of them")
        stems[stem] = file
    images = {stem: file for stem, file in stems.items() if not stem.endswith(_LABEL_ENDS)}
    named = {stem: file for stem, file in images.items() if stem.endswith(_IMAGE_END) and stem != _IMAGE_END}
    ignored += [file.name for stem, file in images.items() if named and stem not in named]
    items = [_item(stem, file, stems) for stem, file in sorted((named or images).items())]
    if not items:
        found = f"found {', '.join(sorted([*ignored, *stems])[:3])}" if ignored or stems else "it is empty"
        raise RequestError(f"'{path}' has no volumes; expected files that end in {', '.join(FORMATS)}, {found}")
    return VolumeSet(path, tuple(items[:limit]), tuple(sorted(ignored)))


def _item(stem: str, image: Path, stems: dict[str, Path]) -> Item:
    name = stem[: -len(_IMAGE_END)] if stem.endswith(_IMAGE_END) and stem != _IMAGE_END else stem
    # ctfast writes `ct_labels` beside `ct`, and for `NAME_ct` the name may go either way.
    candidates = [f"{base}{end}" for base in dict.fromkeys((name, stem)) for end in _LABEL_ENDS]
    return Item(name, image, next((stems[each] for each in candidates if each in stems), None))


def load_scan(item: Item, labels: bool = True) -> Scan:
    """Read a volume, and its labels if it has any and ``labels``; RequestError names the file that cannot be used."""
    array, affine = straight_image(*read_image(item.image), f"'{item.image}'")
    hu = np.asarray(array, np.float32)
    if not np.isfinite(hu).all():
        raise RequestError(f"'{item.image}': {int((~np.isfinite(hu)).sum())} voxels are NaN or infinite")
    if min(hu.shape) < 3:
        raise RequestError(f"'{item.image}': expected at least 3 voxels a side, found {_by(hu.shape)}")
    found = None
    if labels and item.labels is not None:
        found = LabelMap.load(item.labels).array
        if found.shape != hu.shape:
            raise RequestError(f"'{item.labels}': expected the volume's {_by(hu.shape)}, found {_by(found.shape)}")
    return Scan(item.name, hu, spacing_of(affine), found)


def pairs_of(generated: VolumeSet, reference: VolumeSet) -> list[tuple[Item, Item]]:
    """Volumes of both sets that share a name; RequestError if one of the generated has no partner."""
    partners = {item.name: item for item in reference.items}
    alone = [name for name in generated.names if name not in partners]
    if alone:
        raise RequestError(
            f"'{generated.path}': expected the names of '{reference.path}', since volumes are compared in pairs; found "
            f"{some(alone)} without a partner"
        )
    return [(item, partners[item.name]) for item in generated.items]


def some(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _by(shape: Iterable[Any]) -> str:
    return " x ".join(str(count) for count in shape)
