"""Finds a variant's files in the folders that users have."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection
from pathlib import Path

from ctfast.errors import CheckpointError
from ctfast.networks.variants import variant as variant_by_name

_log = logging.getLogger(__name__)

_MASK = {
    "mask_autoencoder": ("mask_generation_autoencoder.pt",),
    "mask_denoiser": ("mask_generation_diffusion_unet.pt", "mask_generation_diffusion_unet*.pt"),
}
_CT_VAE = ("autoencoder_v1.pt", "autoencoder_epoch273.pt", "autoencoder.pt")

#: File names by variant and role: the present one, then older ones and those of the MONAI bundles, newest first.
_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "rflow-ct": {
        "autoencoder": _CT_VAE,
        "denoiser": (
            "diff_unet_3d_rflow-ct.pt",
            "diff_unet_3d_rflow.pt",
            "diff_unet_ckpt_rflow_epoch19350.pt",
            "diffusion_unet.pt",
        ),
        "controlnet": (
            "controlnet_3d_rflow-ct.pt",
            "controlnet_3d_rflow.pt",
            "controlnet_rflow_epoch60.pt",
            "controlnet.pt",
        ),
        **_MASK,
    },
    "ddpm-ct": {
        "autoencoder": _CT_VAE,
        "denoiser": (
            "diff_unet_3d_ddpm-ct.pt",
            "diff_unet_3d_ddpm.pt",
            "input_unet3d_data-all_steps1000size512ddpm_random_current_inputx_v1.pt",
            "diffusion_unet.pt",
        ),
        "controlnet": (
            "controlnet_3d_ddpm-ct.pt",
            "controlnet_3d_ddpm.pt",
            "controlnet-20datasets-e20wl100fold0bc_noi_dia_fsize_current.pt",
            "controlnet.pt",
        ),
        **_MASK,
    },
    "rflow-mr": {"autoencoder": ("autoencoder_v2.pt",), "denoiser": ("diff_unet_3d_rflow-mr.pt",)},
    "rflow-mr-brain": {
        "autoencoder": ("autoencoder_v1.pt",),
        "denoiser": ("diff_unet_3d_rflow-mr-brain_v1.pt", "diff_unet_3d_rflow-mr-brain_v0.pt"),
    },
}


def find_folder(
    path: str | os.PathLike[str], variant: str, *, needed: Collection[str] = ("autoencoder", "denoiser")
) -> dict[str, Path]:
    """A variant's files by role, in a NV-Generate checkout, its ``models`` folder, or a MONAI bundle's folder.

    Files under older names are taken, with a note in the log, where the present name is absent; so is a safetensors
    file of the same name. Roles are those of ctfast.networks.variants.ROLES; one that is not ``needed`` (ControlNet,
    mask generator) is left out where the folder lacks its file.

    Raises:
        RequestError: Unknown variant.
        CheckpointError: A needed file is missing, the folder is, or it holds a bundle of another variant; what was
            looked for and what was found is named.
    """
    entry = variant_by_name(variant)
    root = Path(path)
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a folder; give the folder with the files of {variant} (often models/)")
    _refuse_other_bundle(root, variant)
    folders = [folder for folder in (root / "models", root) if folder.is_dir()]
    found: dict[str, Path] = {}
    for role, names in _NAMES[variant].items():
        for name in names:
            file = _first(folders, name)
            if file is not None:
                found[role] = file
                if name != names[0]:
                    _log.warning("%s: using %s, an older name or version of %s", variant, file, names[0])
                break
    missing = [role for role in needed if role not in found]
    if missing:
        wanted = "; ".join(
            f"{role}: {' or '.join(_NAMES[variant].get(role, ('no such network',)))}" for role in missing
        )
        present = sorted({file.name for folder in folders for file in folder.iterdir() if file.suffix in _SUFFIXES})
        raise CheckpointError(
            f"{root} lacks files of {variant}. Missing are {wanted}. Found: {', '.join(present[:12]) or 'no weights'}. "
            f"On Hugging Face they are in {entry.source}"
        )
    return found


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hex, read in pieces.

    Raises:
        CheckpointError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    return digest.hexdigest()


_SUFFIXES = (".pt", ".pth", ".safetensors")


def _first(folders: list[Path], name: str) -> Path | None:
    """The file of that name, or of that name in the safetensors format."""
    for folder in folders:
        for pattern in (name, f"{Path(name).stem}.safetensors"):
            matches = sorted(file for file in folder.glob(pattern) if file.is_file())
            if matches:
                return matches[-1]
    return None


def _refuse_other_bundle(root: Path, variant: str) -> None:
    """MONAI's bundle uses the same file names for ddpm (versions 0.x) and rflow (from 1.0): its metadata decide."""
    for folder in (root, root.parent):
        metadata = folder / "configs" / "metadata.json"
        if not metadata.is_file():
            continue
        try:
            version = str(json.loads(metadata.read_text(encoding="utf-8"))["version"])
        except (ValueError, KeyError, TypeError, OSError):
            return
        holds = "ddpm-ct" if version.startswith("0.") else "rflow-ct"
        if variant != holds:
            raise CheckpointError(f"{root} is a MONAI bundle of version {version}, which holds {holds}, not {variant}")
        return
