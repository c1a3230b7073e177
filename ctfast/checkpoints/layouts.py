"""What state dicts look like: which network they belong to, and how they get into a module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ctfast.checkpoints.reader import Checkpoint
from ctfast.errors import CheckpointError, RequestError
from ctfast.networks.network_set import ROLES, NetworkSet

_DESCRIPTIONS = {
    "rflow-denoiser": "the denoiser of rflow-ct, rflow-mr or rflow-mr-brain",
    "ddpm-denoiser": "the denoiser of ddpm-ct",
    "rflow-controlnet": "the ControlNet of rflow-ct",
    "ddpm-controlnet": "the ControlNet of ddpm-ct",
    "image-vae": "an image VAE",
    "mask-vae": "the mask generator's VAE",
    "mask-denoiser": "the mask generator's denoiser",
    "unknown": "no network of the MAISI family",
}

#: The attention projection that MONAI before 1.5 created, trained with and never applied; the ddpm files hold it.
_UNUSED_PROJECTION = re.compile(r"\.(attentions\.\d+|attention)\.(attn\.out_proj|proj_attn)\.(weight|bias)$")

#: A present name's end, and what the GenerativeModels era wrote in its place.
_RENAMED = (
    (re.compile(r"\.conv\.(weight|bias)$"), r".\1"),
    (re.compile(r"\.attn\.(to_[qkv])\."), r".\1."),
    (re.compile(r"\.attn\.out_proj\."), ".proj_attn."),
    (re.compile(r"\.out_proj\."), ".to_out.0."),
    (re.compile(r"\.postconv\."), ".conv."),
)


def detect(state_dict: Mapping[str, Tensor]) -> str:
    """Which network the tensors look like.

    Returns:
        "rflow-denoiser", "ddpm-denoiser", "rflow-controlnet", "ddpm-controlnet", "image-vae", "mask-vae",
        "mask-denoiser" or "unknown". CT and MR weights have the same shapes and cannot be told apart.
    """
    if any(key.startswith(("encoder.blocks.", "decoder.blocks.")) for key in state_dict):
        image, classes = _outer_channels(state_dict)
        return "mask-vae" if classes > image > 0 else "image-vae"
    if not any(key.startswith("down_blocks.") for key in state_dict):
        return "unknown"
    if any(".transformer_blocks." in key for key in state_dict):
        return "mask-denoiser"
    kind = "controlnet" if any(key.startswith("controlnet_") for key in state_dict) else "denoiser"
    return f"ddpm-{kind}" if any(".downsampler.op." in key for key in state_dict) else f"rflow-{kind}"


def load_into(module: nn.Module, checkpoint: Checkpoint, *, what: str) -> tuple[str, ...]:
    """Copy a checkpoint's weights into a module, strictly; ``what`` names the network in messages.

    Names from before MONAI 1.4 are understood. The one surplus that is allowed: the unused attention projections of
    the ddpm files, where the module's configuration says ``project_attention=False``.

    Returns:
        Names of the tensors that were rightly left out.

    Raises:
        CheckpointError: Missing or surplus tensors, other shapes, or weights that are not finite. The module must not
            be used then.
    """
    wanted = dict(module.state_dict())
    given = _present_names(checkpoint.state_dict, wanted)
    config = getattr(module, "config", None)
    unused = (
        tuple(key for key in given if key not in wanted and _UNUSED_PROJECTION.search(key))
        if getattr(config, "project_attention", True) is False
        else ()
    )
    missing = [key for key in wanted if key not in given]
    surplus = [key for key in given if key not in wanted and key not in unused]
    reshaped = [
        f"{key} (expected {_shape(wanted[key])}, found {_shape(given[key])})"
        for key in wanted
        if key in given and wanted[key].shape != given[key].shape
    ]
    complaints = [
        *_complaint("missing", missing),
        *_complaint("surplus", surplus),
        *_complaint("of another shape", reshaped),
    ]
    if complaints:
        looks_like = _DESCRIPTIONS[detect(checkpoint.state_dict)]
        raise CheckpointError(
            f"{checkpoint.path} does not fit {what}: {'; '.join(complaints)}. The file looks like {looks_like}: "
            "check that file and variant belong together"
        )
    with torch.no_grad():
        for key, target in wanted.items():
            target.copy_(given[key])
    sick = [key for key, target in wanted.items() if not torch.isfinite(target).all()]
    if sick:
        raise CheckpointError(
            f"{checkpoint.path}: {what} has weights that are NaN or infinite in {_some(sick)}; the training that made "
            "it diverged or the copy is damaged: use another checkpoint"
        )
    return unused


def networks_of(checkpoint: Checkpoint) -> NetworkSet | None:
    """The shapes of the networks as the checkpoint itself describes them in its ``config``.

    That is either what ``NetworkSet.to_dict`` wrote, there or under ``networks``, or a training configuration (see
    ctfast.train), whose ControlNet counts in a ControlNet's checkpoint only.

    Returns:
        None if the file has no such description, as the official ones.

    Raises:
        CheckpointError: The description cannot be used.
    """
    config = checkpoint.extras.get("config")
    if not isinstance(config, Mapping):
        return None
    try:
        if "vae" in config and "flow" in config:
            return NetworkSet.from_dict(_from_training(config, checkpoint.extras.get("kind") == "controlnet"))
        config = config.get("networks", config)
        if not isinstance(config, Mapping) or not any(role in config for role in ROLES):
            return None
        return NetworkSet.from_dict(config)
    except (KeyError, TypeError) as problem:
        raise CheckpointError(f"{checkpoint.path}: its config lacks a network's part: {problem}") from problem
    except RequestError as problem:
        raise CheckpointError(f"{checkpoint.path}: its config cannot be used: {problem}") from problem


def _from_training(config: Mapping[str, Any], with_controlnet: bool) -> dict[str, Any]:
    """The networks of a training configuration as ``NetworkSet.from_dict`` reads them."""
    networks = {"autoencoder": config["vae"]["network"], "denoiser": config["flow"]["network"]}
    if with_controlnet:
        task = config["controlnet"]
        networks["controlnet"] = {
            "condition_channels": task["condition_channels"],
            "label_bits": config["data"]["label_bits"],
            "middle": task.get("middle", True),
        }
    return networks


def _outer_channels(state_dict: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels of a VAE's image and of its output, 0 where the layer is not there."""
    last = max((int(key.split(".")[2]) for key in state_dict if re.match(r"decoder\.blocks\.\d+\.", key)), default=0)
    first = [t for key, t in state_dict.items() if key.startswith("encoder.blocks.0.") and t.dim() > 1]
    final = [t for key, t in state_dict.items() if key.startswith(f"decoder.blocks.{last}.") and t.dim() > 1]
    return (first[0].shape[1] if first else 0), (final[0].shape[0] if final else 0)


def _present_names(given: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """``given`` with names of the GenerativeModels era replaced by the ones that are wanted."""
    present = dict(given)
    names = list(wanted)
    free = set(present) - set(names)
    for name in names:
        if name in present:
            continue
        for older in _older_names(name):
            if older in free:
                free.remove(older)
                present[name] = present.pop(older)
                break
    return present


def _older_names(name: str) -> Iterator[str]:
    for pattern, replacement in _RENAMED:
        older, count = pattern.subn(replacement, name)
        if count:
            yield older


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _complaint(kind: str, keys: list[str]) -> list[str]:
    return [f"{len(keys)} tensor{'s are' if len(keys) > 1 else ' is'} {kind}: {_some(keys)}"] if keys else []


def _some(keys: list[str], limit: int = 4) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
