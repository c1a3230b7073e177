"""A loaded plan on a device: what turns requests into volumes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import PlanError, RequestError
from .families import family_of
from .io.geometry import Affine, checked_affine, spacing_of
from .io.intensities import intensities_of
from .locate import checked_device, plan_path
from .manifest import Float3, PlanManifest
from .memory import check_memory
from .observer import Cancel, Observer, Progress, observer_of, report
from .plan import Plan
from .provenance import about_grid, about_plan, about_request, about_run
from .request import Job, Request, as_latent, check
from .volume import Volume

if TYPE_CHECKING:
    from . import _native

PRECISIONS = ("bf16", "fp32")


@dataclass
class _Computed:
    """A decoded image that waits for its epilogue."""

    job: Job
    image: NDArray[np.float32]
    timings: dict[str, float] = field(default_factory=dict)


class Engine:
    """A plan, opened on a device. Use ``ctfast.load`` to get one.

    Networks are compiled when they are first needed and kept. An engine may be shared by threads; they take turns.
    """

    def __init__(
        self,
        plan: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Open a plan; see ``ctfast.load``."""
        self.device = checked_device(device)
        if precision is not None and precision not in PRECISIONS:
            raise RequestError(f"precision: expected one of {', '.join(PRECISIONS)} or None, found {precision!r}")
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise RequestError(f"threads: expected a whole number from 1 on, or None for all, found {threads!r}")
        self.path = plan_path(plan)
        opened = Plan.open(self.path)
        self.manifest: PlanManifest = opened.manifest
        self.identity = opened.identity
        self._family = family_of(self.manifest)
        self._native: Any = import_module("ctfast._native")
        self._plan: _native.Plan = self._native.Plan(str(self.path))
        self._info: Any = self._native.build_info()
        self._precision = precision
        self._threads = threads or 0
        self._cache_dir = "" if cache_dir is None else os.fspath(cache_dir)
        self._sessions: dict[tuple[str, bool], _native.OpenVINOSession] = {}
        self._turn = threading.RLock()

    def __repr__(self) -> str:
        return f"<ctfast.Engine {self.manifest.name} ({self.manifest.variant}) on {self.device}>"

    def generate(self, *, progress: Progress | None = None, cancel: Cancel | None = None, **request: Any) -> Volume:
        """Generate one volume; the arguments are those of ``ctfast.generate`` except ``engine`` and ``device``."""
        return self.run(Request.of(request), progress, cancel)

    def run(self, request: Request, progress: Progress | None = None, cancel: Cancel | None = None) -> Volume:
        """Generate one volume from a Request."""
        return self._volume(self._compute(request, observer_of(progress, cancel)), progress)

    def generate_many(
        self,
        requests: Iterable[Request | Mapping[str, Any]],
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Generator[Volume, None, None]:
        """Generate volumes in the order of ``requests``, one ahead of the caller.

        While the caller handles a volume (saves it, say), the next one is computed on another thread; requests are
        taken from the iterable on the caller's thread, ``progress`` is called on the other. An error is raised when its
        request's turn comes. Closing the iterator stops the computation after the current network call.
        """
        stop = threading.Event()
        observer = observer_of(progress, cancel, stop)

        def compute(request: Request | Mapping[str, Any]) -> _Computed:
            return self._compute(Request.of(request), observer)

        ahead: Future[_Computed] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="ctfast") as worker:
            try:
                for request in requests:
                    current, ahead = ahead, worker.submit(compute, request)
                    if current is not None:
                        yield self._volume(current.result(), progress)
                if ahead is not None:
                    yield self._volume(ahead.result(), progress)
            finally:
                stop.set()

    def encode(
        self,
        image: Any,
        affine: Any = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> NDArray[np.float32]:
        """The latent of an image; see ``ctfast.encode``."""
        return self.encode_with_affine(image, affine, progress=progress, cancel=cancel)[0]

    def encode_with_affine(
        self,
        image: Any,
        affine: Any = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> tuple[NDArray[np.float32], Affine | None]:
        """The latent of an image and the image's affine in RAS+ (None for a bare array)."""
        array, straight = intensities_of(image, affine, self.manifest)
        with self._turn:
            latent, _ = self._native.encode(
                self._session("vae_encoder"),
                array,
                self.manifest.latent.compression,
                observer_of(progress, cancel),
            )
        return np.asarray(latent * np.float32(self.manifest.latent.scale_factor), dtype=np.float32), straight

    def decode(
        self,
        latent: Any,
        *,
        spacing: Float3 | None = None,
        affine: Any = None,
        decode: str = "exact",
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Volume:
        """The volume of a latent; see ``ctfast.decode``."""
        shape = np.shape(latent)
        if len(shape) != 4 or shape[0] != self.manifest.latent.channels:
            expected = f"({self.manifest.latent.channels}, x, y, z)"
            raise RequestError(f"latent: plan '{self.manifest.name}' expects shape {expected}, found {shape}")
        array = as_latent(latent, shape, "latent")
        grid = None if affine is None else checked_affine(affine, "decode")
        x, y, z = (count * factor for count, factor in zip(shape[1:], self.manifest.latent.compression, strict=True))
        mm = spacing if spacing is not None or grid is None else spacing_of(grid)
        job = check(Request(size=(x, y, z), spacing=mm, decode=decode), self.manifest)
        job = job if grid is None else replace(job, affine=grid)
        timings: dict[str, float] = {}
        image = self._decode(array, job, timings, observer_of(progress, cancel))
        source = {"source": "decoded latent", "latent_sha256": hashlib.sha256(array.tobytes()).hexdigest()}
        return self._finish(_Computed(job, image, timings), source, [("vae_decoder", False)], progress)

    def _compute(self, request: Request, observer: Observer) -> _Computed:
        """Everything up to the decoded image: the part that keeps the device busy."""
        job = check(request, self.manifest)
        check_memory(self.manifest.memory, job.size, job.window is not None)
        timings: dict[str, float] = {}
        with self._turn:
            latent = self._sample(job, timings, observer)
            return _Computed(job, self._decode(latent, job, timings, observer), timings)

    def _sample(self, job: Job, timings: dict[str, float], observer: Observer) -> NDArray[np.float32]:
        with _timed(timings, "prepare"):
            denoiser = self._session("denoiser", drop=job.mask is None)
            controlnet = None if job.mask is None else self._session("controlnet")
        condition = None
        if job.mask is not None:
            with _timed(timings, "condition"):
                condition = self._condition(job, observer)
        schedule = self.manifest.schedule
        settings: dict[str, Any] = {"method": job.method, "train_steps": schedule.train_steps, "steps": job.steps}
        if job.method == "flow":
            settings["t"], settings["dt"] = self._native.rflow_time_grid(
                job.steps,
                int(np.prod(job.latent_shape[1:])),
                job.time_grid,
                train_steps=schedule.train_steps,
                base_voxels=schedule.base_voxels,
                transform=schedule.transform,
            )
            settings["solver"] = job.solver
        else:
            settings["beta_start"], settings["beta_end"] = schedule.beta_start, schedule.beta_end
        top, bottom = job.regions or (None, None)
        with _timed(timings, "sample"):
            latent: NDArray[np.float32] = self._native.sample(
                denoiser,
                controlnet,
                shape=job.latent_shape,
                seed=job.seed,
                sample=job.sample,
                latents=job.latents,
                class_label=job.class_label,
                spacing=job.spacing if self.manifest.conditioning.spacing else None,
                top_region=top,
                bottom_region=bottom,
                condition=condition,
                guidance=job.guidance,
                guidance_kind=job.guidance_kind,
                observer=observer,
                **settings,
            )
        return latent

    def _condition(self, job: Job, observer: Observer) -> NDArray[np.float32]:
        """The ControlNet's condition embedding of the mask; constant over the steps, so computed once."""
        if job.mask is None or self.manifest.labels is None:
            raise RequestError("mask: there is none to compute a condition from")
        maps = self._family.condition_maps(self.manifest, job.mask.labels, job.guidance_kind)
        session = self._session("controlnet_condition")
        embeddings = []
        for done, labels in enumerate(maps):
            report(observer, "condition", done, len(maps))
            bits = self._native.label_bits(labels, self.manifest.labels.bits)
            embeddings.append(session.run({"condition": bits[np.newaxis]})["condition_embedding"])
        report(observer, "condition", len(maps), len(maps))
        return np.concatenate(embeddings)

    def _decode(
        self, latent: NDArray[np.float32], job: Job, timings: dict[str, float], observer: Observer
    ) -> NDArray[np.float32]:
        settings = self.manifest.latent
        with _timed(timings, "decode"), self._turn:
            image: NDArray[np.float32] = self._native.decode(
                self._session("vae_decoder"),
                latent,
                settings.scale_factor,
                settings.compression,
                job.window,
                job.overlap,
                observer,
            )
        return image

    def _volume(self, computed: _Computed, progress: Progress | None) -> Volume:
        """The volume of a generation."""
        masked = computed.job.mask is not None
        used = [("denoiser", not masked), ("vae_decoder", False)]
        used += [("controlnet", False), ("controlnet_condition", False)] if masked else []
        return self._finish(computed, about_request(computed.job, self.manifest), used, progress)

    def _finish(
        self,
        computed: _Computed,
        source: Mapping[str, Any],
        used: Sequence[tuple[str, bool]],
        progress: Progress | None,
    ) -> Volume:
        """The epilogue: intensities as int16, air outside the mask, and the account of how the volume came to be."""
        job, intensity = computed.job, self.manifest.intensity
        labels = None if job.mask is None else job.mask.labels
        with _timed(computed.timings, "finish"):
            array = self._native.to_hu(
                computed.image,
                labels,
                intensity.scale,
                intensity.offset,
                -np.inf if intensity.low is None else intensity.low,
                np.inf if intensity.high is None else intensity.high,
                int(intensity.air),
                "nearest" if job.window is None else "truncate",
            )
        if progress is not None:
            progress("finish", 1, 1)
        run = about_run(
            self.device,
            {key[0]: self._sessions[key].precision for key in used},
            self._threads or self._info["threads"],
            self._info["openvino"],
            computed.timings,
        )
        plan = about_plan(self.manifest, self.identity)
        return Volume(array, job.affine, labels, {"synthetic": True, **source, **about_grid(job), **plan, **run})

    def _session(self, network: str, drop: bool = False) -> _native.OpenVINOSession:
        """A network's session, made at its first use. ``drop``: without the inputs that an absent mask leaves zero."""
        key = (network, drop)
        with self._turn:
            if key not in self._sessions:
                entry = self.manifest.networks.get(network)
                if entry is None:
                    names = ", ".join(self.manifest.networks)
                    raise PlanError(
                        f"plan '{self.manifest.name}' has no network '{network}', which this request needs; it has: "
                        f"{names}. Build one that has it with: ctfast build"
                    )
                wanted = self._precision or entry.precision
                if self._precision is None and not self._info["cpu"]["bf16"]:
                    wanted = "fp32"
                self._sessions[key] = self._native.OpenVINOSession(
                    self._plan,
                    network,
                    wanted,
                    self._threads,
                    list(entry.drop_if_unused) if drop else [],
                    self._cache_dir,
                )
            return self._sessions[key]


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
