"""``ctfast train vae``: L1, squared error, KL and an optional perceptual loss, on patches and then on whole crops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from monai.losses.perceptual import PerceptualLoss
from torch import Tensor, nn

from ctfast.errors import RequestError
from ctfast.networks import AutoencoderKL
from ctfast.train.config import TrainConfig, VaeTask, to_dict
from ctfast.train.data import Crops
from ctfast.train.distributed import wait_for_all
from ctfast.train.files import save_atomically
from ctfast.train.latents import standardise
from ctfast.train.loop import Progress, Trainer, channels_last
from ctfast.train.weights import Source, load_weights

# Intensity of -960 HU: what lies below is air around the patient.
AIR = 0.02


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of the posterior from a standard normal, averaged over latent voxels (Kingma and Welling 2014)."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).mean()


def phase_at(step: int, task: VaeTask) -> tuple[int, int, int] | None:
    """Patch size of a step; the last phase goes on to the end."""
    for phase in task.phases:
        if step < phase.steps:
            return phase.patch
        step -= phase.steps
    return task.phases[-1].patch


def psnr_in_body(image: Tensor, other: Tensor) -> float:
    """PSNR in dB on the [0, 1] window over voxels that are not air (intensity above 0.02, i.e. -960 HU)."""
    body = image > AIR
    error = ((image - other.clamp(0, 1)) ** 2)[body].mean()
    return float(-10.0 * torch.log10(error))


def _perceptual(device: torch.device) -> nn.Module:
    """MONAI's perceptual loss on slices, as MAISI's VAE was trained with."""
    try:
        return PerceptualLoss(3, "squeeze", is_fake_3d=True, fake_3d_ratio=0.2).to(device)
    except ImportError as error:
        raise RequestError("vae.perceptual needs the package lpips: pip install lpips, or set it to 0") from error


def train_vae(
    config: TrainConfig,
    folder: Path,
    stop_after: int | None = None,
    start: Source | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the VAE of ``config`` into ``folder``.

    Goes on from the checkpoint there; without one it begins with the weights of ``start`` (a checkpoint, a plan or a
    state dict), or random ones.

    Returns:
        Path of the result (``vae.pt``): the averaged weights, latents standardised unless the encoder was frozen
        (``decoder_only``: its latents must stay those a denoiser was trained on). With ``stop_after`` before the last
        step, the checkpoint's.
    """
    task = config.vae
    crops, held_out = (Crops(config.data, split, task.network.compression) for split in ("train", "val"))
    for phase in task.phases:
        if phase.patch is not None:
            crops.check_patch(phase.patch)
    torch.manual_seed(task.optimisation.seed)
    network = AutoencoderKL(task.network)
    if start is not None:
        load_weights(network, start)
    if task.decoder_only:
        network.encoder.requires_grad_(False)
        network.quant_conv_mu.requires_grad_(False)
        network.quant_conv_log_sigma.requires_grad_(False)
    record = {"config": to_dict(config), "kind": "vae"}
    trainer = Trainer(network, task.optimisation, folder, record, progress=progress)
    perceptual = _perceptual(trainer.device) if task.perceptual else None

    def loss(called: nn.Module, step: int) -> Mapping[str, Tensor]:
        size, seed = task.optimisation.batch, task.optimisation.seed
        batch = crops.batch(step, size, seed, trainer.rank, trainer.world, phase_at(step, task))
        image = channels_last(batch.to(trainer.device))
        output, mean, log_variance = called(image)
        difference = output.float() - image
        weight = 1.0 + (task.body_weight - 1.0) * (image > AIR)
        l1, l2 = (weight * difference.abs()).mean(), (weight * difference**2).mean()
        kl = kl_divergence(mean, log_variance)
        total = task.l1 * l1 + task.l2 * l2 + task.kl * kl
        out = {"l1": l1, "l2": l2, "kl": kl}
        if perceptual is not None:
            out["perceptual"] = perceptual(output.float(), image)
            total = total + task.perceptual * out["perceptual"]
        return {"loss": total, **out}

    def validate(network: nn.Module) -> Mapping[str, float]:
        assert isinstance(network, AutoencoderKL)
        values = []
        for index in range(len(held_out)):
            image = held_out.pick(index, False)[None].to(trainer.device)
            with trainer.autocast():
                output = network.decode(network.encode(image)[0])
            values.append(psnr_in_body(image, output.float()))
        return {"psnr": sum(values) / len(values)}

    trainer.resume()
    trainer.run(loss, validate, stop_after)
    if trainer.step < task.optimisation.steps:
        return trainer.checkpoint
    result = trainer.ema
    assert isinstance(result, AutoencoderKL)
    if not task.decoder_only:
        standardise(result, crops)
    path = folder / "vae.pt"
    if trainer.rank == 0:
        save_atomically({"state_dict": result.state_dict(), **trainer.record}, path)
    wait_for_all()
    return path
