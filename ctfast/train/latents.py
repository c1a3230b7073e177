"""Latents of a data set: encoded once per mirror image and shift, standardised per channel."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ctfast.errors import CheckpointError
from ctfast.networks import AutoencoderKL
from ctfast.train.config import FlowTask, TrainConfig
from ctfast.train.data import Crops, draw, generator
from ctfast.train.loop import pick_device, save_atomically


def load_vae(path: Path, config: TrainConfig) -> AutoencoderKL:
    """The VAE of a result (``vae.pt``) of ``ctfast train vae``."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: expected the vae.pt of 'ctfast train vae': {error}") from error
    vae = AutoencoderKL(config.vae.network)
    vae.load_state_dict(state["state_dict"])
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def standardise(vae: AutoencoderKL, crops: Crops) -> None:
    """Fold per-channel standardisation into the VAE, in place: afterwards its latents have mean 0 and deviation 1.

    The posterior's 1 x 1 x 1 convolutions absorb it on the way in and the decoder's first one on the way out, so the
    VAE stays what it was and the scale factor of its plan is 1.
    """
    device = next(vae.parameters()).device
    count, total, square = 0, torch.zeros(vae.config.latent_channels), torch.zeros(vae.config.latent_channels)
    for index in range(0, len(crops), max(1, len(crops) // 48)):
        mean = vae.encode(crops.pick(index, False)[0][None].to(device))[0].float().cpu().flatten(2)[0]
        count, total, square = count + mean.shape[1], total + mean.sum(1), square + (mean**2).sum(1)
    centre = total / count
    deviation = (square / count - centre**2).clamp_min(1e-8).sqrt()
    mu, sigma, post = vae.quant_conv_mu.conv, vae.quant_conv_log_sigma.conv, vae.post_quant_conv.conv
    mu.weight.div_(deviation[:, None, None, None, None].to(device))
    mu.bias.copy_((mu.bias - centre.to(device)) / deviation.to(device))
    assert sigma.bias is not None and post.bias is not None
    sigma.bias.sub_(2.0 * torch.log(deviation).to(device))
    post.bias.add_((post.weight[:, :, 0, 0, 0] @ centre.to(device)))
    post.weight.mul_(deviation[None, :, None, None, None].to(device))


class Latents:
    """Posterior means (float16) and, where asked for, label maps of every version of every crop."""

    def __init__(self, latents: Tensor, labels: Tensor | None, versions: int, patients: int) -> None:
        self.latents, self.labels, self.versions, self.patients = latents, labels, versions, patients

    def batch(self, step: int, size: int, seed: int, rank: int, world: int) -> tuple[Tensor, Tensor | None]:
        """Latents (size, channels, d, h, w) and labels of one step, a random version of each drawn patient."""
        random = generator(seed, step, rank, 4)
        rows = []
        for position in range(size):
            patient = draw(step * size * world + rank * size + position, self.patients, seed)
            version = int(torch.randint(0, self.versions, (), generator=random))
            rows.append(patient * self.versions + version)
        return self.latents[rows].float(), None if self.labels is None else self.labels[rows]


def versions_of(task: FlowTask, flip: bool) -> list[tuple[bool, tuple[int, int, int]]]:
    """Mirror images and shifts every crop is encoded with: the plain one first, then its mirror image, then shifts."""
    plain = [(f, (0, 0, 0)) for f in ((False, True) if flip else (False,))]
    random = generator(17)
    shifted = (
        (flip and bool(i % 2), tuple(int(v) for v in torch.randint(-task.shift, task.shift + 1, (3,), generator=random)))
        for i in itertools.count()
    )
    return (plain + list(itertools.islice(shifted, max(0, task.versions - len(plain)))))[: task.versions]  # type: ignore[arg-type]


@torch.no_grad()
def encode_all(
    vae: AutoencoderKL, crops: Crops, versions: Sequence[tuple[bool, tuple[int, int, int]]], labels: bool, cache: Path
) -> Latents:
    """Encode every version of every crop, or read the cache that an earlier run with the same VAE and data left."""
    digest = hashlib.sha256(repr((crops.names, list(versions))).encode())
    for tensor in vae.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    key = digest.hexdigest()
    stored = torch.load(cache, weights_only=True) if cache.exists() else {}
    if stored.get("key") == key:
        latents = stored["latents"]
    else:
        device = pick_device()
        vae = vae.to(device)
        rows = []
        for index, (flip, shift) in itertools.product(range(len(crops)), versions):
            image = crops.pick(index, flip, shift)[0][None].to(device)
            with torch.autocast(device.type, torch.bfloat16):
                rows.append(vae.encode(image)[0][0].half().cpu())
        latents = torch.stack(rows)
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_atomically({"key": key, "latents": latents}, cache)
    maps = None
    if labels:
        maps = torch.stack([crops.pick(i, f, s)[1] for i, (f, s) in itertools.product(range(len(crops)), versions)])
    return Latents(latents, maps, len(versions), len(crops))
