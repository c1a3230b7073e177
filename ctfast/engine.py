"""A loaded plan on a device: what turns requests into volumes."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._version import __version__
from .backends import AUTO, checked_backend, checked_device
from .budget import outline_decoding, outline_generation, route_of, sampling_uses
from .decoding import Route
from .errors import RequestError
from .families import family_of
from .io.files import check_writable
from .io.geometry import checked_affine, spacing_of
from .io.intensities import intensities_of
from .io.latent import LatentFile
from .io.volume_files import VolumeFiles
from .locate import plan_path
from .manifest import Float3, PlanManifest
from .memory import bytes_of
from .observer import Cancel, Observer, Progress, observer_of, report
from .plan import Plan
from .provenance import about_encoding, about_grid, about_plan, about_request, about_run
from .request import MAX_SEED, Job, Request, as_latent, check
from .sessions import Sessions, Use, voxels_of
from .vae import Vae
from .volume import Volume

PRECISIONS = ("bf16", "fp16", "fp32")


@dataclass
class _Computed:
    """What is decoded and waits for its epilogue.

    ``decoded`` is the image in the networks' units, or the volume itself (int16) if it was converted row by row.
    ``about`` says what it was made of, ``files`` are those that it goes to.
    """

    job: Job
    about: dict[str, Any]
    uses: Sequence[Use]
    files: VolumeFiles | None
    decoded: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    timings: dict[str, float] = field(default_factory=dict)

    def abandon(self) -> None:
        """Leave no files behind."""
        if self.files is not None:
            self.files.abandon()


class Engine:
    """A plan, opened on a device. Use ``ctfast.load`` to get one.

    Networks are compiled when they are first needed and kept. An engine may be shared by threads; they take turns.
    """

    def __init__(
        self,
        plan: str | os.PathLike[str] | None = None,
        device: str = AUTO,
        precision: str | None = None,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        backend: str = AUTO,
    ) -> None:
        """Open a plan; see ``ctfast.load``."""
        asked = checked_device(device)
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
        self._info: Any = self._native.build_info()
        self._threads = threads or 0
        self._sessions = Sessions(
            self._native,
            self._native.Plan(str(self.path)),
            self.manifest,
            precision,
            self._threads,
            "" if cache_dir is None else os.fspath(cache_dir),
            checked_backend(backend),
            asked,
        )
        self.backend = self._sessions.backend.name
        self.device = self._sessions.backend.device
        self._vae = Vae(self._native, opened, self._sessions, self._threads)
        self._turn = threading.RLock()

    def __repr__(self) -> str:
        return f"<ctfast.Engine {self.manifest.name} ({self.manifest.variant}), {self.backend} on {self.device}>"

    def generate(self, *, progress: Progress | None = None, cancel: Cancel | None = None, **request: Any) -> Volume:
        """Generate one volume; the arguments are those of ``ctfast.generate`` except ``engine`` and ``device``."""
        return self.run(Request.of(request), progress, cancel)

    def run(self, request: Request, progress: Progress | None = None, cancel: Cancel | None = None) -> Volume:
        """Generate one volume from a Request."""
        return self._finish(self._compute(request, observer_of(progress, cancel)), progress)

    def generate_many(
        self,
        requests: Iterable[Request | Mapping[str, Any]],
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Generator[Volume, None, None]:
        """Generate volumes in the order of ``requests``, one ahead of the caller.

        While the caller handles a volume (saves it, say), the next one is computed on another thread; requests are
        taken from the iterable on the caller's thread, ``progress`` is called on the other. An error is raised when its
        request's turn comes. Closing the iterator stops the computation after the current network call. The files of a
        request with an ``output`` appear when its volume does.
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
                        yield self._finish(current.result(), progress)
                current, ahead = ahead, None
                if current is not None:
                    yield self._finish(current.result(), progress)
            finally:
                stop.set()
                if ahead is not None:
                    with suppress(Exception):  # nobody asked for this one
                        ahead.result().abandon()

    def sample_latent(
        self, *, progress: Progress | None = None, cancel: Cancel | None = None, **request: Any
    ) -> NDArray[np.float32]:
        """The latent, float32 (channels, x, y, z), that ``generate`` decodes; files are not written."""
        job = check(Request.of(request), self.manifest)
        with self._turn:
            return self._sample(job, {}, observer_of(progress, cancel))

    def precision(self, network: str) -> str:
        """What a network of the plan computes in."""
        return self._sessions.precision(network)

    def encode(
        self,
        image: Any,
        affine: Any = None,
        *,
        sample: bool = False,
        seed: int = 0,
        memory: int | str | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> NDArray[np.float32]:
        """The latent of an image; see ``ctfast.encode``."""
        encoded = self.encode_image(
            image, affine, sample=sample, seed=seed, memory=memory, progress=progress, cancel=cancel
        )
        return encoded.latent

    def encode_image(
        self,
        image: Any,
        affine: Any = None,
        *,
        sample: bool = False,
        seed: int = 0,
        memory: int | str | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> LatentFile:
        """The same with the image's affine in RAS+ (None for a bare array) and how it was made, ready to be saved."""
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
            raise RequestError(f"seed: expected a whole number from 0 to 2^64 - 1, found {seed!r}")
        budget = None if memory is None else bytes_of(memory)
        array, straight = intensities_of(image, affine, self.manifest)
        x, y, z = array.shape
        with self._turn:
            routes = self._vae.routes("vae_encoder")
            route = route_of(routes, (x, y, z), (x, y, z), budget, self._sessions)
            latent, log_variance = self._vae.encode(array, route, observer_of(progress, cancel))
        if sample:
            latent = latent + np.exp(log_variance / 2) * self._native.fill_normal(seed, 0, latent.shape)
        latent = np.asarray(latent * np.float32(self.manifest.latent.scale_factor), dtype=np.float32)
        about = about_encoding(route, seed if sample else None)
        return LatentFile(latent, straight, {**about_plan(self.manifest, self.identity), **about})

    def decode(
        self,
        latent: Any,
        *,
        spacing: Float3 | None = None,
        affine: Any = None,
        decode: str = "exact",
        memory: int | str | None = None,
        output: str | os.PathLike[str] | None = None,
        preview: str | os.PathLike[str] | None = None,
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
        request = Request(size=(x, y, z), spacing=mm, decode=decode, memory=memory, output=output, preview=preview)
        job = check(request, self.manifest, any_grid=True)
        job = job if grid is None else replace(job, affine=grid)
        source = {"source": "decoded latent", "latent_sha256": hashlib.sha256(array.tobytes()).hexdigest()}
        uses = [Use("vae_decoder", voxels_of(job.size))]
        with self._files(request) as files, self._turn:
            route = outline_decoding(job, self._sessions, self._vae.routes("vae_decoder")).route
            computed = _Computed(job, self._about(job, source, route), uses, files)
            self._decode(computed, array, route, observer_of(progress, cancel))
        return self._finish(computed, progress)

    def _compute(self, request: Request, observer: Observer) -> _Computed:
        """Everything up to the decoded image: the part that keeps the device busy."""
        job = check(request, self.manifest)
        with self._files(request) as files, self._turn:
            outline = outline_generation(job, self.manifest, self._sessions, self._vae.routes("vae_decoder"))
            uses = [*sampling_uses(job), Use("vae_decoder", voxels_of(job.size))]
            source = about_request(job, self.manifest)
            computed = _Computed(job, self._about(job, source, outline.route), uses, files)
            latent = self._sample(job, computed.timings, observer)
            if outline.release:
                self._sessions.release([use.network for use in sampling_uses(job)])
            self._decode(computed, latent, outline.route, observer)
        return computed

    def _sample(self, job: Job, timings: dict[str, float], observer: Observer) -> NDArray[np.float32]:
        with _timed(timings, "prepare"):
            # What a backend opens, its loop knows.
            denoiser: Any = self._sessions.get("denoiser", dropped=job.mask is None)
            controlnet: Any = None if job.mask is None else self._sessions.get("controlnet")
        embeddings: list[Any] = []
        if job.mask is not None:
            with _timed(timings, "condition"):
                embeddings = self._embeddings(job, observer)
        with _timed(timings, "sample"):
            device = self._sessions.backend.on_device
            if device is None or job.method != "flow":
                latent = self._sample_here(job, denoiser, controlnet, embeddings, observer)
            else:
                t, dt = self._time_grid(job)
                latent = device.sample(
                    denoiser,
                    controlnet,
                    t=t,
                    dt=dt,
                    solver=job.solver,
                    shape=job.latent_shape,
                    seed=job.seed,
                    sample=job.sample,
                    latents=job.latents,
                    class_label=job.class_label,
                    spacing=job.spacing,
                    regions=job.regions or (None, None),
                    embeddings=embeddings,
                    guidance=job.guidance,
                    observer=observer,
                )
        for use in sampling_uses(job):
            self._sessions.note(use)
        return latent

    def _sample_here(
        self,
        job: Job,
        denoiser: Any,
        controlnet: Any,
        embeddings: Sequence[Any],
        observer: Observer,
    ) -> NDArray[np.float32]:
        """By the runtime's own loop, with tensors in this computer's memory."""
        schedule = self.manifest.schedule
        settings: dict[str, Any] = {"method": job.method, "train_steps": schedule.train_steps, "steps": job.steps}
        if job.method == "flow":
            settings["t"], settings["dt"] = self._time_grid(job)
            settings["solver"] = job.solver
        else:
            settings["beta_start"], settings["beta_end"] = schedule.beta_start, schedule.beta_end
        top, bottom = job.regions or (None, None)
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
            condition=np.concatenate([np.asarray(each) for each in embeddings]) if embeddings else None,
            guidance=job.guidance,
            guidance_kind=job.guidance_kind,
            observer=observer,
            **settings,
        )
        return latent

    def _time_grid(self, job: Job) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the denoiser is told at each step, and the step's length."""
        schedule, voxels = self.manifest.schedule, math.prod(job.latent_shape[1:])
        options = {
            "train_steps": schedule.train_steps,
            "base_voxels": schedule.base_voxels,
            "transform": schedule.transform,
        }
        grid: tuple[NDArray[np.float64], NDArray[np.float64]] = (
            self._native.rflow_time_grid(job.steps, voxels, job.time_grid, **options)
            if job.times is None
            else self._native.given_time_grid(job.times, voxels, **options)
        )
        return grid

    def _embeddings(self, job: Job, observer: Observer) -> list[Any]:
        """The ControlNet's condition embeddings of the mask; constant over the steps, so computed once.

        Arrays, or tensors where the backend keeps them on its device.
        """
        if job.mask is None or self.manifest.labels is None:
            raise RequestError("mask: there is none to compute a condition from")
        maps = self._family.condition_maps(self.manifest, job.mask.labels, job.guidance_kind)
        session: Any = self._sessions.get("controlnet_condition")
        bits, device = self.manifest.labels.bits, self._sessions.backend.on_device
        embeddings: list[Any] = []
        for done, labels in enumerate(maps):
            report(observer, "condition", done, len(maps))
            if device is None:
                planes = self._native.label_bits(labels, bits)
                embeddings.append(session.run({"condition": planes[np.newaxis]})["condition_embedding"])
            else:
                embeddings.append(device.embed(session, labels))
        report(observer, "condition", len(maps), len(maps))
        return embeddings

    def _decode(
        self, computed: _Computed, latent: NDArray[np.float32], route: Route | None, observer: Observer
    ) -> None:
        """Decode into ``computed``; what its files can take already goes there."""
        job, files = computed.job, computed.files
        if files is not None:
            files.begin(job.size, job.affine, computed.about)
        with _timed(computed.timings, "decode"):
            if route is None or route.strategy is None:
                computed.decoded = self._vae.decode(latent, job, observer)
            else:
                put = _nowhere if files is None else files.put
                computed.decoded = self._vae.decode_rows(latent, job, route, observer, put)

    def _finish(self, computed: _Computed, progress: Progress | None) -> Volume:
        """The epilogue: intensities as int16, air outside the mask, and the account of how the volume came to be."""
        job, files, array = computed.job, computed.files, computed.decoded
        labels = None if job.mask is None else job.mask.labels
        try:
            with _timed(computed.timings, "finish"):
                if array.dtype != np.int16:
                    array = self._vae.intensities(array, labels, "nearest" if job.window is None else "truncate")
                    if files is not None:
                        files.put(array.T)
            if progress is not None:
                progress("finish", 1, 1)
            run = about_run(
                self._sessions.backend,
                self._sessions.precisions(computed.uses),
                self._threads or self._info["threads"],
                computed.timings,
            )
            volume = Volume(array, job.affine, labels, {**computed.about, **run})
            return volume if files is None else replace(volume, saved=files.finish(volume))
        finally:
            computed.abandon()

    @contextmanager
    def _files(self, request: Request) -> Iterator[VolumeFiles | None]:
        """The files that a request asks for, if any; given up when the block raises."""
        if request.output is None:
            yield None
            return
        for path in (request.output, request.preview):
            if path is not None:
                check_writable(path)
        files = VolumeFiles(request.output, request.preview)
        try:
            yield files
        except BaseException:
            files.abandon()
            raise

    def _about(self, job: Job, source: Mapping[str, Any], route: Route | None) -> dict[str, Any]:
        """What is known of a volume before it is computed."""
        plan = about_plan(self.manifest, self.identity)
        return {"synthetic": True, **source, **about_grid(job, route), **plan, "ctfast": __version__}


def _nowhere(_: object) -> None:
    """Where rows go that are not written yet."""


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
