"""Training configurations: one YAML file per model, checked field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ctfast.errors import RequestError
from ctfast.networks import AutoencoderConfig, ControlNetConfig, DenoiserConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """A stretch of training on patches of one size (None: whole crops)."""

    steps: int
    patch: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Optimisation:
    """How a network is trained: AdamW, linear warm-up, cosine decay to ``final`` times the rate, EMA of the weights."""

    steps: int = 1000
    batch: int = 1
    rate: float = 1e-4
    final: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    amp: bool = True
    seed: int = 0
    log_every: int = 50
    save_every: int = 500


@dataclass(frozen=True)
class VaeTask:
    """VAE: L1 and squared error inside and outside the body, KL, optional perceptual loss (MONAI's)."""

    network: AutoencoderConfig = AutoencoderConfig()
    optimisation: Optimisation = Optimisation()
    phases: tuple[Phase, ...] = (Phase(1000),)
    l1: float = 1.0
    l2: float = 0.0
    kl: float = 1e-7
    perceptual: float = 0.0
    body_weight: float = 1.0
    decoder_only: bool = False


@dataclass(frozen=True)
class FlowTask:
    """Rectified flow on latents; time steps drawn by MONAI's RFlowScheduler."""

    network: DenoiserConfig = DenoiserConfig()
    optimisation: Optimisation = Optimisation()
    loss: str = "l1"
    sample_method: str = "uniform"
    base_voxels: int = 32768
    versions: int = 4
    shift: int = 2


@dataclass(frozen=True)
class ControlNetTask:
    """ControlNet on a frozen denoiser: weighted L1 or L2 and the region-specific contrastive loss."""

    condition_channels: tuple[int, ...] = (8, 32, 64)
    optimisation: Optimisation = Optimisation()
    loss: str = "l1"
    roi_labels: tuple[int, ...] = ()
    roi_weight: float = 10.0
    contrast_weight: float = 0.01
    contrast_weight_late: float = 0.001
    contrast_switch: float = 0.5
    contrast_cap: float = 2.0
    contrast_dilation: int = 2
    contrast_on_features: bool = False
    background_label: int = 200


@dataclass(frozen=True)
class DataConfig:
    """The data set: a folder made by ``ctfast data prepare``, and how its labels mirror."""

    root: str = "prepared"
    low: float = -1000.0
    high: float = 1000.0
    mirror_labels: tuple[tuple[int, int], ...] = ()
    flip: bool = True
    label_bits: int = 8


@dataclass(frozen=True)
class TrainConfig:
    """Everything ``ctfast train`` needs for one model."""

    name: str = "model"
    modality: int = 1
    data: DataConfig = DataConfig()
    vae: VaeTask = VaeTask()
    flow: FlowTask = FlowTask()
    controlnet: ControlNetTask = ControlNetTask()

    def controlnet_network(self) -> ControlNetConfig:
        """The ControlNet's shape follows the denoiser's."""
        return ControlNetConfig(self.flow.network, self.data.label_bits, self.controlnet.condition_channels)


_NESTED: dict[str, Any] = {
    "data": DataConfig, "vae": VaeTask, "flow": FlowTask, "controlnet": ControlNetTask, "optimisation": Optimisation,
}


def _build(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RequestError(f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "network":
            nested = AutoencoderConfig if kind is VaeTask else DenoiserConfig
            values[name] = _build(nested, value, f"{where}.{name}")
        elif name == "phases":
            values[name] = tuple(_build(Phase, entry, f"{where}.phases") for entry in value)
        elif name in _NESTED:
            values[name] = _build(_NESTED[name], value, f"{where}.{name}")
        else:
            default = known[name].default
            if isinstance(default, float) and isinstance(value, int | str):
                value = float(value)
            values[name] = _tuples(value)
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def from_dict(given: Mapping[str, Any], where: str = "config") -> TrainConfig:
    """A configuration from plain types; unknown fields are named."""
    return _build(TrainConfig, given, where)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain types, for checkpoints and manifests."""
    return dataclasses.asdict(config)


def load(path: str | Path) -> TrainConfig:
    """Read a YAML file, or a configuration shipped with ctfast by its name (``headneck``)."""
    candidate = Path(path)
    if not candidate.suffix:
        candidate = Path(__file__).parent / "configs" / f"{path}.yaml"
    try:
        given = yaml.safe_load(candidate.read_text())
    except OSError as error:
        raise RequestError(f"{path}: expected a YAML file or a shipped configuration's name: {error}") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{candidate}: not valid YAML: {error}") from error
    if not isinstance(given, dict):
        raise RequestError(f"{candidate}: expected a mapping of fields, found {type(given).__name__}")
    return from_dict(given, str(candidate))
