"""What state dicts look like: which network they belong to, and how they get into a module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ctfast.checkpoints.reader import Checkpoint


def detect(state_dict: Mapping[str, Tensor]) -> str:
    """What the tensors look like: "rflow-denoiser", "ddpm-denoiser", "rflow-controlnet", "ddpm-controlnet",
    "image-vae", "mask-vae", "mask-denoiser" or "unknown". CT and MR weights have the same shapes: no telling them apart.
    """
    raise NotImplementedError


def load_into(module: nn.Module, checkpoint: Checkpoint, *, what: str) -> tuple[str, ...]:
    """Copy a checkpoint's weights into a module, strictly; ``what`` names the network in messages.

    Returns:
        Names of legacy tensors that were rightly left out (the unused attention projections of the ddpm files).

    Raises:
        CheckpointError: Missing or surplus keys, other shapes, or weights that are not finite.
    """
    raise NotImplementedError
