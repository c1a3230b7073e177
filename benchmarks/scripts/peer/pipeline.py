"""MONAI's way from noise to volume on a CPU: eager networks, RFlowScheduler, SlidingWindowInferer."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.schedulers import RFlowScheduler
from numpy.typing import NDArray
from pipelines import HU_OFFSET, HU_SCALE, LABEL_BITS, MODALITY, SPACING, Float32, Request, Timed
from torch import Tensor, nn

from peer import networks


class MonaiPipeline:
    """MONAI 1.5 and later, in fp32 or with its networks under bf16 autocast."""

    def load(self, folder: Path, dtype: str, threads: int) -> float:
        start = time.perf_counter()
        torch.set_num_threads(threads)
        self.half = dtype == "autocast"
        self.denoiser = networks.read(folder, "denoiser")
        self.controlnet = networks.read(folder, "controlnet")
        autoencoder: Any = networks.read(folder, "autoencoder")
        self.decoder = nn.Sequential(autoencoder.post_quant_conv, autoencoder.decoder)
        return time.perf_counter() - start

    @torch.no_grad()
    def warm_up(self, request: Request, noise: Float32, labels: NDArray[np.uint16] | None) -> float:
        start = time.perf_counter()
        window = [min(extents) for extents in zip(request.latent, request.window, strict=True)]
        extent = window if request.windows_needed else request.latent
        with self._precision():
            self._velocity(torch.from_numpy(noise)[None], torch.tensor(1000.0), _condition(labels))
            self._decoded(torch.zeros((1, len(noise), *extent)))
        return time.perf_counter() - start

    @torch.no_grad()
    def sample(self, request: Request, noise: Float32, labels: NDArray[np.uint16] | None) -> Timed:
        start = time.perf_counter()
        scheduler, steps = schedule(request.steps, request.latent)
        condition = _condition(labels)
        x = torch.from_numpy(noise)[None]
        with self._precision():
            for now, then in steps:
                x, _ = scheduler.step(self._velocity(x, now, condition), now, x, then)
        return Timed(np.ascontiguousarray(x[0].numpy()), time.perf_counter() - start)

    @torch.no_grad()
    def decode(self, request: Request, latent: Float32, scale: float, windowed: bool) -> Timed:
        start = time.perf_counter()
        z = torch.from_numpy(latent)[None] / scale
        if windowed and request.windows_needed:
            window = tuple(min(extents) for extents in zip(request.latent, request.window, strict=True))
            inferer: Any = SlidingWindowInferer(window, sw_batch_size=1, overlap=request.overlap, mode="gaussian")
            with self._precision():
                image = inferer(z, self._decoded)
        else:
            with self._precision():
                image = self._decoded(z)
        (torch.clip(image, 0.0, 1.0) * HU_SCALE + HU_OFFSET).to(torch.int16)
        return Timed(image[0, 0].numpy(), time.perf_counter() - start)

    def about(self) -> dict[str, Any]:
        return {"peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}

    def _velocity(self, x: Tensor, time_step: Tensor, condition: Tensor | None) -> Tensor:
        given: dict[str, Any] = {
            "x": x,
            "timesteps": time_step[None].float(),
            "class_labels": torch.tensor([MODALITY]),
        }
        extra: dict[str, Any] = {"spacing_tensor": torch.tensor([SPACING]) * 100.0}
        if condition is not None:
            down, middle = self.controlnet(**given, controlnet_cond=condition)
            extra["down_block_additional_residuals"] = down
            extra["mid_block_additional_residual"] = middle
        velocity: Tensor = self.denoiser(**given, **extra)
        return velocity.float()

    def _decoded(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z)
        return image.float()

    def _precision(self) -> torch.autocast:
        """Autocast around a whole stage, as in the official scripts: weights are converted once, not at every step.

        (Only without inference_mode, under which autocast keeps no converted weights.)
        """
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)


def schedule(steps: int, latent: Sequence[int]) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """The official scripts' scheduler, and each step's time and the next one's. Not to be called under autocast, which
    cannot join half-precision tensors on a CPU.
    """
    scheduler: Any = RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=False,
        use_timestep_transform=True,
        sample_method="uniform",
        scale=1.4,
    )
    # The voxel count as a tensor, as the official scripts pass it: a plain number would change the rounding.
    scheduler.set_timesteps(steps, input_img_size_numel=torch.prod(torch.tensor(latent)))
    times = scheduler.timesteps
    following = torch.cat((times[1:], torch.zeros(1, dtype=times.dtype)))
    return scheduler, list(zip(times, following, strict=True))


def _condition(labels: NDArray[np.uint16] | None) -> Tensor | None:
    """Label map (x, y, z) to its bits (1, bits, x, y, z)."""
    if labels is None:
        return None
    bits = (labels[None] >> np.arange(LABEL_BITS, dtype=np.uint16)[:, None, None, None]) & 1
    return torch.from_numpy(bits[None].astype(np.float32))
