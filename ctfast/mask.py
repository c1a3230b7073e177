"""Label maps that condition a generation: read, placed on the request's grid, checked against the plan's vocabulary."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .io.geometry import Affine, resampled_nearest, spacing_of, straight_image
from .io.source import read_source
from .labels import as_labels, label_counts
from .manifest import Float3, Labels, Size3

# Fields of view that differ by no more than this fraction are taken as the same one on another grid.
_SAME_FOV = 0.05
_SAME_SPACING = 1e-3


@dataclass(frozen=True, eq=False)
class Mask:
    """A label map in RAS+: ``labels`` uint16 (x, y, z), and its affine if it came with one."""

    labels: NDArray[np.uint16]
    affine: Affine | None

    @property
    def size(self) -> Size3:
        """Voxels along x, y and z."""
        x, y, z = self.labels.shape
        return x, y, z

    @property
    def spacing(self) -> Float3 | None:
        """Voxel spacing in mm, None for a bare array."""
        return None if self.affine is None else spacing_of(self.affine)

    @property
    def sha256(self) -> str:
        """Of the labels' values and shape: what the volume depends on, whatever file they came from."""
        digest = hashlib.sha256(np.array(self.labels.shape, dtype="<u8").tobytes())
        digest.update(np.ascontiguousarray(self.labels, "<u2").data)
        return digest.hexdigest()


def read_mask(source: Any) -> Mask:
    """Read a label map and reorient it to RAS+; a bare array is taken as it is, (x, y, z).

    RequestError: missing or unreadable, not three-dimensional, oblique, values that are no labels, or nothing but 0.
    """
    array, affine = read_source(source, "mask", labels=True)
    if affine is not None:
        array, affine = straight_image(array, affine, "mask")
    elif array.ndim != 3 or array.size == 0:
        raise RequestError(f"mask: expected a three-dimensional label map, found shape {array.shape}")
    labels = as_labels(array, "mask")
    if not labels.any():
        raise RequestError("mask: it is empty, every voxel is 0; give the label map of a body")
    return Mask(labels, affine)


def fitted(mask: Mask, size: Size3 | None, spacing: Float3 | None) -> tuple[Mask, str | None]:
    """The mask on the grid that was asked for, and a warning if it had to be resampled.

    A mask on that grid is returned as it is. One that shows the same field of view on another grid is resampled to the
    nearest voxel, if both size and spacing were given. RequestError for everything else.
    """
    same_size = size is None or size == mask.size
    given = mask.spacing
    same_spacing = spacing is None or given is None or np.allclose(spacing, given, rtol=_SAME_SPACING, atol=0)
    if same_size and same_spacing:
        return mask, None
    if mask.affine is None or given is None:
        raise RequestError(f"mask: its shape is {mask.size} and the size asked for is {size}: they must be equal")
    if size is not None and spacing is not None:
        wanted = np.array(size) * np.array(spacing)
        found = np.array(mask.size) * np.array(given)
        if np.all(np.abs(found - wanted) <= _SAME_FOV * wanted):
            labels, affine = resampled_nearest(mask.labels, mask.affine, size, spacing)
            text = f"the mask was resampled from {_grid(mask.size, given)} to {_grid(size, spacing)} (nearest voxel)"
            return Mask(labels.astype(np.uint16), affine), text
    asked = [f"size {size}"] if size is not None and not same_size else []
    asked += [f"spacing {_numbers(spacing)} mm"] if spacing is not None and not same_spacing else []
    raise RequestError(
        f"mask: it has {_grid(mask.size, given)}, which conflicts with the {' and '.join(asked)} asked for. Leave size "
        "and spacing out to take the mask's, or crop or pad the mask to the field of view that you want"
    )


def vocabulary_problem(labels: NDArray[np.uint16], vocabulary: Labels) -> str | None:
    """None if every label is in the plan's vocabulary, else a sentence that names those that are not."""
    known = set(vocabulary.names) | {0}
    if vocabulary.body is not None:
        known.add(vocabulary.body)
    counts = label_counts(labels)
    unknown = [int(value) for value in np.nonzero(counts)[0] if int(value) not in known]
    if not unknown:
        return None
    shown = ", ".join(str(value) for value in unknown[:12]) + (", ..." if len(unknown) > 12 else "")
    return (
        f"mask: values that are not labels of this plan: {shown} ({int(counts[unknown].sum())} voxels). "
        f"Its labels are {describe(vocabulary)}"
    )


def body_warning(labels: NDArray[np.uint16], vocabulary: Labels) -> str | None:
    """A sentence if no voxel is labelled as body, the most common mistake in masks; else None."""
    if vocabulary.body is None or (labels == vocabulary.body).any():
        return None
    return (
        f"the mask has no voxel of body (label {vocabulary.body}): everything outside the labelled structures will be "
        f"air. Give label {vocabulary.body} to all of the patient that no other label covers"
    )


def describe(vocabulary: Labels) -> str:
    """The vocabulary in one line, shortened if long."""
    names = dict(vocabulary.names)
    if vocabulary.body is not None:
        names.setdefault(vocabulary.body, "body")
    words = [f"{value} {name}" for value, name in sorted(names.items())]
    return ", ".join(words if len(words) <= 16 else [*words[:14], "...", words[-1]])


def _numbers(values: Float3) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _grid(size: Size3, spacing: Float3) -> str:
    return f"{' x '.join(str(count) for count in size)} voxels of {_numbers(spacing)} mm"
