"""The parts of a manifest that are known before any network is exported."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ctfast._version import __version__
from ctfast.errors import RequestError
from ctfast.export.sources import Model
from ctfast.families.maisi_profiles import PROFILES
from ctfast.manifest import Build, Conditioning, Latent, PlanManifest, WeightsSource
from ctfast.networks import AutoencoderConfig, DenoiserConfig

#: Packages whose versions decide what a build makes.
PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxscript", "openvino", "torch")

#: Manifest keys that the build itself finds out; a description cannot set them.
BUILT_KEYS = ("build", "conditioning", "format", "latent", "memory", "networks", "target")


@dataclass(frozen=True)
class Shapes:
    """What the manifest says of the networks' shapes; ``label_bits`` is 0 without a ControlNet."""

    autoencoder: AutoencoderConfig
    denoiser: DenoiserConfig
    label_bits: int


def described(model: Model, name: str | None) -> dict[str, Any]:
    """A description of a variant built from its files: what it takes and gives, and where its weights come from."""
    entry, profile = model.variant, PROFILES[model.variant.name]
    licence = model.overrides.get("licence", {"class": entry.licence.kind})
    kind = str(licence.get("class", entry.licence.kind)) if isinstance(licence, Mapping) else entry.licence.kind
    weights = tuple(WeightsSource(role, path.name, model.checksums[role], kind) for role, path in model.files.items())
    manifest = PlanManifest(
        name=name or entry.name,
        family=entry.family,
        variant=entry.name,
        revision=model.checksums["denoiser"][:12],
        modality=profile.modality,
        networks={},
        latent=Latent(model.networks.autoencoder.latent_channels, (1, 1, 1), model.scale_factor()),
        intensity=profile.intensity,
        sizes=profile.sizes,
        schedule=profile.schedule,
        conditioning=profile.conditioning,
        target={},
        memory=(),
        weights=weights,
        licence=entry.licence,
        build=Build("", "", "", {}),
        labels=profile.labels,
    ).to_json()
    scale_factor = manifest["latent"]["scale_factor"]
    base = {key: value for key, value in manifest.items() if key not in BUILT_KEYS}
    overrides = dict(model.overrides) | ({"name": name} if name else {})
    return base | {"scale_factor": scale_factor} | overrides


def completed(description: Mapping[str, Any], shapes: Shapes, command: str) -> dict[str, Any]:
    """A manifest in its JSON form, complete but for networks and memory.

    Raises:
        RequestError: The description sets what only the build can know, has no ``scale_factor``, or its labels do not
            fit the ControlNet.
    """
    own = [key for key in BUILT_KEYS if key in description]
    if own:
        raise RequestError(f"the description sets {', '.join(own)}, which the build finds out by itself; leave it out")
    if "scale_factor" not in description:
        raise RequestError("the description has no scale_factor: what latents were multiplied by in training")
    manifest = {key: value for key, value in description.items() if key != "scale_factor"}
    labels = manifest.get("labels")
    if shapes.label_bits and isinstance(labels, Mapping) and labels.get("bits") != shapes.label_bits:
        raise RequestError(
            f"the description's labels have {labels.get('bits')} bits, but the ControlNet reads {shapes.label_bits}"
        )
    vae, denoiser = shapes.autoencoder, shapes.denoiser
    conditioning = Conditioning(
        spacing=denoiser.spacing,
        region=denoiser.region,
        class_label=denoiser.class_embeddings > 0,
        controlnet=shapes.label_bits > 0,
    )
    return {
        "format": 1,
        **manifest,
        "latent": {
            "channels": vae.latent_channels,
            "compression": [vae.compression] * 3,
            "scale_factor": description["scale_factor"],
        },
        "conditioning": vars(conditioning),
        "target": _target(),
        "build": {"command": command, "ctfast": __version__, "date": _date(), "versions": versions()},
    }


def with_networks(manifest: Mapping[str, Any], networks: Mapping[str, Any], memory: Sequence[Any]) -> dict[str, Any]:
    """The manifest with what was found out last."""
    return {**manifest, "networks": dict(networks), "memory": list(memory)}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part in a build."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _target() -> dict[str, Any]:
    """What the machine had at build time; a plan is not bound to it."""
    found: dict[str, Any] = {"backend": "openvino", "openvino": versions()["openvino"], "machine": platform.machine()}
    try:
        from ctfast import _native
    except ImportError:  # building plans takes no native module
        return found
    return found | {"cpu": dict(_native.build_info()["cpu"])}


def _date() -> str:
    """Now, or the moment that SOURCE_DATE_EPOCH fixes for reproducible builds, in UTC."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(fixed), timezone.utc) if fixed.isdecimal() else datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
