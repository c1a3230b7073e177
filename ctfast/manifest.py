"""What a plan says about itself: the manifest, as frozen dataclasses.

docs/plan_format.md describes every key. Sizes are voxels (x, y, z), spacings and fields of view millimetres (x, y, z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Size3 = tuple[int, int, int]
Float3 = tuple[float, float, float]


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
class Network:
    """One network of the plan; its sections are ``<name>/model.xml`` and ``<name>/model.bin`` for OpenVINO."""

    backend: str
    precision: str
    weights_dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    drop_if_unused: tuple[str, ...] = ()
    tensors: Mapping[str, TensorEntry] = field(default_factory=dict)


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
    """Output value = image * scale + offset, clipped to [low, high] (None: not clipped there); ``air`` outside a mask."""

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


@dataclass(frozen=True)
class SpacingRange:
    """Voxel spacing in mm: the default and the inclusive limits per axis."""

    default: Float3
    low: Float3
    high: Float3


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
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON-ready dict; ``from_json`` of it gives an equal manifest."""
        raise NotImplementedError

    def size_problem(self, size: Size3) -> str | None:
        """None if ``size`` (voxels x, y, z) is legal, else a sentence that says what is."""
        raise NotImplementedError

    def spacing_problem(self, spacing: Float3) -> str | None:
        """None if ``spacing`` (mm) is legal, else a sentence that says what is."""
        raise NotImplementedError

    def fov_warning(self, size: Size3, spacing: Float3) -> str | None:
        """A sentence if the field of view lies outside the training distribution, else None."""
        raise NotImplementedError
