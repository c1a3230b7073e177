"""Whether a request fits into memory and how it is to be run, asked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from .decoding import Route, Routes, quickest
from .errors import MemoryBudgetError
from .manifest import PlanManifest, Size3
from .memory import check_table, text_of
from .request import Job
from .sessions import Sessions, Use, voxels_of

# How much quicker decoding has to become for the sampling networks to be given up, to be compiled again next time.
_WORTH_RELEASING = 0.8


@dataclass(frozen=True)
class Outline:
    """How a request is run. ``route`` is None for windowed decoding.

    ``release``: the sampling networks are given up before decoding, for the memory that they hold.
    """

    route: Route | None
    release: bool = False


def sampling_uses(job: Job) -> list[Use]:
    """The networks that sample a job's latent."""
    latent = voxels_of(_latent_size(job)) * (1 if job.guidance_kind == "none" else 2)
    if job.mask is None:
        return [Use("denoiser", latent, dropped=True)]
    return [
        Use("denoiser", latent),
        Use("controlnet", latent),
        Use("controlnet_condition", voxels_of(job.size)),
    ]


def outline_generation(job: Job, manifest: PlanManifest, sessions: Sessions, decoder: Routes) -> Outline:
    """How to generate; MemoryBudgetError says what does not fit and what would.

    Where it does not fit into what is free, the networks that are loaded are given up first.
    """
    try:
        return _outline(job, manifest, sessions, decoder)
    except MemoryBudgetError:
        if job.memory is not None or not sessions.release():
            raise
        return _outline(job, manifest, sessions, decoder)


def outline_decoding(job: Job, sessions: Sessions, decoder: Routes) -> Outline:
    """How to decode a latent that is there already."""
    if job.window is None:
        return Outline(route_of(decoder, _latent_size(job), job.size, job.memory, sessions))
    budget = sessions.budget(job.memory, [Use("vae_decoder", voxels_of(job.size))])
    decoder.check_window(_latent_size(job), job.window, budget)
    return Outline(None)


def route_of(routes: Routes, size: Size3, image: Size3, memory: int | None, sessions: Sessions) -> Route:
    """How to run one network of the VAE on an input of ``size``; ``image`` is the size of its image."""
    uses = [Use(routes.network, voxels_of(image))]
    try:
        return routes.choose(size, sessions.budget(memory, uses))
    except MemoryBudgetError:
        if memory is not None or not sessions.release():
            raise
        return routes.choose(size, sessions.budget(memory, uses))


def _outline(job: Job, manifest: PlanManifest, sessions: Sessions, decoder: Routes) -> Outline:
    uses = sampling_uses(job)
    budget = sessions.budget(job.memory, [*uses, Use("vae_decoder", voxels_of(job.size))])
    needs = [sessions.activation_bytes(use) for use in uses]
    sampling = sum(need for need in needs if need is not None)
    if None in needs:
        check_table(manifest.memory, job.size, job.window is not None, budget)
    elif budget is not None and sampling > budget:
        raise MemoryBudgetError(_too_large_to_sample(job, sampling, budget))
    if budget is not None and sampling + sessions.kept_bytes() > budget:
        sessions.clear_workspaces()
    if job.window is not None:
        decoder.check_window(_latent_size(job), job.window, budget)
        window = decoder.window_bytes(_latent_size(job), job.window) or 0
        return Outline(None, release=budget is not None and sampling + window > budget)
    beside = quickest(decoder.all(_latent_size(job), None if budget is None else budget - sampling))
    if beside is not None and beside.strategy is None:
        return Outline(beside)
    alone = decoder.choose(_latent_size(job), budget)
    if beside is None or alone.seconds < _WORTH_RELEASING * beside.seconds:
        return Outline(alone, release=True)
    return Outline(beside)


def _too_large_to_sample(job: Job, needed: int, budget: int) -> str:
    size = " x ".join(str(count) for count in job.size)
    return (
        f"sampling {size} voxels needs {text_of(needed)} of memory beyond the networks, and it may take "
        f"{text_of(budget)}. Ask for a smaller size, or free memory"
    )


def _latent_size(job: Job) -> Size3:
    x, y, z = job.latent_shape[1:]
    return x, y, z
