"""The published models of the MAISI family by variant name: their networks' shapes and the licence of their weights."""

from __future__ import annotations

from dataclasses import dataclass

from ctfast.errors import RequestError
from ctfast.manifest import Licence
from ctfast.networks.autoencoder import AutoencoderConfig
from ctfast.networks.controlnet import ControlNetConfig
from ctfast.networks.mask_unet import MaskUNetConfig
from ctfast.networks.network_set import MASK_AUTOENCODER, ROLES, NetworkSet
from ctfast.networks.unet import DenoiserConfig

__all__ = ["ROLES", "VARIANTS", "NetworkSet", "Variant", "other_variant", "variant"]

OPEN_MODEL = Licence("open-model", "NVIDIA Open Model License: commercial use allowed under its terms")
NON_COMMERCIAL = Licence("non-commercial", "NVIDIA OneWay Noncommercial License: research and evaluation only")


@dataclass(frozen=True)
class Variant:
    """A published model.

    ``source`` is where its publisher keeps the weights, on Hugging Face. ``scale_factors`` are values known from
    released files, which tell a mix-up of files of the same shapes; the value that counts is the checkpoint's own.
    """

    name: str
    family: str
    networks: NetworkSet
    licence: Licence
    source: str
    scale_factors: tuple[float, ...] = ()


FLOW = DenoiserConfig()
DDPM = DenoiserConfig(class_embeddings=0, region=True, full_resample=False, project_attention=False)

_IMAGE_ONLY = NetworkSet(AutoencoderConfig(), FLOW)
_FLOW_CT = NetworkSet(AutoencoderConfig(), FLOW, ControlNetConfig(FLOW), MASK_AUTOENCODER, MaskUNetConfig())
_DDPM_CT = NetworkSet(AutoencoderConfig(), DDPM, ControlNetConfig(DDPM), MASK_AUTOENCODER, MaskUNetConfig())

VARIANTS: dict[str, Variant] = {
    entry.name: entry
    for entry in (
        Variant(
            "rflow-ct", "maisi-v2", _FLOW_CT, OPEN_MODEL, "nvidia/NV-Generate-CT", scale_factors=(1.0311251878738403,)
        ),
        Variant(
            "rflow-mr",
            "maisi-v2",
            _IMAGE_ONLY,
            NON_COMMERCIAL,
            "nvidia/NV-Generate-MR",
            scale_factors=(0.96240234375,),
        ),
        Variant(
            "rflow-mr-brain",
            "maisi-v2",
            _IMAGE_ONLY,
            Licence(OPEN_MODEL.kind, OPEN_MODEL.text + "; its training data (MR-RATE) is CC BY-NC-SA"),
            "nvidia/NV-Generate-MR-Brain (its autoencoder: nvidia/NV-Generate-CT)",
            scale_factors=(0.9696779847145081, 0.9704500436782837),
        ),
        Variant("ddpm-ct", "maisi-v1", _DDPM_CT, OPEN_MODEL, "nvidia/NV-Generate-CT"),
    )
}


def variant(name: str) -> Variant:
    """The published model of that name.

    Raises:
        RequestError: There is none; the message lists them.
    """
    if name not in VARIANTS:
        raise RequestError(f"unknown variant {name!r}; known are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def other_variant(name: str, scale_factor: float) -> str | None:
    """The published model that is known by this scale factor, if it is another than ``name``: files were mixed up."""
    if any(abs(scale_factor - known) < 1e-6 for known in VARIANTS[name].scale_factors):
        return None
    for entry in VARIANTS.values():
        if any(abs(scale_factor - known) < 1e-6 for known in entry.scale_factors):
            return entry.name
    return None
