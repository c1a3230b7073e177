"""ctfast's way from noise to volume, step by step: what an Engine does, with the stages timed apart."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pipelines import COMPRESSION, HU_OFFSET, HU_SCALE, MODALITY, SPACING, Float32, Request, Timed

#: Name of the plan of each precision, beside the ``models`` folder it was built from.
PLANS = {"bf16": "bf16.plan", "fp32": "fp32.plan", "fp16": "bf16.plan", "int8": "int8.plan"}


class CtfastPipeline:
    """A plan's networks through ctfast's native runtime."""

    def load(self, folder: Path, dtype: str, threads: int) -> float:
        """``dtype`` is a precision, or a backend and a precision: "torch:bf16"."""
        from ctfast import _native
        from ctfast.backends import Source, open_backend
        from ctfast.plan import Plan

        start = time.perf_counter()
        self._native: Any = _native
        backend_name, _, precision = dtype.rpartition(":")
        path = folder.parent / PLANS[precision]
        manifest = Plan.open(path).manifest
        plan = _native.Plan(str(path))

        # An int8 plan says which of its networks that is.
        asked = None if precision == "int8" else precision
        backend = open_backend(backend_name or "openvino", Source(plan, manifest, precision=asked, threads=threads))
        self.backend = backend
        self.bits = manifest.labels.bits if manifest.labels else 0
        self.denoiser = backend.open("denoiser", manifest.networks["denoiser"].drop_if_unused)
        self.controlled = backend.open("denoiser")
        self.controlnet = backend.open("controlnet")
        self.embedding = backend.open("controlnet_condition")
        self.decoder = backend.open("vae_decoder")
        return time.perf_counter() - start

    def warm_up(self, request: Request, noise: Float32, labels: NDArray[np.uint16] | None) -> float:
        start = time.perf_counter()
        once = Request(request.latent, 1, request.control, request.window, request.overlap)
        self.decode(request, self.sample(once, noise, labels).array, 1.0, windowed=False)
        return time.perf_counter() - start

    def sample(self, request: Request, noise: Float32, labels: NDArray[np.uint16] | None) -> Timed:
        start = time.perf_counter()
        t, dt = self._native.rflow_time_grid(request.steps, int(np.prod(request.latent)), "monai")
        condition = None
        if labels is not None:
            bits = self._native.label_bits(labels, self.bits)
            condition = self.embedding.run({"condition": bits[None]})["condition_embedding"]
        latent = self._native.sample(
            self.denoiser if labels is None else self.controlled,
            None if labels is None else self.controlnet,
            shape=noise.shape,
            seed=0,
            latents=noise,
            t=t,
            dt=dt,
            solver="euler",
            class_label=MODALITY,
            spacing=SPACING,
            condition=condition,
        )
        return Timed(latent, time.perf_counter() - start)

    def decode(self, request: Request, latent: Float32, scale: float, windowed: bool) -> Timed:
        start = time.perf_counter()
        window = request.window if windowed else None
        image = self._native.decode(self.decoder, latent, scale, (COMPRESSION,) * 3, window, request.overlap)
        self._native.to_hu(image, None, HU_SCALE, HU_OFFSET)
        return Timed(image, time.perf_counter() - start)

    def about(self) -> dict[str, Any]:
        return {
            "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "precision": {
                "denoiser": self.backend.ran_in("denoiser", self.denoiser),
                "decoder": self.backend.ran_in("vae_decoder", self.decoder),
            },
        }


def prepare(cache: Path, seed: int, precisions: Sequence[str] = ("bf16", "fp32")) -> Path:
    """Random weights in the official layout and plans built from them; returns the ``models`` folder.

    Both are kept under ``cache`` and made again when the code that makes them has changed.
    """
    import torch
    from peer import networks

    import ctfast
    from ctfast import export
    from ctfast import networks as own_networks

    digest = hashlib.sha256(f"{seed} {torch.__version__}".encode())
    makers = [Path(networks.__file__)]
    for folder in (*export.__path__, *own_networks.__path__):
        makers += sorted(Path(folder).glob("*.py"))
    for source in makers:
        digest.update(source.read_bytes())
    home = cache / f"rflow_ct_random_{digest.hexdigest()[:12]}"
    models = home / "models"
    if not all((models / name).exists() for name in networks.FILES.values()):
        networks.write_files(models, seed)
    for precision in precisions:
        if not (home / PLANS[precision]).exists():
            ctfast.build("rflow-ct", weights=models, output=home / PLANS[precision], precision=precision)
    return models
