"""Training configurations: one YAML file per model, checked field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ctfast.errors import RequestError
from ctfast.networks import AutoencoderConfig, ControlNetConfig, DenoiserConfig
from ctfast.networks.network_set import NetworkSet

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

    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
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

    network: DenoiserConfig = field(default_factory=DenoiserConfig)
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
    middle: bool = True
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
        own = self.controlnet
        return ControlNetConfig(self.flow.network, self.data.label_bits, own.condition_channels, own.middle)


_NESTED: dict[str, Any] = {
    "data": DataConfig,
    "vae": VaeTask,
    "flow": FlowTask,
    "controlnet": ControlNetTask,
    "optimisation": Optimisation,
}

_CHOICES = {"loss": ("l1", "l2"), "sample_method": ("uniform", "logit-normal")}


def _build(kind: type[T], given: Any, where: str) -> T:
    if not isinstance(given, Mapping):
        raise RequestError(f"{where}: expected a mapping of fields, found {given!r}")
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(given) - set(known))
    if unknown:
        raise RequestError(f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        at = f"{where}.{name}"
        if name == "network":
            values[name] = _build(AutoencoderConfig if kind is VaeTask else DenoiserConfig, value, at)
        elif name == "phases":
            if not isinstance(value, list | tuple) or not value:
                raise RequestError(f"{at}: expected a list of phases (steps, patch), found {value!r}")
            values[name] = tuple(_build(Phase, entry, f"{at}[{i}]") for i, entry in enumerate(value))
        elif name in _NESTED:
            values[name] = _build(_NESTED[name], value, at)
        else:
            values[name] = _plain(value, known[name].default, at)
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default was left out
        raise RequestError(f"{where}: {str(error).split('__init__() ')[-1]}") from error


def _plain(value: Any, default: Any, where: str) -> Any:
    """``value`` as the type of the field's default: YAML reads 1e-4 as text, and lists for tuples."""
    choices = _CHOICES.get(where.rsplit(".", 1)[-1])
    if choices is not None and value not in choices:
        raise RequestError(f"{where}: expected {' or '.join(choices)}, found {value!r}")
    if isinstance(default, bool) or isinstance(value, bool):
        good = isinstance(value, bool) and isinstance(default, bool)
    elif isinstance(default, float):
        try:
            value, good = float(value), True
        except (TypeError, ValueError):
            good = False
    elif isinstance(default, int | str):
        good = isinstance(value, type(default))
    else:
        value = _tuples(value)
        good = isinstance(value, tuple) if isinstance(default, tuple) else True
    if not good:
        raise RequestError(f"{where}: expected {type(default).__name__}, found {value!r}")
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _check(config: TrainConfig, where: str) -> None:
    """Refuse numbers that are well-formed but cannot train anything."""
    problems = []
    for task in ("vae", "flow", "controlnet"):
        settings: Optimisation = getattr(config, task).optimisation
        bad = [n for n in ("steps", "batch", "log_every", "save_every", "rate", "clip") if getattr(settings, n) <= 0]
        problems += [f"{task}.optimisation.{name} must be positive" for name in bad]
    for index, phase in enumerate(config.vae.phases):
        patch, unit = phase.patch, config.vae.network.compression
        if patch is not None and (len(patch) != 3 or any(not isinstance(n, int) or n < 1 or n % unit for n in patch)):
            problems.append(f"vae.phases[{index}].patch must be three multiples of the VAE's compression, {unit}")
    if config.flow.versions < 1 or config.flow.shift < 0:
        problems.append("flow.versions must be positive and flow.shift not negative")
    if not 1 <= config.data.label_bits <= 8:
        problems.append("data.label_bits must be 1 to 8")
    if any(len(pair) != 2 or not all(0 < v < 256 for v in pair) for pair in config.data.mirror_labels):
        problems.append("data.mirror_labels must be pairs of labels from 1 to 255")
    if config.data.low >= config.data.high:
        problems.append("data.low must be below data.high")
    try:
        networks = NetworkSet(config.vae.network, config.flow.network, config.controlnet_network())
        NetworkSet.from_dict(networks.to_dict())
    except RequestError as error:
        problems.append(str(error))
    if problems:
        raise RequestError(f"{where}: {'; '.join(problems)}")


def from_dict(given: Mapping[str, Any], where: str = "config") -> TrainConfig:
    """A configuration from plain types.

    Raises:
        RequestError: Unknown fields, values of the wrong type, or ones that cannot train anything; they are named.
    """
    config = _build(TrainConfig, given, where)
    _check(config, where)
    return config


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
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: expected a YAML file or a shipped configuration's name: {error}") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{candidate}: not valid YAML: {error}") from error
    if not isinstance(given, dict):
        raise RequestError(f"{candidate}: expected a mapping of fields, found {type(given).__name__}")
    return from_dict(given, str(candidate))
