"""``ctfast train controlnet``: mask conditioning on a frozen denoiser, with MAISI-v2's region-specific contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctfast.errors import DataError
from ctfast.networks import ControlNet, DenoiserUNet
from ctfast.train.config import ControlNetTask, TrainConfig, to_dict
from ctfast.train.data import Crops, label_bits
from ctfast.train.flow import VALIDATION_STEPS, conditions, crops_and_latents, distance, noised, scheduler
from ctfast.train.latents import Latents
from ctfast.train.loop import Progress, Trainer, channels_last, place
from ctfast.train.sampling import generator
from ctfast.train.weights import Source, load_weights


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


def region_of(labels: Tensor, roi: Sequence[int], size: Sequence[int]) -> Tensor:
    """The region of interest at latent resolution, shape (batch, 1, d, h, w): 1 where any image voxel is in it."""
    return F.adaptive_max_pool3d(_in_roi(labels, roi).float(), tuple(size))


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
    return torch.where(_in_roi(labels, roi), torch.full_like(labels, background), labels)


def contrast_weight(step: int, steps: int, task: ControlNetTask) -> float:
    """Weight of the contrastive term: the first value until ``contrast_switch`` of the run, then the late one."""
    return task.contrast_weight if step < task.contrast_switch * steps else task.contrast_weight_late


def train_controlnet(
    config: TrainConfig,
    vae_source: Source,
    flow_source: Source,
    folder: Path,
    stop_after: int | None = None,
    start: Source | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the ControlNet of ``config`` beside the frozen denoiser of ``flow_source``.

    Goes on from the checkpoint in ``folder``; without one it begins with the weights of ``start`` (a checkpoint, a
    plan or a state dict), or as a copy of the denoiser's way down that has no effect yet.

    Returns:
        Path of the checkpoint; its ``state_dict`` holds the averaged weights.
    """
    task, settings, bits = config.controlnet, config.controlnet.optimisation, config.data.label_bits
    denoiser = DenoiserUNet(config.flow.network)
    load_weights(denoiser, flow_source)
    data, check = crops_and_latents(config, vae_source, folder, progress)
    for source in (data, check):
        _check_labels(source.crops, bits)
    torch.manual_seed(settings.seed)
    controlnet = ControlNet(config.controlnet_network())
    if start is not None:
        load_weights(controlnet, start)
    else:
        start_from(controlnet, denoiser)
    record = {"config": to_dict(config), "kind": "controlnet"}
    trainer = Trainer(controlnet, settings, folder, record, lambda net: _Call(cast(ControlNet, net)), progress)
    frozen = place(denoiser.eval().requires_grad_(False), trainer.device)
    schedule, where = scheduler(config.flow), trainer.device

    def call(
        network: nn.Module, source: Latents, size: int, step: int, rank: int = 0, world: int = 1, contrast: float = 0.0
    ) -> dict[str, Tensor]:
        batch = source.batch(step, size, settings.seed, rank, world)
        noisy, times, velocity = noised(batch.latent, schedule, generator(settings.seed, step, rank, 5))
        noisy, times, velocity = channels_last(noisy.to(where)), times.to(where), velocity.to(where)
        given = {k: v.to(where) for k, v in conditions(config.flow.network, config.modality, batch.spacing).items()}
        labels = batch.labels.to(where)
        region = region_of(labels, task.roi_labels, noisy.shape[2:])
        # The pair goes through the ControlNet as one batch: DDP wants one call per step.
        paired = contrast != 0.0 and bool(region.any())
        if paired:
            labels = torch.cat([labels, without_roi(labels, task.roi_labels, task.background_label)])
            noisy, times = channels_last(noisy.repeat(2, 1, 1, 1, 1)), times.repeat(2)
            given = {k: v.repeat(2, *[1] * (v.dim() - 1)) for k, v in given.items()}
        down, middle, feature = network(noisy, times, label_bits(labels, bits), given.get("class_labels"))
        if paired and task.contrast_on_features:  # the denoiser need not see the second half
            down, middle, noisy, times = [d[:size] for d in down], middle[:size], noisy[:size], times[:size]
            given = {k: v[:size] for k, v in given.items()}
        prediction = frozen(noisy, times, **given, down_residuals=down, middle_residual=middle)
        weight = 1.0 + (task.roi_weight - 1.0) * region
        flow = (weight * distance(prediction[:size], velocity, task.loss)).mean()
        if not paired:
            return {"loss": flow, "flow": flow}
        compared = feature if task.contrast_on_features else prediction
        region = region_of(batch.labels.to(where), task.roi_labels, compared.shape[2:])
        term = contrastive_loss(compared[:size], compared[size:], region, task.contrast_dilation, task.contrast_cap)
        return {"loss": flow + contrast * term, "flow": flow, "contrast": term}

    def loss(network: nn.Module, step: int) -> Mapping[str, Tensor]:
        factor = contrast_weight(step, settings.steps, task)
        return call(network, data, settings.batch, step, trainer.rank, trainer.world, factor)

    def validate(network: nn.Module) -> Mapping[str, float]:
        with trainer.autocast():
            values = [float(call(network, check, 4, step)["flow"]) for step in VALIDATION_STEPS]
        return {"flow": sum(values) / len(values)}

    trainer.resume()
    trainer.run(loss, validate, stop_after)
    return trainer.checkpoint


def _in_roi(labels: Tensor, roi: Sequence[int]) -> Tensor:
    return torch.isin(labels, torch.tensor(list(roi), dtype=labels.dtype, device=labels.device))


def _check_labels(crops: Crops, bits: int) -> None:
    for name, labels in zip(crops.names, crops.labels, strict=True):
        highest = int(labels.max())
        if highest >= 2**bits:
            raise DataError(
                f"{name}: expected labels below {2**bits} ({bits} bits), found {highest}; raise data.label_bits"
            )


class _Call(nn.Module):
    """The ControlNet as one call, so that DDP sees all its parts: residuals and the first level's encoder feature."""

    def __init__(self, controlnet: ControlNet) -> None:
        super().__init__()
        self.controlnet = controlnet

    def forward(
        self, x: Tensor, timesteps: Tensor, condition: Tensor, class_labels: Tensor | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        net = self.controlnet
        embedding = net.embed_condition(channels_last(condition))
        skips, middle = net.features(x, timesteps, embedding, class_labels)
        down = [tap(skip) for tap, skip in zip(net.controlnet_down_blocks, skips, strict=True)]
        middle_residual: Tensor = net.controlnet_mid_block(middle)
        return down, middle_residual, skips[net.config.blocks]
