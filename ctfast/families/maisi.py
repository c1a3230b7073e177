"""MAISI v1 (DDPM) and v2 (rectified flow): how a request's conditions become network inputs.

Facts: Guo et al., MAISI (WACV 2025), Zhao et al., MAISI-v2 (AAAI 2026), and NVIDIA's NV-Generate-CTMR scripts. The
runtime multiplies spacing (mm) and region one-hots by 100 on their way into the network, as those scripts do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..labels import label_counts
from ..manifest import PlanManifest
from . import Region

FAMILIES = ("maisi-v1", "maisi-v2")

REGIONS = ("head", "thorax", "abdomen", "pelvis")
# What the official ddpm-ct configuration asks for.
_DEFAULT_REGIONS = ("thorax", "abdomen")
# Labels of the official vocabulary whose presence shows that a region is in the image.
_REGION_LABELS = {"head": (22, 120), "thorax": (28, 29, 30, 31, 32), "abdomen": (1, 2, 3, 4, 5, 14), "pelvis": (93, 94)}
# Shipped values of cfg_guidance_scale; 0 (one conditional pass) for all others.
_GUIDANCE = {"rflow-mr": 15.0, "rflow-mr-brain": 2.0}
# How far around a tumour its replacement is looked for, in voxels.
_REACH = 8


def default_guidance(manifest: PlanManifest) -> float:
    """The official scripts' guidance scale of the variant."""
    return _GUIDANCE.get(manifest.variant, 0.0)


def guidance_kind(manifest: PlanManifest, masked: bool) -> str | None:
    """Tumour guidance with a mask, modality guidance without, where the plan has what it needs."""
    if masked:
        tumours = manifest.labels is not None and bool(manifest.labels.tumour_replacement)
        return "tumour" if tumours else None
    return "modality" if manifest.conditioning.class_label else None


def region_names() -> tuple[str, ...]:
    """Names of the four regions."""
    return REGIONS


def regions(names: tuple[str, str] | None, labels: NDArray[np.uint16] | None) -> tuple[Region, Region]:
    """Top and bottom region as one-hots (before the factor of 100).

    Without names they are the first and last region that shows in the label map; without either, thorax to abdomen.
    """
    if names is None and labels is not None:
        present = label_counts(labels) > 0
        shown = [region for region in REGIONS if present[list(_REGION_LABELS[region])].any()]
        if shown:
            names = (shown[0], shown[-1])
    top, bottom = names or _DEFAULT_REGIONS
    if REGIONS.index(top) > REGIONS.index(bottom):
        raise RequestError(f"regions: '{top}' lies below '{bottom}'; give them from top to bottom")
    return _one_hot(top), _one_hot(bottom)


def condition_maps(
    manifest: PlanManifest, labels: NDArray[np.uint16], guidance_kind: str
) -> tuple[NDArray[np.uint16], ...]:
    """The mask, and under tumour guidance the same mask with its tumours replaced."""
    if guidance_kind != "tumour" or manifest.labels is None:
        return (labels,)
    healthy = labels.copy()
    for tumour, candidates in manifest.labels.tumour_replacement.items():
        where = labels == tumour
        if where.any():
            healthy[where] = candidates[0] if len(candidates) == 1 else _most_frequent(labels, where, candidates)
    return labels, healthy


def _one_hot(name: str) -> Region:
    a, b, c, d = (float(name == region) for region in REGIONS)
    return a, b, c, d


def _most_frequent(labels: NDArray[np.uint16], where: NDArray[np.bool_], candidates: tuple[int, ...]) -> int:
    """The candidate that is most frequent close around the voxels ``where``; the first one if none is near."""
    corners = [(int(index.min()), int(index.max()) + 1) for index in np.nonzero(where)]
    box = tuple(slice(max(0, low - _REACH), high + _REACH) for low, high in corners)
    near, region = where[box], labels[box]
    for _ in range(_REACH):
        near = _grown(near)
        counts = [int((region[near] == candidate).sum()) for candidate in candidates]
        if any(counts):
            return candidates[counts.index(max(counts))]
    return candidates[0]


def _grown(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``where`` and its six neighbours."""
    grown: NDArray[np.bool_] = where.copy()
    for axis in range(3):
        forward, back = [slice(None)] * 3, [slice(None)] * 3
        forward[axis], back[axis] = slice(1, None), slice(None, -1)
        grown[tuple(forward)] |= where[tuple(back)]
        grown[tuple(back)] |= where[tuple(forward)]
    return grown
