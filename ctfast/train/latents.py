"""Latents of a data set: encoded once per mirror image and shift, standardised per channel."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ctfast.networks import AutoencoderKL
from ctfast.train.config import FlowTask, TrainConfig
from ctfast.train.data import Crops
from ctfast.train.distributed import distributed, pick_device, wait_for_all
from ctfast.train.files import save_atomically
from ctfast.train.loop import Progress
from ctfast.train.sampling import generator
from ctfast.train.weights import Source, load_weights, rescale

Version = tuple[bool, tuple[int, int, int]]
PLAIN: Version = (False, (0, 0, 0))


def load_vae(source: Source, config: TrainConfig) -> AutoencoderKL:
    """The VAE of a result (``vae.pt``) of ``ctfast train vae``, of an official checkpoint, or of a plan."""
    vae = AutoencoderKL(config.vae.network)
    load_weights(vae, source)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def standardise(vae: AutoencoderKL, crops: Crops) -> None:
    """Fold per-channel standardisation into the VAE, in place: afterwards its latents have mean 0 and deviation 1.

    Reconstructions stay what they were, and the scale factor of a plan made from it is 1.
    """
    device = next(vae.parameters()).device
    count, total, square = 0, torch.zeros(vae.config.latent_channels), torch.zeros(vae.config.latent_channels)
    for index in range(0, len(crops), max(1, len(crops) // 48)):
        mean = vae.encode(crops.pick(index, False)[None].to(device))[0].float().cpu().flatten(2)[0]
        count, total, square = count + mean.shape[1], total + mean.sum(1), square + (mean**2).sum(1)
    centre = total / count
    rescale(vae, centre, (square / count - centre**2).clamp_min(1e-8).sqrt())


@dataclass(frozen=True)
class Batch:
    """Latents (n, channels, d, h, w), their label maps (n, 1, x, y, z), and voxel sizes in mm (n, 3)."""

    latent: Tensor
    labels: Tensor
    spacing: Tensor


class Latents:
    """Posterior means (float16) of every version of every crop, and how to draw batches of them."""

    def __init__(self, rows: Sequence[Tensor], crops: Crops, versions: Sequence[Version]) -> None:
        self.rows, self.crops, self.versions = rows, crops, versions

    def batch(self, step: int, size: int, seed: int, rank: int = 0, world: int = 1) -> Batch:
        """What a step trains on: a random version of each drawn crop, all of one shape."""
        random = generator(seed, step, rank, 4)
        crops = self.crops.buckets.members(step, size, seed, rank, world)
        versions = [int(torch.randint(0, len(self.versions), (), generator=random)) for _ in crops]
        pairs = list(zip(crops, versions, strict=True))
        return Batch(
            torch.stack([self.rows[crop * len(self.versions) + version].float() for crop, version in pairs]),
            torch.stack([self.crops.pick_labels(crop, *self.versions[version]) for crop, version in pairs]),
            torch.tensor([self.crops.spacings[crop] for crop in crops]),
        )


def versions_of(task: FlowTask, flip: bool) -> list[Version]:
    """Mirror images and shifts every crop is encoded with: the plain one first, then its mirror image, then shifts."""
    random = generator(17)
    versions = [PLAIN, (True, PLAIN[1])] if flip else [PLAIN]
    for index in range(task.versions - len(versions)):
        x, y, z = (int(v) for v in torch.randint(-task.shift, task.shift + 1, (3,), generator=random))
        versions.append((flip and bool(index % 2), (x, y, z)))
    return versions[: task.versions]


@torch.no_grad()
def encode_all(
    vae: AutoencoderKL, crops: Crops, versions: Sequence[Version], cache: Path, progress: Progress | None = None
) -> Latents:
    """Encode every version of every crop, or read the cache that an earlier run with the same VAE and data left.

    Under torchrun the first rank encodes, and the others read what it wrote.
    """
    digest = hashlib.sha256(repr((crops.names, list(versions))).encode())
    for tensor in vae.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    for image in crops.images:
        digest.update(image.numpy().tobytes())
    key = digest.hexdigest()
    rank, _ = distributed()
    rows = _read(cache, key) if rank == 0 else None
    if rank == 0 and rows is None:
        device = pick_device()
        vae = vae.to(device)
        rows = []
        pairs = list(itertools.product(range(len(crops)), versions))
        for done, (index, version) in enumerate(pairs, start=1):
            image = crops.pick(index, *version)[None].to(device)
            with torch.autocast(device.type, torch.bfloat16):
                rows.append(vae.encode(image)[0][0].half().cpu())
            if progress is not None:
                progress("encode", done, len(pairs))
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_atomically({"key": key, "latents": rows}, cache)
    wait_for_all()
    rows = _read(cache, key) if rows is None else rows
    assert rows is not None
    return Latents(rows, crops, versions)


def _read(cache: Path, key: str) -> list[Tensor] | None:
    """The rows of a cache; None if there is none or it is of something else."""
    try:
        stored = torch.load(cache, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return list(stored["latents"]) if isinstance(stored, dict) and stored.get("key") == key else None
