"""What a volume's metadata say: which plan made it, from what request, on what machine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from .backends import Backend
from .decoding import Route
from .manifest import PlanManifest
from .request import Job


def about_plan(manifest: PlanManifest, identity: str) -> dict[str, Any]:
    """The plan, its licence and its weights' sources; ``identity`` is the plan file's SHA-256."""
    return {
        "plan": {
            "name": manifest.name,
            "family": manifest.family,
            "variant": manifest.variant,
            "revision": manifest.revision,
            "sha256": identity,
        },
        "intensity": {
            "kind": manifest.intensity.kind,
            "unit": manifest.intensity.unit,
            "low": manifest.intensity.low,
            "high": manifest.intensity.high,
        },
        "licence": {"class": manifest.licence.kind, "text": manifest.licence.text},
        "weights": [
            {"network": item.network, "source": item.source, "sha256": item.sha256, "licence": item.licence}
            for item in manifest.weights
        ],
    }


def about_grid(job: Job, route: Route | None) -> dict[str, Any]:
    """Size, spacing and the way of decoding; ``route`` is None for windows."""
    grid = {"size": list(job.size), "spacing": list(job.spacing), "decode": job.decode}
    return grid if route is None else {**grid, "decode_strategy": _about_route(route)}


def about_encoding(route: Route, seed: int | None) -> dict[str, Any]:
    """How a latent was made; ``seed`` is that of a sample of the posterior, None for its mean."""
    posterior = {"kind": "mean"} if seed is None else {"kind": "sample", "seed": seed}
    return {"posterior": posterior, "encode_strategy": _about_route(route)}


def _about_route(route: Route) -> dict[str, Any]:
    return {"name": route.name, "predicted_peak_bytes": route.peak_bytes}


def about_request(job: Job, manifest: PlanManifest) -> dict[str, Any]:
    """Everything that the sampled latent depends on; of a mask only its hash, since its file's name may be private."""
    mask = None if job.mask is None else {"source": "user", "sha256": job.mask.sha256}
    body = None if job.mask is None or manifest.labels is None else manifest.labels.body
    latents = None if job.latents is None else {"sha256": hashlib.sha256(job.latents.tobytes()).hexdigest()}
    return {
        "seed": job.seed,
        "sample": job.sample,
        "steps": job.steps,
        "solver": job.solver,
        "time_grid": job.time_grid if job.method == "flow" else None,
        **({} if job.times is None else {"times": list(job.times)}),
        "modality": job.modality,
        "guidance": {"kind": job.guidance_kind, "scale": job.guidance},
        "latents": latents,
        "mask": mask,
        "body_label": body,
    }


def about_run(
    backend: Backend, precision: Mapping[str, str], threads: int, timings: Mapping[str, float]
) -> dict[str, Any]:
    """Backend, device, versions and seconds per stage."""
    seconds = {stage: round(value, 4) for stage, value in timings.items()}
    return {
        "backend": backend.name,
        "device": backend.device,
        "precision": dict(precision),
        "threads": threads,
        "timings": {**seconds, "total": round(sum(timings.values()), 4)},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **backend.versions},
    }
