"""``ctfast train controlnet``: mask conditioning on a frozen denoiser, with MAISI-v2's region-specific contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctfast.networks import ControlNet, DenoiserUNet
from ctfast.train.config import ControlNetTask, TrainConfig, to_dict
from ctfast.train.data import Crops, generator, label_bits
from ctfast.train.flow import conditions, distance, noised, scheduler, voxel_size
from ctfast.train.latents import Latents, encode_all, load_vae, versions_of
from ctfast.train.loop import Trainer


def start_from(controlnet: ControlNet, denoiser: DenoiserUNet) -> None:
    """Copy the denoiser's way down and start from no effect: every tap zero (Zhang et al. 2023)."""
    own = controlnet.state_dict()
    theirs = denoiser.state_dict()
    controlnet.load_state_dict(
        {k: theirs[k] if k in theirs and theirs[k].shape == v.shape else v for k, v in own.items()}
    )
    for tap in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        for parameter in tap.parameters():
            nn.init.zeros_(parameter)


def region_weights(labels: Tensor, roi: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Region of interest and its dilated complement at latent resolution, shapes (batch, 1, d, h, w), values 0 or 1."""
    inside = torch.isin(labels, torch.tensor(list(roi), dtype=labels.dtype, device=labels.device)).float()
    region = (F.adaptive_max_pool3d(inside, tuple(size)) > 0).float()
    return region, inside


def dilate(region: Tensor, voxels: int) -> Tensor:
    """Grow a 0/1 region by ``voxels`` along each axis."""
    return F.max_pool3d(region, 2 * voxels + 1, stride=1, padding=voxels)


def contrastive_loss(first: Tensor, second: Tensor, region: Tensor, dilation: int, cap: float) -> Tensor:
    """Region-specific contrastive loss of MAISI-v2: two predictions, one of which saw the mask without its ROI.

    Inside the ROI they should differ (the reward ends at ``cap``); outside the dilated ROI they should agree.

    Args:
        first, second: Predictions or features (batch, channels, d, h, w).
        region: The ROI on their grid (batch, 1, d, h, w), 0 or 1.
        dilation: Voxels between the ROI and the background.
        cap: Largest mean difference that is still rewarded.
    """
    difference = (first.float() - second.float()).abs().mean(1, keepdim=True)
    background = 1.0 - dilate(region, dilation)
    inside = (difference * region).sum() / region.sum().clamp_min(1.0)
    outside = (difference * background).sum() / background.sum().clamp_min(1.0)
    return outside - inside.clamp_max(cap)


def without_roi(labels: Tensor, roi: Sequence[int], background: int) -> Tensor:
    """The label map with the ROI's labels replaced by the background label."""
    inside = torch.isin(labels, torch.tensor(list(roi), dtype=labels.dtype, device=labels.device))
    return torch.where(inside, torch.full_like(labels, background), labels)


def contrast_weight(step: int, steps: int, task: ControlNetTask) -> float:
    """Weight of the contrastive term: the first value until ``contrast_switch`` of the run, then the late one."""
    return task.contrast_weight if step < task.contrast_switch * steps else task.contrast_weight_late


def train_controlnet(
    config: TrainConfig, vae_path: Path, flow_path: Path, folder: Path, stop_after: int | None = None
) -> Path:
    """Train the ControlNet of ``config`` beside the frozen denoiser of ``flow_path``; goes on from its checkpoint."""
    task, settings, bits = config.controlnet, config.controlnet.optimisation, config.data.label_bits
    crops, held_out = Crops(config.data, "train"), Crops(config.data, "val")
    vae = load_vae(vae_path, config)
    data = encode_all(vae, crops, versions_of(config.flow, config.data.flip), True, folder / "latents.pt")
    check = encode_all(vae, held_out, [(False, (0, 0, 0))], True, folder / "latents_val.pt")
    denoiser = DenoiserUNet(config.flow.network)
    denoiser.load_state_dict(torch.load(flow_path, map_location="cpu", weights_only=True)["state_dict"])
    torch.manual_seed(settings.seed)
    controlnet = ControlNet(config.controlnet_network())
    start_from(controlnet, denoiser)
    trainer = Trainer(_Pair(controlnet), settings, folder, {"config": to_dict(config), "kind": "controlnet"})
    denoiser = denoiser.to(trainer.device, memory_format=torch.channels_last_3d).eval().requires_grad_(False)
    schedule, spacing = scheduler(config.flow), voxel_size(crops)

    def call(network: nn.Module, source: Latents, size: int, step: int, rank: int, world: int) -> dict[str, Tensor]:
        where = trainer.device
        latent, labels = source.batch(step, size, settings.seed, rank, world)
        assert labels is not None
        labels = labels.to(where)
        noisy, times, velocity = noised(latent, schedule, generator(settings.seed, step, rank, 5))
        noisy = noisy.to(where, memory_format=torch.channels_last_3d)
        times, velocity = times.to(where), velocity.to(where)
        given = {k: v.to(where) for k, v in conditions(config.flow.network, size, config.modality, spacing).items()}

        def predict(mask: Tensor) -> tuple[Tensor, Tensor]:
            down, middle, feature = network(noisy, times, label_bits(mask, bits), given.get("class_labels"))
            return denoiser(noisy, times, **given, down_residuals=down, middle_residual=middle), feature

        prediction, feature = predict(labels)
        region, _ = region_weights(labels, task.roi_labels, noisy.shape[2:])
        weight = 1.0 + (task.roi_weight - 1.0) * region
        flow = (weight * distance(prediction, velocity, task.loss)).mean()
        out = {"flow": flow}
        factor = contrast_weight(step, settings.steps, task)
        if task.roi_labels and factor and bool(region.any()) and torch.is_grad_enabled():
            other, other_feature = predict(without_roi(labels, task.roi_labels, task.background_label))
            pair = (feature, other_feature) if task.contrast_on_features else (prediction, other)
            out["contrast"] = contrastive_loss(*pair, region, task.contrast_dilation, task.contrast_cap)
            flow = flow + factor * out["contrast"]
        return {"loss": flow, **out}

    def loss(network: nn.Module, step: int, device: torch.device) -> Mapping[str, Tensor]:
        return call(network, data, settings.batch, step, trainer.rank, trainer.world)

    def validate(network: nn.Module, device: torch.device) -> Mapping[str, float]:
        with trainer.autocast():
            values = [float(call(network, check, 4, 10**9 + i, 0, 1)["flow"]) for i in range(10)]
        return {"flow": sum(values) / len(values)}

    trainer.resume()
    trainer.run(loss, validate, stop_after)
    return trainer.checkpoint


class _Pair(nn.Module):
    """The ControlNet as one call, so that DDP sees all its parts: residuals and the first encoder feature."""

    def __init__(self, controlnet: ControlNet) -> None:
        super().__init__()
        self.controlnet = controlnet

    def forward(
        self, x: Tensor, timesteps: Tensor, condition: Tensor, class_labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        net = self.controlnet
        condition = condition.contiguous(memory_format=torch.channels_last_3d)
        skips, middle = net.features(x, timesteps, net.embed_condition(condition), class_labels)
        down = [tap(skip) for tap, skip in zip(net.controlnet_down_blocks, skips, strict=True)]
        return down, net.controlnet_mid_block(middle), skips[net.config.blocks]
