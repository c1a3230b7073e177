"""A parametric head-and-neck label map, drawn by code: to try mask conditioning with no data at hand.

Organs, targets and outline are simple solids. Their mean places and extents, and how much they vary, follow the label
maps of the OpenKBP patients (Babier et al., Med Phys 2021;48:5549), measured from the mandible's centroid; no patient's
shape is in here. Millimetres throughout, x to the right, y to the front, z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._version import __version__
from .errors import RequestError
from .io.geometry import centred_affine
from .labels import LabelMap

SIZE = (96, 96, 64)
SPACING = (4.0, 4.0, 3.0)
# Where the mandible's centroid lies, as fractions of the volume's extent: how the embedded plan's data are cropped.
LANDMARK = (0.5, 0.67, 0.465)

BRAINSTEM, CORD, PAROTID_RIGHT, PAROTID_LEFT, ESOPHAGUS, LARYNX, MANDIBLE, PTV56, PTV63, PTV70 = range(1, 11)
BODY = 200
NAMES = {
    **{BRAINSTEM: "Brainstem", CORD: "SpinalCord", PAROTID_RIGHT: "RightParotid", PAROTID_LEFT: "LeftParotid"},
    **{ESOPHAGUS: "Esophagus", LARYNX: "Larynx", MANDIBLE: "Mandible"},
    **{PTV56: "PTV56", PTV63: "PTV63", PTV70: "PTV70", BODY: "Body"},
}

# The outline by height: z, half width, back, front.
_OUTLINE = (
    (-130, 74, -158, -26),
    (-100, 72, -150, -18),
    (-80, 68, -143, -8),
    (-60, 67, -136, 2),
    (-45, 67, -133, 20),
    (-32, 68, -130, 43),
    (-20, 69, -129, 50),
    (0, 74, -135, 52),
    (20, 80, -146, 51),
    (40, 82, -154, 51),
    (60, 79, -153, 52),
    (90, 76, -153, 40),
    (130, 60, -140, 20),
)
# Centre lines: z, y.
_CORD = ((-170, -128), (-130, -108), (-100, -94), (-70, -82), (-40, -75), (0, -75), (30, -76))
_BRAINSTEM = ((10, -77), (40, -76), (60, -72), (90, -65))
_ESOPHAGUS = ((-170, -84), (-125, -68), (-100, -60), (-80, -56))
_ARCH = 1.7  # power of the superellipse along which the mandible runs
# Half widths of the brainstem: z, across, front to back.
_BRAINSTEM_WIDTH = ((10, 6, 6), (30, 8, 8), (50, 12, 10), (70, 14, 12), (90, 14, 11))

Field = NDArray[np.float64]
Solid = NDArray[np.bool_]


@dataclass(frozen=True)
class _Space:
    """Millimetres from the landmark at every voxel, broadcastable: x (n, 1, 1), y and z as fields."""

    x: Field
    y: Field
    z: Field

    def ellipsoid(self, centre: Sequence[float], half: Sequence[float] | Field, power: float = 2.0) -> Solid:
        """A superellipsoid: power 2 is an ellipsoid, a higher one is boxier."""
        parts = (
            np.abs((axis - at) / extent) ** power
            for axis, at, extent in zip((self.x, self.y, self.z), centre, half, strict=True)
        )
        return np.asarray(sum(parts) <= 1.0)

    def tube(self, line: Sequence[Sequence[float]], across: Field | float, deep: Field | float, x: float = 0) -> Solid:
        """A tube along a line in the middle plane (rows of z, y), elliptic in cross-section, cut at the line's ends."""
        z, y = np.array(line, dtype=np.float64).T
        middle = np.interp(self.z, z, y)
        inside = ((self.x - x) / across) ** 2 + ((self.y - middle) / deep) ** 2 <= 1.0
        return np.asarray(inside & (self.z >= z[0]) & (self.z <= z[-1]))

    def column(self, x: float, y: float, bottom: float, top: float, radius: float, slope: float) -> Solid:
        """A round-ended column that leans back by ``slope`` downwards: the shape of a chain of lymph nodes."""
        height = np.clip(self.z, bottom + radius, top - radius)
        lean = y + slope * (height - bottom)
        return np.asarray((self.x - x) ** 2 + (self.y - lean) ** 2 + (self.z - height) ** 2 <= radius**2)


def phantom(size: Sequence[int] = SIZE, spacing: Sequence[float] = SPACING, seed: int = 0) -> LabelMap:
    """Draw a head-and-neck label map; each ``seed`` (from 0 on) is another patient.

    ``size`` is voxels (x, y, z) and ``spacing`` mm; the anatomy keeps its size in mm, so another field of view shows
    more or less of it. The centre of the volume is at (0, 0, 0). RequestError: size, spacing or seed out of range.
    """
    if len(size) != 3 or any(int(count) != count or not 8 <= count <= 1024 for count in size):
        raise RequestError(f"phantom size: expected three whole numbers from 8 to 1024, found {tuple(size)}")
    if len(spacing) != 3 or not all(0.1 <= step <= 50 for step in spacing):
        raise RequestError(f"phantom spacing: expected three numbers from 0.1 to 50 mm, found {tuple(spacing)}")
    if int(seed) != seed or seed < 0:
        raise RequestError(f"phantom seed: expected a whole number from 0 on, found {seed!r}")
    rng = np.random.default_rng(int(seed))
    space = _space([int(count) for count in size], spacing, rng)
    labels = np.zeros(tuple(int(count) for count in size), np.uint16)
    body = _body(space, rng)
    labels[body] = BODY
    inner = _body_core(body, spacing)
    # Later ones lie on top: the targets by dose, then the organs, as in clinical data.
    for label, solid in (*_targets(space, rng), *_organs(space, rng)):
        labels[solid & (inner if label >= PTV56 else body)] = label
    present = {int(label): NAMES[int(label)] for label in np.unique(labels) if label}
    meta = {"synthetic": True, "ctfast": __version__, "source": "phantom", "seed": int(seed), "labels_present": present}
    return LabelMap(labels, centred_affine(labels.shape, spacing), meta)


def _space(size: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> _Space:
    """The voxels' places in the patient, who varies in size, in where he lies, and in how his head is bent."""
    scale = np.clip(rng.normal(1.0, 0.04, 3), 0.9, 1.1) * np.clip(rng.normal(1.0, 0.03), 0.93, 1.07)
    shift = rng.normal(0.0, (3.0, 5.0, 8.0))
    bend, lean = np.clip(rng.normal(0.0, (0.07, 0.02)), (-0.15, -0.05), (0.15, 0.05))
    axes = [
        ((np.arange(count) + 0.5) - part * count) * step - move
        for count, step, part, move in zip(size, spacing, LANDMARK, shift, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return _Space((x - lean * z) / scale[0], (y - bend * z) / scale[1], z / scale[2])


def _body(space: _Space, rng: np.random.Generator) -> Solid:
    """Head and neck as superellipses by height, and shoulders that come in below."""
    table = np.array(_OUTLINE, dtype=np.float64).T
    stout = np.clip(rng.normal(1.0, 0.05), 0.9, 1.12)
    half, back, front = (np.interp(space.z, table[0], row) for row in table[1:])
    neck = np.exp(-(((space.z + 60) / 30) ** 2))  # a stout patient is so at the neck above all
    half = half * (1 + (stout - 1) * (0.3 + neck))
    back = back * (1 + (stout - 1) * 0.5 * neck)
    middle, deep = (front + back) / 2, (front - back) / 2
    half = half * (1 - 0.4 * np.clip((space.y + 20) / 72, 0, 1) ** 2)  # cheeks and jaw narrow towards the chin
    head = np.abs(space.x / half) ** 2.1 + np.abs((space.y - middle) / deep) ** 2.1 <= 1.0
    top = rng.normal(-74.0, 7.0)
    below = np.clip((top - space.z) / 34.0, 0.0, 1.0)
    width = 66 + (rng.normal(184.0, 8.0) - 66) * np.sqrt(below)
    girdle = np.abs(space.x / width) ** 2.6 + np.abs((space.y + 90) / (42 + 28 * below)) ** 2.6 <= 1.0
    return np.asarray(head | (girdle & (space.z < top)))


def _body_core(body: Solid, spacing: Sequence[float], margin: float = 4.0) -> Solid:
    """The body without its outer ``margin`` mm or so, to which targets are cut."""
    core = body
    for axis, step in enumerate(spacing):
        for shift in range(1, max(1, round(margin / step)) + 1):
            core = core & _shifted(body, axis, shift) & _shifted(body, axis, -shift)
    return core


def _shifted(solid: Solid, axis: int, shift: int) -> Solid:
    """The solid moved along an axis; what comes in from the volume's edge counts as inside."""
    moved = np.ones_like(solid)
    target, source = [slice(None)] * 3, [slice(None)] * 3
    target[axis] = slice(shift, None) if shift > 0 else slice(None, shift)
    source[axis] = slice(None, -shift) if shift > 0 else slice(-shift, None)
    moved[tuple(target)] = solid[tuple(source)]
    return moved


def _organs(space: _Space, rng: np.random.Generator) -> list[tuple[int, Solid]]:
    def around(*means: float, spread: float = 2.0) -> list[float]:
        return [float(rng.normal(mean, spread)) for mean in means]

    cord_top = float(np.clip(rng.normal(18, 5), 8, 28))
    radius = float(rng.normal(5.6, 0.4))
    z, across, deep = np.array(_BRAINSTEM_WIDTH, dtype=np.float64).T
    stem = space.tube(_BRAINSTEM, np.interp(space.z, z, across), np.interp(space.z, z, deep))
    stem &= (space.z > cord_top) & (space.z <= rng.normal(74, 5))
    cord = space.tube(_CORD, radius, radius * 0.9) & (space.z <= cord_top)
    gullet = space.tube(_ESOPHAGUS, 8.0, 5.5, x=float(rng.normal(-3, 2))) & (space.z <= rng.normal(-86, 6))
    larynx = space.ellipsoid(around(-1, -35, -62, spread=3.0), around(16, 16, 18, spread=1.5), power=3.0)
    organs = [(BRAINSTEM, stem), (CORD, cord), (ESOPHAGUS, gullet), (LARYNX, larynx)]
    for label, side in ((PAROTID_RIGHT, 1), (PAROTID_LEFT, -1)):
        gland = space.ellipsoid(around(side * 58, -48, 14), around(13, 17, 24, spread=1.5), power=2.3)
        organs.append((label, gland))
    return [*organs, (MANDIBLE, _mandible(space, rng))]


def _mandible(space: _Space, rng: np.random.Generator) -> Solid:
    """A horseshoe whose lower edge rises from the chin to the angles, and two rami that go up from there."""
    wide, long, thick = 44 + rng.normal(0, 1.5), 68 + rng.normal(0, 2), max(3.6, rng.normal(4.5, 0.4))
    rear = -36 + rng.normal(0, 1.5)
    x, forward = space.x / wide, (space.y - rear) / long
    # A superellipse r = 1, pointed at the chin; distance from it to first order: |r - 1| / |grad r|.
    a, b = np.abs(x) + 1e-9, np.abs(forward) + 1e-9
    r = (a**_ARCH + b**_ARCH) ** (1 / _ARCH)
    gradient = np.hypot((a / r) ** (_ARCH - 1) / wide, (b / r) ** (_ARCH - 1) / long)
    arch = np.abs(r - 1) / gradient <= thick
    behind = 1 - np.clip(forward / r, 0, 1)  # 0 at the chin, 1 at the angles
    low, high = -34 + 25 * behind, 5 + 3 * behind + rng.normal(0, 1.5)
    bow = arch & (forward >= 0) & (space.z >= low) & (space.z <= high)
    top = rng.normal(46, 3)
    upward = np.clip((space.z + 8) / (top + 8), 0, 1)
    lateral = np.abs(np.abs(space.x) - (wide + 1 + 7 * upward)) <= thick
    ramus = lateral & (np.abs(space.y + 26 + 2 * upward) <= 15 - 3 * upward) & (space.z >= -8) & (space.z <= top)
    return np.asarray(bow | ramus)


def _targets(space: _Space, rng: np.random.Generator) -> list[tuple[int, Solid]]:
    """A primary tumour in the pharynx or larynx with involved nodes (70 Gy) and the node chains at risk."""
    side = 1 if rng.random() < 0.5 else -1
    height = rng.uniform(-58, 4)
    centre = (side * rng.uniform(0, 16), rng.normal(-42, 4), height)
    half = rng.uniform((26, 24, 26), (42, 36, 44))
    primary = space.ellipsoid(centre, half, power=2.4)
    nodes = [side] if rng.random() < 0.4 else [1, -1]
    slope = 0.12
    for each in nodes:
        bottom, top = rng.uniform(-75, -45), rng.uniform(-10, 22)
        primary |= space.column(each * rng.normal(42, 3), rng.normal(-66, 4), bottom, top, rng.uniform(15, 21), slope)
    targets = []
    if rng.random() < 0.9:
        at_risk = space.ellipsoid(centre, half + 7, power=2.4)
        for each in (1, -1):
            bottom, top, radius = rng.normal(-104, 8), rng.normal(30, 6), rng.uniform(17, 22)
            at_risk |= space.column(each * rng.normal(44, 2), -74, bottom, top, radius, slope)
        targets.append((PTV56, at_risk))
    if rng.random() < 0.5:
        bottom, top, radius = rng.uniform(-85, -50), rng.uniform(-5, 25), rng.uniform(17, 22)
        chain = space.column(-side * rng.normal(42, 3), -68, bottom, top, radius, slope)
        targets.append((PTV63, chain | space.ellipsoid(centre, half + 4, power=2.4)))
    return [*targets, (PTV70, primary)]
