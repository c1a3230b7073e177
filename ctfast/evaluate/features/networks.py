"""Feature networks: a user's weights recognised by their layout, or random ones where there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoints import read_checkpoint
from ...errors import CheckpointError
from ...io.atomic import sha256_of
from ..result import FeatureInfo
from . import inception, resnet
from .random import SEED, RandomFeatures

# What files hold beside the features' weights: classifiers, auxiliary heads, counters.
_LEFT_OUT = ("fc.", "AuxLogits.", "conv_seg.")
_KNOWN = "RadImageNet's ResNet-50, the FID's Inception v3, or MedicalNet's ResNet-50"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that makes features: ``dimensions`` 2 for slices (n, 1, h, w) in [0, 1], 3 for volumes."""

    info: FeatureInfo
    module: nn.Module
    dimensions: int
    width: int

    @property
    def key(self) -> str:
        """What identifies the weights, for caches."""
        return f"{self.info.network}:{self.info.sha256 or SEED}"

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 16) -> Tensor:
        """Features (n, width) in float32 on the CPU, ``batch`` images at a time."""
        device = next(iter(self.module.state_dict().values())).device
        # Without TF32, which would make a GPU's features other ones.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [self.module(part.to(device)).cpu() for part in images.split(batch)]
        return torch.cat(parts).float()


def random_network(dimensions: int) -> FeatureNetwork:
    """The network of fixed random weights; its figures are not comparable with any paper's."""
    module = RandomFeatures(dimensions)
    info = FeatureInfo(f"random-{dimensions}d", None, comparable=False)
    return FeatureNetwork(info, _ready(module), dimensions, module.width)


def load_network(path: Path) -> FeatureNetwork:
    """The feature network whose weights are in a file (torch zip or safetensors), told by its layout.

    CheckpointError: The file cannot be read, or holds none of the networks that are known, or not the whole of one.
    """
    weights = {
        name.removeprefix("module."): tensor
        for name, tensor in read_checkpoint(path).state_dict.items()
        if not name.removeprefix("module.").startswith(_LEFT_OUT)
    }
    name, make, dimensions, width = _layout(path, weights)
    module = make()
    wanted = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    given = {key for key in weights if not key.endswith("num_batches_tracked")}
    if wanted != given:
        raise CheckpointError(
            f"'{path}' looks like {name} but lacks {_some(wanted - given)} and has unknown {_some(given - wanted)}; "
            "give the published file as it is"
        )
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' looks like {name} but its tensors have other shapes: {error}") from error
    info = FeatureInfo(name, sha256_of(path), comparable=True)
    return FeatureNetwork(info, _ready(module), dimensions, width)


def _layout(path: Path, weights: Mapping[str, Tensor]) -> tuple[str, Callable[[], nn.Module], int, int]:
    stem = weights.get("conv1.weight")
    if "Mixed_7c.branch1x1.conv.weight" in weights:
        return "inception-v3-fid", inception.FidInception, 2, inception.WIDTH
    if stem is not None and stem.ndim == 4 and "conv1.bias" in weights:
        return "radimagenet-resnet50", resnet.RadImageNetResNet50, 2, resnet.WIDTH
    if stem is not None and stem.ndim == 5:
        return "medicalnet-resnet50", resnet.medicalnet_resnet50, 3, resnet.WIDTH
    found = "a ResNet without RadImageNet's biases" if stem is not None else _some(set(weights))
    raise CheckpointError(f"'{path}': expected the weights of {_KNOWN}, found {found}")


def _ready(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing"
