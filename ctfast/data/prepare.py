"""``ctfast data prepare``: scans of any field of view to aligned crops on one grid, with organ and body labels."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import SpatialImage

from ctfast.data.align import EVIDENCE, Match, locate
from ctfast.data.grid import AIR, Labels, Volume, body_envelope, crop, read_canonical, read_values, resample
from ctfast.errors import DataError, OutputError, RequestError

SPACING = (4.0, 4.0, 3.0)
SIZE = (96, 96, 64)
BODY = 200
# A scan with fewer voxels than this along an axis, at SPACING, has too little in it to find a landmark.
SMALLEST = 16
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
        return read_values(read_canonical(path), path)


def prepare_case(
    ct: Path, seg: Path | None, reference: Volume, min_score: float, min_coverage: float
) -> tuple[Volume, Labels, Match]:
    """One patient's crop in HU and its label map (organs as given, 200 for the rest of the body), and where it lay.

    Raises:
        DataError: Not head and neck, too little of it in the scan, or images that do not fit together.
    """
    image = read_canonical(ct)
    spacing = image.header.get_zooms()[:3]
    hu = resample(np.clip(read_values(image, ct), LOW, HIGH), spacing, SPACING, labels=False)
    if min(hu.shape) < SMALLEST:
        extent = [round(n * mm) for n, mm in zip(hu.shape, SPACING, strict=True)]
        wanted = [round(SMALLEST * mm) for mm in SPACING]
        raise DataError(f"{ct}: expected a scan of at least {_by(wanted)} mm, found {_by(extent)} mm")
    match = locate(hu, reference)
    if match.coverage >= EVIDENCE and match.score < min_score:
        raise DataError(f"{ct}: does not look like head and neck (correlation {match.score:.2f}, wanted {min_score})")
    if match.coverage < min_coverage:
        raise DataError(
            f"{ct}: only {match.coverage:.0%} of the field of view is in the scan, wanted {min_coverage:.0%}"
        )
    body = crop(body_envelope(hu), match.start, SIZE, 0)
    labels = np.where(body, BODY, 0).astype(np.uint8)
    if seg is not None:
        given = crop(_organs(seg, image), match.start, SIZE, 0)
        labels = np.where(given > 0, given, labels).astype(np.uint8)
    return crop(hu, match.start, SIZE, AIR), labels, match


def _organs(seg: Path, image: SpatialImage) -> Volume:
    """The given label map on the grid of the crops."""
    organs = read_canonical(seg)
    if organs.shape != image.shape:
        raise DataError(f"{seg}: expected the CT's shape {_by(image.shape)}, found {_by(organs.shape)}")
    if not np.allclose(np.asarray(organs.affine), np.asarray(image.affine), atol=0.01):
        raise DataError(f"{seg}: lies elsewhere in space than its CT; both need the same affine")
    values = read_values(organs, seg)
    if values.min() < 0 or values.max() >= BODY or (values != np.round(values)).any():
        raise DataError(
            f"{seg}: expected whole labels from 0 to {BODY - 1} ({BODY} is the body's), "
            f"found {values.min():g} to {values.max():g}"
        )
    return resample(values, image.header.get_zooms()[:3], SPACING, labels=True)


def _by(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


def affine() -> npt.NDArray[np.float64]:
    """RAS+ affine of every prepared crop, its centre at the origin."""
    out = np.diag([*SPACING, 1.0])
    out[:3, 3] = -0.5 * (np.asarray(SIZE) - 1) * np.asarray(SPACING)
    return out


def save_nifti(array: npt.NDArray[np.int16] | Labels, path: Path) -> None:
    """Write a prepared crop (int16 HU or uint8 labels)."""
    image = nibabel.Nifti1Image(array, affine())
    image.header.set_xyzt_units("mm")
    image.set_qform(affine(), 1)
    image.set_sform(affine(), 1)
    nibabel.save(image, path)


def find_pairs(source: Path, ct_suffix: str, seg_suffix: str) -> list[tuple[str, Path, Path | None]]:
    """(patient, CT, segmentation or None) of a folder, sorted by patient."""
    pairs = []
    for ct in sorted(source.glob(f"*{ct_suffix}")):
        if ct.name.endswith(seg_suffix):
            continue
        name = ct.name[: -len(ct_suffix)]
        seg = ct.with_name(name + seg_suffix)
        pairs.append((name, ct, seg if seg.exists() else None))
    if not pairs:
        raise DataError(f"{source}: expected CT files named like 'patient{ct_suffix}', found none; see --ct-suffix")
    return pairs


def choose_validation(names: Sequence[str], count: int, seed: int) -> set[str]:
    """``count`` of the names, drawn by ``seed`` alone (the order of ``names`` does not matter)."""
    if count < 0:
        raise DataError(f"expected no or more patients to hold out, found {count}")
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
    progress: Callable[[int, int], object] | None = None,
) -> Summary:
    """Prepare every patient of ``source`` into ``output/train`` and ``output/val``, with ``output/dataset.json``.

    Each patient is resampled to 4 x 4 x 3 mm, found by the template and cut to 96 x 96 x 64 voxels; patients that do
    not match or reach too little are left out and named. ``validation`` patients are held out. The folder appears
    when it is complete.

    Raises:
        DataError: There are no patients, or none that can be used.
        RequestError: ``output`` exists and is not empty.
        OutputError: It cannot be written.
    """
    pairs = find_pairs(source, ct_suffix, seg_suffix)
    choose_validation([name for name, _, _ in pairs], validation, seed)  # refuses a count that cannot be held out
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise RequestError(f"{output}: expected a new or empty folder, so that no crop of another run stays in it")
    staging = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        summary = _prepare_all(pairs, staging, validation, seed, min_score, min_coverage, progress)
        if not summary.cases:
            reasons = "; ".join(list(summary.skipped.values())[:3])
            raise DataError(f"{source}: no patient could be prepared: {reasons}")
        record = {
            "size": SIZE,
            "spacing": SPACING,
            "body_label": BODY,
            "seed": seed,
            "cases": [asdict(case) for case in summary.cases],
            "skipped": summary.skipped,
        }
        (staging / "dataset.json").write_text(json.dumps(record, indent=1) + "\n")
        os.replace(staging, output)
    except OSError as error:
        raise OutputError(f"{output}: could not be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return summary


def _prepare_all(
    pairs: Sequence[tuple[str, Path, Path | None]],
    folder: Path,
    validation: int,
    seed: int,
    min_score: float,
    min_coverage: float,
    progress: Callable[[int, int], object] | None,
) -> Summary:
    """Prepare all patients into ``folder``; who is held out is decided among those that could be."""
    reference = template()
    summary = Summary()
    found: dict[str, tuple[Match, tuple[int, ...]]] = {}
    for index, (name, ct, seg) in enumerate(pairs):
        try:
            hu, labels, match = prepare_case(ct, seg, reference, min_score, min_coverage)
        except DataError as error:
            summary.skipped[name] = str(error)
        else:
            save_nifti(np.round(hu).astype(np.int16), folder / f"{name}_ct.nii.gz")
            save_nifti(labels, folder / f"{name}_seg.nii.gz")
            found[name] = match, tuple(int(v) for v in np.unique(labels) if v)
        if progress is not None:
            progress(index + 1, len(pairs))
    held_out = choose_validation(list(found), validation, seed) if found else set()
    for name, (match, present) in found.items():
        split = "val" if name in held_out else "train"
        (folder / split).mkdir(exist_ok=True)
        for kind in ("ct", "seg"):
            os.replace(folder / f"{name}_{kind}.nii.gz", folder / split / f"{name}_{kind}.nii.gz")
        summary.cases.append(Case(name, split, round(match.score, 4), round(match.coverage, 4), match.start, present))
    return summary
