"""What a plan is made from: the shapes of its networks, the files with their weights, and what the manifest says."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctfast.checkpoints import Checkpoint, find_folder, load_into, read_checkpoint, sha256_of
from ctfast.errors import CheckpointError, RequestError
from ctfast.networks.network_set import ROLES, NetworkSet
from ctfast.networks.variants import VARIANTS, Variant, other_variant, variant

_log = logging.getLogger(__name__)

#: Networks without which there is nothing to generate with.
NEEDED = ("autoencoder", "denoiser")

#: Weights as callers give them: a folder of the official layout, or files by role.
Weights = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True)
class Model:
    """A variant, the shapes of its networks, and the files with their weights by role.

    ``overrides`` are keys of the manifest, in its JSON form, that replace the variant's own.
    """

    variant: Variant
    networks: NetworkSet
    files: Mapping[str, Path]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """The opened files; weights are read when a network is made."""
        return {role: read_checkpoint(path) for role, path in self.files.items()}

    @cached_property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the files."""
        return {role: sha256_of(path) for role, path in self.files.items()}

    def scale_factor(self, role: str = "denoiser") -> float:
        """What latents were multiplied by in training; a denoiser's file says so.

        Raises:
            CheckpointError: The file does not, and nor does the description.
        """
        if role == "denoiser" and "scale_factor" in self.overrides:
            return float(self.overrides["scale_factor"])
        found = self.checkpoints[role].scale_factor
        if found is None:
            raise CheckpointError(
                f"{self.files[role]} has no scale_factor, which latents are multiplied by: use the file as training "
                "wrote it, or give scale_factor in the description"
            )
        if role == "denoiser" and not self.overrides:
            other = other_variant(self.variant.name, found)
            if other is not None:
                warnings.warn(
                    f"{self.files[role]} has the scale factor of {other}, not of {self.variant.name}: check that it is "
                    "the right file",
                    stacklevel=2,
                )
        return found

    def load(self, role: str) -> nn.Module:
        """A network with its weights, in evaluation mode.

        Raises:
            CheckpointError: The file does not fit the network.
        """
        with torch.device("meta"):  # initial values, which the checkpoint replaces one and all, would take seconds
            module = self.networks.module(role)
        module.to_empty(device="cpu")
        unused = load_into(module, self.checkpoints[role], what=f"the {role} of {self.variant.name}")
        if unused:
            _log.info("%s: left out %d tensors that the network never applies", self.files[role], len(unused))
        return module.eval().requires_grad_(False)


def resolve(
    variant_or_config: str | os.PathLike[str] | Mapping[str, Any],
    weights: Weights,
    networks: Collection[str] | None = None,
) -> Model:
    """Find out what is to be built, and from which files.

    Args:
        variant_or_config: Name of a variant or of a family with one variant, or a description: a mapping, or the path
            of a JSON or YAML file with one. A description has the key ``base``, a published variant whose values hold
            where it says nothing (``variant`` does for it, and is the plan's own name for what it is beside ``base``),
            ``networks`` (shapes, as NetworkSet.from_dict takes them), ``scale_factor``, and any keys of the manifest.
        weights: A folder as find_folder understands it, or a mapping from role to file.
        networks: Roles to include; None for all whose files are there.

    Raises:
        RequestError: Unknown variant or role, or a description that cannot be used.
        CheckpointError: A needed file is missing.
    """
    entry, shapes, overrides = _described(variant_or_config)
    wanted = shapes.roles if networks is None else tuple(networks)
    unknown = [role for role in wanted if role not in shapes.roles]
    if unknown:
        raise RequestError(f"{entry.name} has no network {', '.join(unknown)}; it has {', '.join(shapes.roles)}")
    lacking = [role for role in NEEDED if role not in wanted]
    if lacking:
        raise RequestError(f"networks: a plan needs {' and '.join(NEEDED)}, and {', '.join(lacking)} was left out")
    if isinstance(weights, Mapping):
        files = {role: Path(path) for role, path in weights.items() if role in wanted}
        surplus = [role for role in weights if role not in ROLES]
        if surplus:
            raise RequestError(f"weights: unknown network {', '.join(surplus)}; known are {', '.join(ROLES)}")
        needed = NEEDED if networks is None else wanted
        missing = [role for role in needed if role not in files]
        if missing:
            raise CheckpointError(f"weights: no file was given for {', '.join(missing)}, which {entry.name} needs")
    else:
        found = find_folder(weights, entry.name, needed=NEEDED if networks is None else wanted)
        files = {role: path for role, path in found.items() if role in wanted}
    return Model(entry, shapes, {role: files[role] for role in ROLES if role in files}, overrides)


def _described(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[Variant, NetworkSet, dict[str, Any]]:
    if isinstance(source, str) and source in VARIANTS:
        entry = VARIANTS[source]
        return entry, entry.networks, {}
    if isinstance(source, str):
        members = [entry for entry in VARIANTS.values() if entry.family == source]
        if len(members) == 1:
            return members[0], members[0].networks, {}
        if members:
            raise RequestError(
                f"family '{source}' has several variants: {', '.join(m.name for m in members)}; name one"
            )
    description = dict(source) if isinstance(source, Mapping) else _read(source)
    base = description.pop("base") if "base" in description else description.pop("variant", None)
    if not isinstance(base, str):
        raise RequestError(f"the description has no variant to start from; expected one of {', '.join(VARIANTS)}")
    entry, own = variant(base), description.get("variant")
    if own in VARIANTS and own != base:
        raise RequestError(
            f"the description's base is {base} and its variant {own}, which is a published model of its own; give "
            "variant another name, or make it the base"
        )
    shapes = description.pop("networks", None)
    networks = entry.networks if shapes is None else NetworkSet.from_dict(shapes)
    return entry, networks, description


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = Path(path)
    if file.suffix not in (".json", ".yaml", ".yml"):
        raise RequestError(
            f"'{file}' is neither a variant nor a description: expected one of {', '.join(VARIANTS)}, or the path of a "
            "JSON or YAML file"
        )
    with _readable(file):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            value = json.loads(text)
        else:
            import yaml

            value = yaml.safe_load(text)
    if not isinstance(value, dict):
        raise RequestError(f"'{file}': expected a mapping of keys to values, found {type(value).__name__}")
    return value


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what reading and parsing may raise into RequestError."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"'{file}' cannot be read: {error.strerror or error}") from error
    except ImportError as error:
        raise RequestError(f"'{file}': reading YAML needs PyYAML (pip install pyyaml); JSON works without") from error
    except Exception as error:  # both parsers have their own errors
        raise RequestError(f"'{file}' is not valid {file.suffix[1:].upper()}: {error}") from error
