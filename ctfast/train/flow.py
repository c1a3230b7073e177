"""``ctfast train flow``: a rectified flow on latents (Liu et al. 2023), time steps as MONAI's RFlowScheduler draws them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

from ctfast.networks import DenoiserConfig, DenoiserUNet
from ctfast.train.config import FlowTask, TrainConfig, to_dict
from ctfast.train.data import Crops, generator
from ctfast.train.latents import Latents, encode_all, load_vae, versions_of
from ctfast.train.loop import Trainer


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


def conditions(network: DenoiserConfig, batch: int, modality: int, spacing: tuple[float, ...]) -> dict[str, Tensor]:
    """Class and spacing inputs of a batch, where the network has them."""
    out = {}
    if network.class_embeddings:
        out["class_labels"] = torch.full((batch,), modality, dtype=torch.long)
    if network.spacing:
        out["spacing"] = torch.tensor([spacing] * batch) * 100.0
    return out


def voxel_size(crops: Crops) -> tuple[float, ...]:
    """Spacing in mm of a prepared data set, from its first crop."""
    import nibabel

    first = Path(crops.config.root) / "train" / f"{crops.names[0]}_ct.nii.gz"
    return tuple(float(v) for v in nibabel.load(first).header.get_zooms()[:3])


def noised(
    data: Tensor, schedule: RFlowScheduler, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy latent, raw time steps, velocity = data - noise) of a batch; draws depend on ``random`` alone."""
    noise = torch.randn(data.shape, generator=random)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(0, 2**31, (), generator=random)))
        times = schedule.sample_timesteps(data)
    return schedule.add_noise(original_samples=data, noise=noise, timesteps=times), times, data - noise


def distance(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Per-voxel L1 or squared error."""
    difference = prediction.float() - target
    return difference.abs() if kind == "l1" else difference**2


def train_flow(config: TrainConfig, vae_path: Path, folder: Path, stop_after: int | None = None) -> Path:
    """Train the denoiser of ``config`` on the latents of ``vae_path``; goes on from ``folder``'s checkpoint."""
    task, settings = config.flow, config.flow.optimisation
    crops, held_out = Crops(config.data, "train"), Crops(config.data, "val")
    vae = load_vae(vae_path, config)
    data = encode_all(vae, crops, versions_of(task, config.data.flip), False, folder / "latents.pt")
    check = encode_all(vae, held_out, [(False, (0, 0, 0))], False, folder / "latents_val.pt")
    torch.manual_seed(settings.seed)
    trainer = Trainer(DenoiserUNet(task.network), settings, folder, {"config": to_dict(config), "kind": "flow"})
    schedule, spacing = scheduler(task), voxel_size(crops)

    def call(network: nn.Module, source: Latents, size: int, step: int, rank: int, world: int) -> Tensor:
        latent, _ = source.batch(step, size, settings.seed, rank, world)
        noisy, times, velocity = noised(latent, schedule, generator(settings.seed, step, rank, 5))
        where = trainer.device
        given = {k: v.to(where) for k, v in conditions(task.network, size, config.modality, spacing).items()}
        noisy = noisy.to(where, memory_format=torch.channels_last_3d)
        return distance(network(noisy, times.to(where), **given), velocity.to(where), task.loss).mean()

    def loss(network: nn.Module, step: int, device: torch.device) -> Mapping[str, Tensor]:
        return {"loss": call(network, data, settings.batch, step, trainer.rank, trainer.world)}

    def validate(network: nn.Module, device: torch.device) -> Mapping[str, float]:
        with trainer.autocast():
            # Steps far beyond any training run: the same noise and times at every validation.
            values = [float(call(network, check, 4, 10**9 + i, 0, 1)) for i in range(10)]
        return {"loss": sum(values) / len(values)}

    trainer.resume()
    trainer.run(loss, validate, stop_after)
    return trainer.checkpoint
