"""MONAI's way from noise to volume on a GPU, at its best settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_sides import Size3, blocks_of_labels
from monai.inferers import SlidingWindowInferer
from pipelines import COMPRESSION, HU_OFFSET, HU_SCALE, LABEL_BITS, MODALITY, SPACING
from torch import Tensor, nn

from peer import networks
from peer.pipeline import schedule

_WINDOW, _OVERLAP = 80, 0.4  # as in the official configuration
_GIB = 2**30
_LABELS, _BODY = [1, 3, 4, 5], 200


class GpuPipeline:
    """The networks in bf16 under autocast, windows and their sum on the device; the volume comes back as int16."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = torch.device(device)
        torch.backends.cudnn.benchmark = True
        self.denoiser = networks.read(folder, "denoiser").to(self.device)
        self.controlnet = networks.read(folder, "controlnet").to(self.device)
        autoencoder: Any = networks.read(folder, "autoencoder").to(self.device)
        self.decoder = nn.Sequential(autoencoder.post_quant_conv, autoencoder.decoder)

    @torch.no_grad()
    def run(self, size: Size3, control: bool, steps: int, seed: int) -> dict[str, float]:
        """Seconds of each stage, and the peak of the device's memory in GiB."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        latent = tuple(edge // COMPRESSION for edge in size)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, 4, *latent), generator=generator)
        stages: dict[str, float] = {}
        x = self._timed(stages, "sample", lambda: self._sample(noise.to(self.device), size, control, steps))
        self._timed(stages, "decode", lambda: self._decode(x))
        peak = torch.cuda.max_memory_reserved(self.device) / _GIB if cuda else 0.0
        return {**stages, "total": sum(stages.values()), "peak_gib": peak}

    def _sample(self, x: Tensor, size: Size3, control: bool, steps: int) -> Tensor:
        scheduler, times = schedule(steps, x.shape[2:])
        condition = None
        if control:
            labels = torch.from_numpy(blocks_of_labels(size, _LABELS, _BODY).astype(np.int32)).to(self.device)
            condition = torch.stack([(labels >> bit) & 1 for bit in range(LABEL_BITS)])[None].float()
        label = torch.tensor([MODALITY], device=self.device)
        spacing = torch.tensor([SPACING], device=self.device) * 100.0
        with self._half():
            for now, then in times:
                given: dict[str, Any] = {"x": x, "timesteps": now[None].float().to(self.device), "class_labels": label}
                extra: dict[str, Any] = {"spacing_tensor": spacing}
                if condition is not None:
                    down, middle = self.controlnet(**given, controlnet_cond=condition)
                    extra["down_block_additional_residuals"] = down
                    extra["mid_block_additional_residual"] = middle
                x, _ = scheduler.step(self.denoiser(**given, **extra).float(), now, x, then)
        return x

    def _decode(self, latent: Tensor) -> Tensor:
        z = latent / latent.std()
        window = tuple(min(extent, _WINDOW) for extent in z.shape[2:])
        inferer: Any = SlidingWindowInferer(
            window, sw_batch_size=1, overlap=_OVERLAP, mode="gaussian", sw_device=self.device, device=self.device
        )
        with self._half():
            whole = z[0, 0].numel() <= _WINDOW**3
            image = self.decoder(z) if whole else inferer(z, self.decoder)
        return (torch.clip(image.float(), 0.0, 1.0) * HU_SCALE + HU_OFFSET).to(torch.int16).cpu()

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def _timed(self, stages: dict[str, float], name: str, work: Callable[[], Tensor]) -> Tensor:
        start = time.perf_counter()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        stages[name] = time.perf_counter() - start
        return result
