"""What a plan says about itself: the manifest, as frozen dataclasses.

docs/plan_format.md describes every key. Sizes are voxels (x, y, z), spacings and fields of view millimetres (x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .manifest_program import Program
from .manifest_program import Size3 as Size3
from .time_grids import TunedGrid

FORMAT = 2  # of the manifest; a reader ignores keys it does not know and refuses a higher number

Float3 = tuple[float, float, float]

_ROUNDING = 1e-6  # relative; spacings pass through float32 in image headers


@dataclass(frozen=True)
class TensorEntry:
    """Where a state-dict tensor lies in its network's ``model.bin``.

    ``offset`` is in bytes from the start of the section; ``shape`` is the state dict's shape, whatever shape the graph
    gives the same bytes. ``transposed``: the tensor is 2-D and the file holds its transpose, row-major.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str
    transposed: bool = False


@dataclass(frozen=True)
class Footprint:
    """What a network adds to memory: once loaded, and per voxel of its largest input or output."""

    loaded_bytes: int
    bytes_per_voxel: float


@dataclass(frozen=True)
class Onnx:
    """The network as an ONNX graph over the same weights: its opset, and its nodes less those that adapt weights."""

    opset: int
    nodes: int


@dataclass(frozen=True)
class TensorRT:
    """How the engines of a network and of its stages were built, and for which GPU; that is where they run.

    ``compute_capability`` is like "9.0". ``hardware``: "none" (this GPU), "same_compute_capability" or "ampere_plus".
    ``refit``: the engines hold no weights, which come from ``model.bin`` when they are loaded.
    """

    version: str
    device: str
    compute_capability: str
    precision: str
    hardware: str = "none"
    version_compatible: bool = False
    refit: bool = True


@dataclass(frozen=True)
class Network:
    """One network of the plan; its sections are ``<name>/model.xml`` and ``<name>/model.bin`` for OpenVINO.

    ``program`` is the same network in stages, over the same weights, and ``footprint`` what it needs as a whole; plans
    made before there were programs have neither. With ``onnx`` there is an ONNX graph beside each IR, with ``tensorrt``
    an engine.
    """

    backend: str
    precision: str
    weights_dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    drop_if_unused: tuple[str, ...] = ()
    tensors: Mapping[str, TensorEntry] = field(default_factory=dict)
    footprint: Footprint | None = None
    program: Program | None = None
    onnx: Onnx | None = None
    tensorrt: TensorRT | None = None


@dataclass(frozen=True)
class Modality:
    """Class labels of the modalities the networks know; ``default`` is None when there is no class label."""

    default: int | None
    names: Mapping[str, int]


@dataclass(frozen=True)
class Latent:
    """Channels of the latent, its compression per axis, and what the VAE's mean is multiplied by."""

    channels: int
    compression: Size3
    scale_factor: float


@dataclass(frozen=True)
class Intensity:
    """Output = image * scale + offset, clipped to [low, high] (None: not clipped there); ``air`` outside a mask."""

    kind: str
    unit: str
    scale: float
    offset: float
    low: float | None
    high: float | None
    air: float


@dataclass(frozen=True)
class SizeRule:
    """Which sizes are legal: one of ``legal``; else x = y in ``xy`` and z in ``z`` (empty: any); always multiples."""

    legal: tuple[Size3, ...] = ()
    xy: tuple[int, ...] = ()
    z: tuple[int, ...] = ()
    multiple: int = 1

    def allows(self, size: Sequence[int]) -> bool:
        """Whether ``size`` (voxels x, y, z) is legal."""
        if len(size) != 3 or any(n < 1 or n % self.multiple for n in size):
            return False
        x, y, z = size
        if self.legal:
            return (x, y, z) in self.legal
        return (not self.xy or (x == y and x in self.xy)) and (not self.z or z in self.z)

    def nearest(self, size: Size3) -> Size3:
        """The legal size closest to ``size``, by the ratio per axis."""
        if self.legal:
            return min(
                self.legal, key=lambda legal: sum(abs(math.log(a / b)) for a, b in zip(legal, size, strict=True))
            )
        x, y, z = (max(1, round(n / self.multiple)) * self.multiple for n in size)
        if self.xy:
            middle = math.sqrt(size[0] * size[1])
            x = y = min(self.xy, key=lambda n: abs(math.log(n / middle)))
        if self.z:
            z = min(self.z, key=lambda n: abs(math.log(n / size[2])))
        return x, y, z

    def describe(self) -> str:
        """What is legal, as part of a sentence."""
        if self.legal:
            return "one of " + ", ".join(map(_by, self.legal))
        parts = []
        if self.xy:
            parts.append("x = y, one of " + ", ".join(map(str, self.xy)))
        if self.z:
            parts.append("z one of " + ", ".join(map(str, self.z)))
        if self.multiple > 1 or not parts:
            parts.append("multiples of " + str(self.multiple))
        return "; ".join(parts)


@dataclass(frozen=True)
class SpacingRange:
    """Voxel spacing in mm: the default and the inclusive limits per axis."""

    default: Float3
    low: Float3
    high: Float3

    def allows(self, spacing: Sequence[float]) -> bool:
        """Whether ``spacing`` (mm x, y, z) is legal."""
        return len(spacing) == 3 and _inside(spacing, self.low, self.high)

    def describe(self) -> str:
        """What is legal, as part of a sentence."""
        return _ranges(self.low, self.high) + " mm"


@dataclass(frozen=True)
class FieldOfView:
    """The fields of view (mm per axis) seen in training."""

    low: Float3
    high: Float3


@dataclass(frozen=True)
class Sizes:
    """Default size, rule of legal sizes, spacings, and the training distribution of field of view."""

    default: Size3
    rule: SizeRule
    spacing: SpacingRange
    fov: FieldOfView | None = None


@dataclass(frozen=True)
class Labels:
    """The vocabulary of label maps.

    ``bits`` label bits go to the ControlNet; ``body`` is the label of body outside any structure; for tumour guidance,
    ``tumour_replacement`` maps a tumour's label to what stands there without it: one label, or several of which the
    most frequent one around the tumour is taken.
    """

    names: Mapping[int, str]
    bits: int
    body: int | None
    tumour_replacement: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """The noise schedule of training and the defaults of sampling. beta_start and beta_end: kind "ddpm" only."""

    kind: str
    train_steps: int
    base_voxels: int
    transform: bool
    steps: int
    solver: str
    time_grid: str
    beta_start: float | None = None
    beta_end: float | None = None
    tuned: TunedGrid | None = None


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is conditioned on."""

    spacing: bool
    region: bool
    class_label: bool
    controlnet: bool


@dataclass(frozen=True)
class MemoryPeak:
    """Predicted peak memory of one generation at a size."""

    size: Size3
    peak_bytes: int


@dataclass(frozen=True)
class WeightsSource:
    """Where a network's weights came from; ``sha256`` is that of the source file."""

    network: str
    source: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Licence:
    """Licence of the plan's weights: JSON keys "class" (short) and "text"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Build:
    """How the plan was made."""

    command: str
    ctfast: str
    date: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class PlanManifest:
    """Everything a plan says about itself."""

    name: str
    family: str
    variant: str
    revision: str
    modality: Modality
    networks: Mapping[str, Network]
    latent: Latent
    intensity: Intensity
    sizes: Sizes
    schedule: Schedule
    conditioning: Conditioning
    target: Mapping[str, Any]
    memory: tuple[MemoryPeak, ...]
    weights: tuple[WeightsSource, ...]
    licence: Licence
    build: Build
    labels: Labels | None = None
    data: Mapping[str, Any] | None = None
    model_card: str | None = None
    format: int = 1

    @classmethod
    def from_json(cls, source: str | bytes | Mapping[str, Any], *, strict: bool = False) -> PlanManifest:
        """Read JSON text or an already parsed object; PlanError lists every problem at once.

        ``strict`` (the writer's setting) also refuses unknown keys, which a reader ignores for newer plans' sake.
        """
        from .manifest_json import read

        return read(source, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON-ready dict; ``from_json`` of it gives an equal manifest."""
        from .manifest_json import write

        return write(self)

    def size_problem(self, size: Sequence[int]) -> str | None:
        """None if ``size`` (voxels x, y, z) is legal, else a message that says what is."""
        rule = self.sizes.rule
        if rule.allows(size):
            return None
        problem = f"size {_by(size)} is not legal for plan '{self.name}': expected {rule.describe()}"
        if len(size) != 3 or any(n < 1 for n in size):
            return f"{problem} (voxels x, y, z). The default is {_by(self.sizes.default)}"
        return f"{problem} (voxels x, y, z). The nearest legal size is {_by(rule.nearest((size[0], size[1], size[2])))}"

    def spacing_problem(self, spacing: Sequence[float]) -> str | None:
        """None if ``spacing`` (mm x, y, z) is legal, else a message that says what is."""
        legal = self.sizes.spacing
        if legal.allows(spacing):
            return None
        return (
            f"spacing {_by(spacing)} mm is not legal for plan '{self.name}': expected {legal.describe()}. "
            f"The default is {_by(legal.default)} mm"
        )

    def fov_warning(self, size: Sequence[int], spacing: Sequence[float]) -> str | None:
        """A message if the field of view (``size`` times ``spacing``) lies outside what training saw, else None."""
        seen = self.sizes.fov
        if seen is None:
            return None
        fov = tuple(n * mm for n, mm in zip(size, spacing, strict=True))
        if _inside(fov, seen.low, seen.high):
            return None
        return (
            f"the field of view, {_by(fov)} mm, is outside what plan '{self.name}' was trained on "
            f"({_ranges(seen.low, seen.high)} mm), so expect worse anatomy. Change the size or the spacing"
        )


def _inside(values: Sequence[float], low: Float3, high: Float3) -> bool:
    return all(
        a * (1 - _ROUNDING) <= value <= b * (1 + _ROUNDING) for value, a, b in zip(values, low, high, strict=True)
    )


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _ranges(low: Float3, high: Float3) -> str:
    return ", ".join(f"{axis} {a:.6g} to {b:.6g}" for axis, a, b in zip("xyz", low, high, strict=True))
