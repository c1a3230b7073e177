"""The functions of ``import ctfast``: generate, load, encode, decode and build."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import AUTO, checked_device
from .engine import Engine
from .errors import RequestError
from .io.latent import LatentFile
from .locate import plan_path
from .manifest import Float3
from .observer import Cancel, Progress
from .request import Request
from .volume import Volume

EngineLike = Engine | str | os.PathLike[str] | None


def generate(
    engine: EngineLike = None,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    steps: int | None = None,
    solver: str | None = None,
    time_grid: str | Sequence[float] | None = None,
    seed: int = 0,
    mask: Any = None,
    latents: Any = None,
    modality: str | int | None = None,
    guidance: float | None = None,
    decode: str = "exact",
    device: str = "auto",
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    *,
    sample: int = 0,
    regions: tuple[str, str] | None = None,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    memory: int | str | None = None,
    output: str | os.PathLike[str] | None = None,
    preview: str | os.PathLike[str] | None = None,
) -> Volume:
    """Generate one volume. Every argument is optional; None means the plan's own default.

    Args:
        engine: Path of a plan, name of an embedded plan, a loaded Engine, or None for the embedded default.
        size: Voxels (x, y, z), legal for the plan.
        spacing: Millimetres per voxel (x, y, z).
        steps: Steps of the solver, 1 to 1000.
        solver: For rectified flow euler, heun, ab2, dpmpp_2m or unipc; for DDPM plans ddpm or ddim.
        time_grid: "monai", the official scripts' rounded times, "exact", or "tuned", what was fitted to a plan for one
            number of steps of one solver. Unless given it is "tuned" where the plan's default is and steps and solver
            are those, else "exact" for solvers other than euler. Or times of your own: one for each step, falling from
            1000, before the transform for size.
        seed: 0 to 2^64 - 1. The same seed gives the same volume on any number of threads.
        mask: Label map in the plan's vocabulary that the volume shall follow: path, nibabel image, array (x, y, z) in
            RAS+, pair (array, affine), LabelMap or Volume with labels. It must have the request's size and spacing,
            which it sets if they are not given. Where it is 0 the volume is air.
        latents: Noise to start from instead of the seed's, (channels, x, y, z).
        modality: Name or code among the plan's.
        guidance: Scale from 0 (none) on: away from "no modality", or with a mask away from "no tumour".
        decode: "exact" gives what decoding the whole volume at once gives, in whatever way fits into ``memory``;
            "windowed" decodes overlapping windows with intensities truncated to integers, as the official scripts do.
        device: "auto", "cpu", "cuda" or "cuda:N"; not every backend runs on each.
        progress: Called as progress(stage, done, total) between network calls; returning False cancels.
        cancel: Function or threading.Event that says whether to stop.
        sample: Number of the volume in a set that shares one seed: other numbers give other volumes.
        regions: (top, bottom) of head, thorax, abdomen, pelvis, for plans that take them.
        window: Latent voxels of a window, for decode="windowed"; (80, 80, 80) unless given.
        overlap: Fraction that windows overlap by; 0.4 unless given.
        memory: What activations may take beyond the loaded networks, in bytes or as in "6GiB" and "800 MB"; None: what
            is free.
        output: File to write the volume to, as ``Volume.save`` does; NIfTI (.nii, .nii.gz) is written while the volume
            is still being decoded. The result's ``saved`` tells what was written.
        preview: PNG to write with ``output``.

    Raises:
        RequestError: The plan cannot serve the request; the message lists everything that is wrong with it.
        PlanError: The plan is missing or damaged.
        DeviceError: The device is not available.
        MemoryBudgetError: No way of decoding fits into the memory; the message says what each needs and what would fit.
        OutputError: A file cannot be written; none is left behind.
        CancelledError: ``progress`` or ``cancel`` asked to stop.
    """
    request = Request(
        size=size,
        spacing=spacing,
        steps=steps,
        solver=solver,
        time_grid=time_grid,
        seed=seed,
        sample=sample,
        mask=mask,
        latents=latents,
        modality=modality,
        guidance=guidance,
        regions=regions,
        decode=decode,
        window=window,
        overlap=overlap,
        memory=memory,
        output=output,
        preview=preview,
    )
    return _engine(engine, device).run(request, progress, cancel)


def load(
    plan: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    backend: str = AUTO,
) -> Engine:
    """Open a plan for repeated use.

    Args:
        plan: Path of a plan, name of an embedded one, or None for the embedded default.
        device: "auto", "cpu", "cuda" or "cuda:N"; not every backend runs on each.
        precision: "bf16", "fp16", "fp32", or None for the plan's own where the processor has it, else fp32. A plan that
            was quantised to int8 takes None only.
        threads: Number of threads; None for all that affinity and container allow.
        cache_dir: Folder in which compiled networks are kept between processes; None for none.
        backend: What runs the networks: "openvino", "torch", "onnxruntime" or "tensorrt" (each needs the extra of its
            name, but for the first), or "auto" for the fastest that can be used.

    Raises:
        PlanError: The plan is missing or damaged.
        DeviceError: The backend, the device, or the precision on it, is not available.
    """
    return Engine(plan, device=device, precision=precision, threads=threads, cache_dir=cache_dir, backend=backend)


def encode(
    image: Any,
    affine: Any = None,
    *,
    sample: bool = False,
    seed: int = 0,
    memory: int | str | None = None,
    engine: EngineLike = None,
    device: str = "auto",
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> NDArray[np.float32]:
    """The latent of an image: the mean of the VAE's posterior times the plan's scale factor.

    Args:
        image: Path, nibabel image, Volume, pair (array, affine), or an array (with ``affine``; without it is taken to
            be in RAS+). It is reoriented to RAS+; its size must be a multiple of what the VAE compresses by.
        affine: Where the image's voxels are, instead of what the image says.
        sample: Draw from the posterior instead of taking its mean.
        seed: Of that draw.
        memory: As in ``generate``.
        engine, device, progress, cancel: As in ``generate``.

    Returns:
        float32 (channels, x, y, z).

    Raises:
        RequestError: The image cannot be used.
        MemoryBudgetError: No way of encoding fits into the memory.
    """
    return _engine(engine, device).encode(
        image, affine, sample=sample, seed=seed, memory=memory, progress=progress, cancel=cancel
    )


def decode(
    latent: Any,
    *,
    engine: EngineLike = None,
    spacing: Float3 | None = None,
    affine: Any = None,
    decode: str = "exact",
    memory: int | str | None = None,
    output: str | os.PathLike[str] | None = None,
    preview: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Volume:
    """The volume of a latent as ``encode`` gives it: an array (channels, x, y, z) or the path of an .npz with one.

    ``affine`` places the volume; without it ``spacing`` (or the plan's default) does, with the centre at (0, 0, 0). The
    other arguments, and the errors, are those of ``generate``. RequestError: shape or values that the plan cannot
    decode.
    """
    if isinstance(latent, str | os.PathLike):
        stored = LatentFile.load(latent)
        latent = stored.latent
        affine = stored.affine if affine is None and spacing is None else affine
    return _engine(engine, device).decode(
        latent,
        spacing=spacing,
        affine=affine,
        decode=decode,
        memory=memory,
        output=output,
        preview=preview,
        progress=progress,
        cancel=cancel,
    )


def build(
    model: str | os.PathLike[str] | Mapping[str, Any],
    weights: Any,
    output: str | os.PathLike[str],
    backend: str = "openvino",
    precision: str = "bf16",
    **options: Any,
) -> Path:
    """Make a plan from checkpoints and return its path; needs the extra ``ctfast[export]``.

    ``model`` is a published variant by name or the description of another, ``weights`` the folder with its checkpoints;
    ``options``, and the errors, are those of ``ctfast.export.build``. With backend "tensorrt" the plan has engines too;
    ``ctfast.export.tensorrt.build`` has further options. RequestError: the extra is not installed.
    """
    try:
        exporter = import_module("ctfast.export.tensorrt" if backend == "tensorrt" else "ctfast.export")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "ctfast":
            raise
        raise RequestError(
            f"building plans needs '{error.name}', which is not installed: pip install 'ctfast[export]'"
        ) from error
    return Path(exporter.build(model, weights=weights, output=output, backend=backend, precision=precision, **options))


_lock = threading.Lock()
_latest: tuple[tuple[object, ...], Engine] | None = None


def _engine(engine: EngineLike, device: str) -> Engine:
    """The engine to use. The one loaded last is kept, so that calls in a row with the same plan load it once."""
    global _latest
    if isinstance(engine, Engine):
        if checked_device(device) not in (AUTO, engine.device):
            raise RequestError(f"the engine is loaded on '{engine.device}'; expected device 'auto', found '{device}'")
        return engine
    path = plan_path(engine).resolve()
    status = path.stat()
    key = (path, status.st_size, status.st_mtime_ns, checked_device(device))
    with _lock:
        if _latest is None or _latest[0] != key:
            _latest = None
            _latest = (key, Engine(path, device=device))
        return _latest[1]
