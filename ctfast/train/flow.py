"""``ctfast train flow``: a rectified flow on latents (Liu et al. 2023), time steps as MONAI's scheduler draws them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from torch import Tensor, nn

from ctfast.networks import DenoiserConfig, DenoiserUNet
from ctfast.train.config import FlowTask, TrainConfig, to_dict
from ctfast.train.data import Crops
from ctfast.train.latents import PLAIN, Latents, encode_all, load_vae, versions_of
from ctfast.train.loop import Progress, Trainer, channels_last
from ctfast.train.sampling import generator
from ctfast.train.weights import Source, load_weights

# Steps far beyond any training run: the same noise and times at every validation.
VALIDATION_STEPS = range(10**9, 10**9 + 10)


def scheduler(task: FlowTask) -> RFlowScheduler:
    """Draws time steps and mixes data with noise; the time transform is on where MAISI's is (uniform sampling)."""
    return RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=False,
        sample_method=task.sample_method,
        scale=1.0,
        use_timestep_transform=task.sample_method == "uniform",
        base_img_size_numel=task.base_voxels,
        spatial_dim=3,
    )


def conditions(network: DenoiserConfig, modality: int, spacing: Tensor) -> dict[str, Tensor]:
    """Class and spacing inputs of a batch with voxel sizes ``spacing`` (n, 3) in mm, where the network has them."""
    out = {}
    if network.class_embeddings:
        out["class_labels"] = torch.full((len(spacing),), modality, dtype=torch.long)
    if network.spacing:
        out["spacing"] = spacing * 100.0
    return out


def noised(data: Tensor, schedule: RFlowScheduler, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy latent, raw time steps, velocity = data - noise) of a batch; draws depend on ``random`` alone."""
    noise = torch.randn(data.shape, generator=random)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(0, 2**31, (), generator=random)))
        times: Tensor = schedule.sample_timesteps(data)
    return schedule.add_noise(original_samples=data, noise=noise, timesteps=times), times, data - noise


def distance(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Per-voxel L1 or squared error."""
    difference = prediction.float() - target
    return difference.abs() if kind == "l1" else difference**2


def crops_and_latents(
    config: TrainConfig, vae_source: Source, folder: Path, progress: Progress | None
) -> tuple[Latents, Latents]:
    """Latents of both splits, cached in ``folder``: what the denoiser and the ControlNet train on."""
    multiple = config.vae.network.compression * config.flow.network.multiple
    vae = load_vae(vae_source, config)  # before the data: a wrong file is told at once
    crops, held_out = (Crops(config.data, split, multiple) for split in ("train", "val"))
    data = encode_all(vae, crops, versions_of(config.flow, config.data.flip), folder / "latents.pt", progress)
    return data, encode_all(vae, held_out, [PLAIN], folder / "latents_val.pt", progress)


def train_flow(
    config: TrainConfig,
    vae_source: Source,
    folder: Path,
    stop_after: int | None = None,
    start: Source | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the denoiser of ``config`` on the latents of ``vae_source``.

    Goes on from the checkpoint in ``folder``; without one it begins with the weights of ``start`` (a checkpoint, a
    plan or a state dict), or random ones.

    Returns:
        Path of the checkpoint; its ``state_dict`` holds the averaged weights.
    """
    task, settings = config.flow, config.flow.optimisation
    data, check = crops_and_latents(config, vae_source, folder, progress)
    torch.manual_seed(settings.seed)
    denoiser = DenoiserUNet(task.network)
    if start is not None:
        load_weights(denoiser, start)
    record = {"config": to_dict(config), "kind": "flow", "scale_factor": 1.0}
    trainer = Trainer(denoiser, settings, folder, record, progress=progress)
    schedule, where = scheduler(task), trainer.device

    def call(network: nn.Module, source: Latents, size: int, step: int, rank: int = 0, world: int = 1) -> Tensor:
        batch = source.batch(step, size, settings.seed, rank, world)
        noisy, times, velocity = noised(batch.latent, schedule, generator(settings.seed, step, rank, 5))
        given = {k: v.to(where) for k, v in conditions(task.network, config.modality, batch.spacing).items()}
        prediction = network(channels_last(noisy.to(where)), times.to(where), **given)
        return distance(prediction, velocity.to(where), task.loss).mean()

    def loss(network: nn.Module, step: int) -> Mapping[str, Tensor]:
        return {"loss": call(network, data, settings.batch, step, trainer.rank, trainer.world)}

    def validate(network: nn.Module) -> Mapping[str, float]:
        with trainer.autocast():
            values = [float(call(network, check, 4, step)) for step in VALIDATION_STEPS]
        return {"loss": sum(values) / len(values)}

    trainer.resume()
    trainer.run(loss, validate, stop_after)
    return trainer.checkpoint
