"""``ctfast data prepare``: scans of any field of view to aligned crops on one grid, with organ and body labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np

from ctfast.data.align import locate
from ctfast.data.grid import AIR, Labels, Volume, body_envelope, crop, read_canonical, resample
from ctfast.errors import DataError, OutputError

SPACING = (4.0, 4.0, 3.0)
SIZE = (96, 96, 64)
BODY = 200
LOW, HIGH = -1000.0, 1000.0


@dataclass(frozen=True)
class Case:
    """One prepared patient: where its crop came from and how well it matched the template."""

    id: str
    split: str
    score: float
    coverage: float
    start: tuple[int, int, int]
    labels: tuple[int, ...]


@dataclass
class Summary:
    """What was prepared and what was left out, with the reason."""

    cases: list[Case] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def template() -> Volume:
    """The landmark: the mean of aligned head-and-neck scans in HU, shape (96, 96, 64) at 4 x 4 x 3 mm."""
    with resources.as_file(resources.files("ctfast.data") / "headneck_template.nii.gz") as path:
        return np.asarray(nibabel.load(path).dataobj, np.float32)


def prepare_case(
    ct: Path, seg: Path | None, reference: Volume, min_score: float, min_coverage: float
) -> tuple[Volume, Labels, tuple[int, int, int], float, float]:
    """One patient's crop in HU and its label map (organs as given, 200 for the rest of the body).

    Raises:
        DataError: Not head and neck, too little of it in the scan, or images that do not fit together.
    """
    image = read_canonical(ct)
    spacing = image.header.get_zooms()[:3]
    raw = np.asarray(image.dataobj, np.float32)
    if not np.isfinite(raw).all():
        raise DataError(f"{ct}: expected finite HU, found NaN or infinity")
    hu = resample(np.clip(raw, LOW, HIGH), spacing, SPACING, labels=False)
    match = locate(hu, reference)
    if match.score < min_score:
        raise DataError(f"{ct}: does not look like head and neck (correlation {match.score:.2f}, wanted {min_score})")
    if match.coverage < min_coverage:
        raise DataError(
            f"{ct}: only {match.coverage:.0%} of the field of view is in the scan, wanted {min_coverage:.0%}"
        )
    body = crop(body_envelope(hu), match.start, SIZE, 0).astype(bool)
    cut = np.asarray(crop(hu, match.start, SIZE, AIR), np.float32)
    labels = np.where(body, BODY, 0).astype(np.uint8)
    if seg is not None:
        organs = read_canonical(seg)
        if organs.shape != image.shape:
            raise DataError(f"{seg}: expected the CT's shape {image.shape}, found {organs.shape}")
        given = np.asarray(crop(resample(np.asarray(organs.dataobj), spacing, SPACING, labels=True), match.start, SIZE, 0))
        labels = np.where(given > 0, given, labels).astype(np.uint8)
    return cut, labels, match.start, match.score, match.coverage


def affine() -> np.ndarray:
    """RAS+ affine of every prepared crop, its centre at the origin."""
    out = np.diag([*SPACING, 1.0])
    out[:3, 3] = -0.5 * (np.asarray(SIZE) - 1) * np.asarray(SPACING)
    return out


def save_nifti(array: np.ndarray, path: Path) -> None:
    """Write a prepared crop (int16 HU or uint8 labels), whole or not at all."""
    image = nibabel.Nifti1Image(array, affine())
    image.header.set_xyzt_units("mm")
    image.set_qform(affine(), 1)
    image.set_sform(affine(), 1)
    temporary = path.with_name("." + path.name)
    try:
        nibabel.save(image, temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: could not be written: {error}") from error


def find_pairs(source: Path, ct_suffix: str, seg_suffix: str) -> list[tuple[str, Path, Path | None]]:
    """(patient, CT, segmentation or None) of a folder, sorted by patient."""
    pairs = []
    for ct in sorted(source.glob(f"*{ct_suffix}")):
        name = ct.name[: -len(ct_suffix)]
        seg = ct.with_name(name + seg_suffix)
        pairs.append((name, ct, seg if seg.exists() else None))
    if not pairs:
        raise DataError(f"{source}: expected CT files named like 'patient{ct_suffix}', found none; see --ct-suffix")
    return pairs


def choose_validation(names: Sequence[str], count: int, seed: int) -> set[str]:
    """``count`` of the names, drawn by ``seed`` alone (the order of ``names`` does not matter)."""
    if count >= len(names) and count > 0:
        raise DataError(f"expected more patients than the {count} held out, found {len(names)}")
    # By hash, so that a patient more or less moves no other one to the other side.
    return set(sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[:count])


def prepare(
    source: Path,
    output: Path,
    *,
    validation: int = 20,
    seed: int = 0,
    ct_suffix: str = "_ct.nii.gz",
    seg_suffix: str = "_seg.nii.gz",
    min_score: float = 0.6,
    min_coverage: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Prepare every patient of ``source`` into ``output/train`` and ``output/val``, with ``output/dataset.json``.

    Each patient is resampled to 4 x 4 x 3 mm, found by the template and cut to 96 x 96 x 64 voxels; patients that do
    not match or reach too little are left out and named. ``validation`` patients are held out.
    """
    reference = template()
    summary, found = Summary(), {}
    pairs = find_pairs(source, ct_suffix, seg_suffix)
    staging = output / ".staging"
    staging.mkdir(parents=True, exist_ok=True)
    for index, (name, ct, seg) in enumerate(pairs):
        try:
            hu, labels, start, score, coverage = prepare_case(ct, seg, reference, min_score, min_coverage)
        except DataError as error:
            summary.skipped[name] = str(error)
        else:
            save_nifti(np.round(hu).astype(np.int16), staging / f"{name}_ct.nii.gz")
            save_nifti(labels, staging / f"{name}_seg.nii.gz")
            present = tuple(int(v) for v in np.unique(labels) if v)
            found[name] = (score, coverage, start, present)
        if progress is not None:
            progress(index + 1, len(pairs))
    held_out = choose_validation(list(found), validation, seed) if found else set()
    for name, (score, coverage, start, present) in found.items():
        split = "val" if name in held_out else "train"
        (output / split).mkdir(exist_ok=True)
        for kind in ("ct", "seg"):
            os.replace(staging / f"{name}_{kind}.nii.gz", output / split / f"{name}_{kind}.nii.gz")
        summary.cases.append(Case(name, split, round(score, 4), round(coverage, 4), start, present))
    staging.rmdir()
    if not summary.cases:
        reasons = "; ".join(list(summary.skipped.values())[:3])
        raise DataError(f"{source}: no patient could be prepared: {reasons}")
    record = {
        "size": SIZE, "spacing": SPACING, "body_label": BODY, "seed": seed,
        "cases": [asdict(case) for case in summary.cases], "skipped": summary.skipped,
    }
    (output / "dataset.json").write_text(json.dumps(record, indent=1) + "\n")
    return summary
