"""The pictures of a report: volumes of an evaluation's sets, as far as they are still where they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import RequestError
from ..io.files import NOTICE
from ..observer import Observer, report
from .montage import Window, picture_of
from .report_html import Html, bullets, division, heading, missing, paragraph, photo
from .report_worst import Case
from .result import Evaluation, SetOfVolumes
from .volumes import Item, find_set

SETS = ("generated", "reference", "training")


@dataclass
class Gallery:
    """Where the volumes of an evaluation's sets are; ``lost`` says for a set why it cannot be shown."""

    items: dict[str, dict[str, Item]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Evaluation, base: Path | None = None) -> Gallery:
        """Look for the sets; one that is gone is no error. ``base`` is where else relative paths may start."""
        gallery = cls()
        for which in SETS:
            folder: SetOfVolumes | None = getattr(result, which)
            if folder is None:
                continue
            path = Path(folder.path)
            if base is not None and not path.is_dir():
                path = base / path
            try:
                found = find_set(path).items[: folder.volumes]
                gallery.items[which] = {item.name: item for item in found}
            except RequestError as error:
                gallery.lost[which] = str(error)
        return gallery

    def names(self, which: str) -> list[str]:
        """The names of a set's volumes; none if it is gone."""
        return list(self.items.get(which, {}))

    def photo(self, which: str, name: str, windows: Sequence[Window], caption: str) -> Html:
        """A volume's picture, or words that say why there is none."""
        item = self.items.get(which, {}).get(name)
        if item is None:
            return missing(f"{caption}: no picture, {self.lost.get(which, 'the volume is no longer in its folder')}")
        try:
            return photo(picture_of(item, windows), name, caption)
        except (RequestError, OSError) as error:
            return missing(f"{caption}: no picture, {error}")


def sample(names: Sequence[str], count: int, seed: int) -> list[str]:
    """Some of the names, the same for the same seed, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    return [names[index] for index in sorted(chosen)]


def montage(
    result: Evaluation, gallery: Gallery, windows: Sequence[Window], count: int, seed: int, observer: Observer
) -> list[Html]:
    """A random sample of generated volumes beside reference ones; beside their namesakes if the sets are paired."""
    made = sample(gallery.names("generated"), count, seed)
    real = made if result.paired and made else sample(gallery.names("reference"), count, seed)
    parts = [paragraph(_how_shown(windows)), paragraph(f"{NOTICE} The left column is generated, the right one real.")]
    parts += [paragraph(f"No pictures of the {which} set: {why}.") for which, why in gallery.lost.items()]
    for index in range(max(len(made), len(real))):
        report(observer, "pictures", index, max(len(made), len(real)))
        pair = []
        for which, names in (("generated", made), ("reference", real)):
            if index < len(names) and which in gallery.items:
                caption = f"{names[index]}, {'synthetic' if which == 'generated' else 'reference'}"
                pair.append(gallery.photo(which, names[index], windows, caption))
            else:
                pair.append(Html("<div></div>"))
        parts.append(division("pair", pair))
    return parts


def namesakes(
    galleries: Sequence[Gallery], windows: Sequence[Window], count: int, seed: int, observer: Observer
) -> list[Html]:
    """A random sample of volumes that two generated sets both have by name, beside each other."""
    old, new = galleries
    shared = sample([name for name in old.names("generated") if name in new.items.get("generated", {})], count, seed)
    if not shared:
        lost = [gallery.lost["generated"] for gallery in galleries if "generated" in gallery.lost]
        why = "; ".join(dict.fromkeys(lost)) or "the generated sets have no names in common"
        return [paragraph(f"No pictures beside each other: {why}.")]
    parts = [
        paragraph(_how_shown(windows)),
        paragraph(f"{NOTICE} The left column is the old run, the right one the new."),
    ]
    for index, name in enumerate(shared):
        report(observer, "pictures", index, len(shared))
        photos = [
            gallery.photo("generated", name, windows, f"{name}, synthetic, {run}")
            for gallery, run in zip(galleries, ("old", "new"), strict=True)
        ]
        parts.append(division("pair", photos))
    return parts


def cases(listed: Sequence[Case], gallery: Gallery, windows: Sequence[Window], observer: Observer) -> list[Html]:
    """Each case with its reasons, its picture, and those of the volumes to be seen beside it."""
    parts = []
    for index, case in enumerate(listed):
        report(observer, "worst cases", index, len(listed))
        photos = [gallery.photo("generated", case.name, windows, f"{case.name}, synthetic")]
        for which, name in case.beside.items():
            words = "nearest training volume" if which == "training" else "namesake in the reference set"
            photos.append(gallery.photo(which, name, windows, f"{name}, {words}"))
        parts.append(division("case", [heading(3, case.name), bullets(case.reasons), division("pair", photos)]))
    return parts


def _how_shown(windows: Sequence[Window]) -> str:
    shown = "; ".join(window.title for window in windows)
    return (
        f"Axial, coronal and sagittal plane through the centre of the volume. From left to right the windows {shown}; "
        "where there are label maps, a last column shows their outlines. Radiological convention: the patient's right "
        "(R) is on the left, the front (A) is up in axial and on the left in sagittal planes, the head is up. Pixels "
        "are square in mm."
    )
