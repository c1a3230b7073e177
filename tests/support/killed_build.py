"""The build that test_build_kill.py kills, in a module that processes of their own can import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ctfast.export import build

from . import tiny_models

NETWORKS = replace(tiny_models.NETWORKS, controlnet=None, mask_autoencoder=None, mask_denoiser=None)


def run(files: Mapping[str, Path], target: Path, cache: Path) -> None:
    """A whole build as users have it."""
    torch.set_num_threads(1)
    build(tiny_models.description(NETWORKS), files, target, cache=cache, command="killed")
