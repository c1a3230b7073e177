"""The shapes of all networks of one model, and their plain-dict form for YAML, JSON and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from torch import nn

from ctfast.errors import RequestError
from ctfast.networks.autoencoder import AutoencoderConfig, AutoencoderKL
from ctfast.networks.controlnet import ControlNet, ControlNetConfig
from ctfast.networks.mask_unet import MaskUNet, MaskUNetConfig
from ctfast.networks.unet import DenoiserConfig, DenoiserUNet

Config = TypeVar("Config", AutoencoderConfig, DenoiserConfig, ControlNetConfig, MaskUNetConfig)

#: Names of a model's networks, as NetworkSet's attributes and as the keys of ``find_folder``'s answer.
ROLES = ("autoencoder", "denoiser", "controlnet", "mask_autoencoder", "mask_denoiser")


@dataclass(frozen=True)
class NetworkSet:
    """Configurations of a model's networks; None where the model has no such network."""

    autoencoder: AutoencoderConfig
    denoiser: DenoiserConfig
    controlnet: ControlNetConfig | None = None
    mask_autoencoder: AutoencoderConfig | None = None
    mask_denoiser: MaskUNetConfig | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks that this model has, in the order of ROLES."""
        return tuple(role for role in ROLES if getattr(self, role) is not None)

    def module(self, role: str) -> nn.Module:
        """A new network, with torch's initial weights.

        Raises:
            RequestError: The model has no network of that name.
        """
        config = getattr(self, role) if role in ROLES else None
        if isinstance(config, AutoencoderConfig):
            return AutoencoderKL(config)
        if isinstance(config, DenoiserConfig):
            return DenoiserUNet(config)
        if isinstance(config, ControlNetConfig):
            return ControlNet(config)
        if isinstance(config, MaskUNetConfig):
            return MaskUNet(config)
        raise RequestError(f"the model has no network {role!r}; it has {', '.join(self.roles)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; ``from_dict`` of it gives an equal set.

        The ControlNet's own copy of the denoiser's shape is left out where it is the denoiser's.
        """
        out: dict[str, Any] = {role: _plain(asdict(getattr(self, role))) for role in self.roles}
        if self.controlnet is not None and self.controlnet.denoiser == self.denoiser:
            del out["controlnet"]["denoiser"]
        return out

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> NetworkSet:
        """Read what ``to_dict`` wrote, or a part of it written by hand; keys left out get the official model's values.

        Raises:
            RequestError: Unknown keys, values of the wrong type, or widths that do not fit each other; all are named.
        """
        problems: list[str] = []
        if not isinstance(source, Mapping):
            raise RequestError(f"expected a mapping of network names ({', '.join(ROLES)}), found {source!r}")
        problems += [
            f"unknown network {key!r}, expected one of {', '.join(ROLES)}" for key in source if key not in ROLES
        ]
        given = {role: source[role] for role in ROLES if source.get(role) is not None}
        autoencoder = _read(AutoencoderConfig(), given.get("autoencoder", {}), "autoencoder", problems)
        denoiser = _read(DenoiserConfig(), given.get("denoiser", {}), "denoiser", problems)
        networks = cls(autoencoder, denoiser)
        if "controlnet" in given:
            start = ControlNetConfig(denoiser=denoiser)
            networks = replace(networks, controlnet=_read(start, given["controlnet"], "controlnet", problems))
        if "mask_autoencoder" in given:
            mask = _read(MASK_AUTOENCODER, given["mask_autoencoder"], "mask_autoencoder", problems)
            networks = replace(networks, mask_autoencoder=mask)
        if "mask_denoiser" in given:
            config = _read(MaskUNetConfig(), given["mask_denoiser"], "mask_denoiser", problems)
            networks = replace(networks, mask_denoiser=config)
        problems = problems or _misfits(networks)
        if problems:
            raise RequestError("the description of the networks cannot be used: " + "; ".join(problems))
        return networks


#: MAISI's mask VAE: eight label bits in, a logit per class out.
MASK_AUTOENCODER = AutoencoderConfig(
    in_channels=8, out_channels=125, channels=(32, 64, 128), blocks=(1, 2, 2), transposed=True
)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _read(start: Config, source: Any, where: str, problems: list[str]) -> Config:
    """``start`` with the values of ``source`` in place of its own; notes what does not fit."""
    if not isinstance(source, Mapping):
        problems.append(f"{where}: expected a mapping, found {source!r}")
        return start
    names = {field.name for field in fields(start)}
    problems += [
        f"{where}: unknown key {key!r}, expected one of {', '.join(sorted(names))}"
        for key in source
        if key not in names
    ]
    values = {
        name: _value(getattr(start, name), source[name], f"{where}.{name}", problems)
        for name in names
        if name in source
    }
    return replace(start, **values)


def _value(start: Any, value: Any, where: str, problems: list[str]) -> Any:
    if isinstance(start, DenoiserConfig):
        return _read(start, value, where, problems)
    if isinstance(start, bool):
        expected, good = "true or false", isinstance(value, bool)
    elif isinstance(start, int):
        expected, good = "a whole number, 0 or more", _is_whole(value)
    elif isinstance(start, float):
        expected, good = "a positive number", isinstance(value, (int, float)) and value is not True and value > 0
    else:
        expected = "a list of whole numbers, 0 or more"
        good = isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_whole, value))
    if not good:
        problems.append(f"{where}: expected {expected}, found {value!r}")
        return start
    if isinstance(start, tuple):
        return tuple(value)
    return float(value) if isinstance(start, float) else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _misfits(networks: NetworkSet) -> list[str]:
    """Numbers that are well-formed but make no network."""
    problems: list[str] = []
    for role in networks.roles:
        config = getattr(networks, role)
        shape = config.denoiser if isinstance(config, ControlNetConfig) else config
        if min(shape.channels) < 1 or shape.groups < 1 or any(width % shape.groups for width in shape.channels):
            problems.append(f"{role}: channels {shape.channels} must all be multiples of groups = {shape.groups}")
        if isinstance(shape, AutoencoderConfig):
            if len(shape.blocks) != len(shape.channels) or min(shape.blocks) < 1:
                problems.append(f"{role}: blocks {shape.blocks} must have one positive entry per entry of channels")
            if min(shape.in_channels, shape.out_channels, shape.latent_channels, shape.patch) < 1:
                problems.append(f"{role}: in_channels, out_channels, latent_channels and patch must be positive")
            continue
        if len(shape.head_channels) != len(shape.channels):
            problems.append(f"{role}: head_channels {shape.head_channels} must have one entry per entry of channels")
        elif any(head and width % head for head, width in zip(shape.head_channels, shape.channels, strict=True)):
            problems.append(f"{role}: head_channels {shape.head_channels} must divide channels {shape.channels}")
        elif not shape.head_channels[-1]:
            problems.append(f"{role}: the last entry of head_channels must be positive, the middle block has attention")
        if min(shape.in_channels, shape.out_channels, shape.blocks) < 1:
            problems.append(f"{role}: in_channels, out_channels and blocks must be positive")
    if networks.denoiser.in_channels != networks.autoencoder.latent_channels and not problems:
        problems.append(
            f"denoiser.in_channels is {networks.denoiser.in_channels}, but the latent has "
            f"{networks.autoencoder.latent_channels} channels (autoencoder.latent_channels)"
        )
    problems += _controlnet_misfits(networks) if not problems else []
    return problems


def _controlnet_misfits(networks: NetworkSet) -> list[str]:
    """Where the ControlNet's residuals or its condition would not fit."""
    config, problems = networks.controlnet, []
    if config is None:
        return []
    own, other = config.denoiser, networks.denoiser
    if _trunk(own) != _trunk(other):
        problems.append("controlnet.denoiser: in_channels, channels, blocks and patch must be the denoiser's")
    halvings = 2 ** (len(config.condition_channels) - 1)
    wanted = networks.autoencoder.compression * other.patch
    if halvings != wanted:
        problems.append(
            f"controlnet.condition_channels has {len(config.condition_channels)} entries, so the label map shrinks by "
            f"{halvings}, but the autoencoder's compression times the denoiser's patch is {wanted}"
        )
    if config.label_bits < 1 or min(config.condition_channels) < 1:
        problems.append("controlnet: label_bits and condition_channels must be positive")
    return problems


def _trunk(config: DenoiserConfig) -> tuple[object, ...]:
    """What the denoiser and its ControlNet must have in common."""
    return config.in_channels, config.channels, config.blocks, config.patch
