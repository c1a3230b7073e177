"""Running a plan's VAE the way that was chosen: whole, in windows, or in stages that hand rows on once finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .decoding import Route, Routes, scratch_folder
from .errors import PlanError
from .manifest import PlanManifest, Size3
from .observer import Observer
from .sessions import Sessions, Use, voxels_of

if TYPE_CHECKING:
    from .plan import Plan
    from .request import Job

Rows = NDArray[np.int16]


class Vae:
    """Decoder and encoder of a plan."""

    def __init__(self, native: Any, plan: Plan, sessions: Sessions, threads: int) -> None:
        """``threads`` 0: all that this process may use."""
        self._native = native
        self._plan = plan
        self._manifest: PlanManifest = plan.manifest
        self._sessions = sessions
        self._threads = threads
        self._routes: dict[str, Routes] = {}

    def routes(self, network: str) -> Routes:
        """The ways to run "vae_decoder" or "vae_encoder"."""
        if network not in self._routes:
            precision = self._sessions.precision(network)
            element_bytes = self._sessions.element_bytes(network)
            device = self._sessions.backend.on_device
            whole = device is None or not device.stages_only
            self._routes[network] = Routes(self._native, self._plan, network, precision, element_bytes, whole)
        return self._routes[network]

    def decode(self, latent: NDArray[np.float32], job: Job, observer: Observer) -> NDArray[np.float32]:
        """The image (x, y, z) of a latent in the networks' units, in one call or in the job's windows."""
        self._sessions.clear_workspaces()
        settings = self._manifest.latent
        image: NDArray[np.float32] = self._native.decode(
            self._sessions.get("vae_decoder"),
            latent,
            settings.scale_factor,
            settings.compression,
            job.window,
            job.overlap,
            observer,
        )
        if job.window is None:
            self._sessions.note(Use("vae_decoder", voxels_of(job.size)))
        return image

    def decode_rows(
        self,
        latent: NDArray[np.float32],
        job: Job,
        route: Route,
        observer: Observer,
        put: Callable[[Rows], object],
    ) -> NDArray[np.int16]:
        """The volume (x, y, z) of a latent, in stages; ``put`` is given rows (z, y, x) of it once they are final."""
        x, y, z = job.size
        volume = np.empty((z, y, x), np.int16)
        labels = None if job.mask is None else job.mask.labels.T

        def sink(first: int, image: NDArray[Any]) -> None:
            after = first + len(image)
            final = image.dtype == np.int16
            found = None if labels is None else labels[first:after]
            volume[first:after] = image if final else self.intensities(image[..., 0], found)
            put(volume[first:after])

        # The same as the runtime does to the latent in front of the whole network.
        rows = np.ascontiguousarray(latent.transpose(3, 2, 1, 0)) / np.float32(self._manifest.latent.scale_factor)
        self._run("vae_decoder", route, rows, sink, "decode", observer, labels)
        finished: NDArray[np.int16] = volume.T
        return finished

    def encode(
        self, image: NDArray[np.float32], route: Route, observer: Observer
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and log-variance (channels, x, y, z) of the posterior of an image in the networks' units."""
        compression = self._manifest.latent.compression
        if route.strategy is None:
            self._sessions.clear_workspaces()
            mean, log_variance = self._native.encode(self._sessions.get("vae_encoder"), image, compression, observer)
            self._sessions.note(Use("vae_encoder", image.size))
            return mean, log_variance
        channels = self._manifest.latent.channels
        x, y, z = self.routes("vae_encoder").output_size(_size(image))
        moments = np.empty((z, y, x, 2 * channels), np.float32)

        def sink(first: int, rows: NDArray[np.float32]) -> None:
            moments[first : first + len(rows)] = rows

        self._run("vae_encoder", route, np.ascontiguousarray(image.T)[..., np.newaxis], sink, "encode", observer)
        both = np.ascontiguousarray(moments.transpose(3, 2, 1, 0))
        return both[:channels], both[channels:]

    def intensities(
        self, image: NDArray[np.float32], labels: NDArray[np.uint16] | None, rounding: str = "nearest"
    ) -> NDArray[np.int16]:
        """An image as int16, clipped as the plan says, with air where ``labels`` are 0. RequestError: NaN."""
        intensity = self._manifest.intensity
        converted: NDArray[np.int16] = self._native.to_hu(
            image,
            None if labels is None else np.ascontiguousarray(labels),
            intensity.scale,
            intensity.offset,
            *self._limits(),
            rounding,
        )
        return converted

    def _run(
        self,
        network: str,
        route: Route,
        rows: NDArray[np.float32],
        sink: Callable[[int, NDArray[Any]], None],
        stage: str,
        observer: Observer,
        labels: NDArray[np.uint16] | None = None,
    ) -> None:
        """Run a program on ``rows`` (z, y, x, channels); ``sink`` gets finished rows, valid during the call only.

        On a device the decoder's are intensities (int16) already, with air where ``labels`` are 0.
        """
        routes = self.routes(network)
        program = routes.program
        if program is None or routes.native_program is None or route.strategy is None:
            raise PlanError(f"network '{network}' cannot be run in stages: the plan has no program of it")
        stages = {each.name: each for each in program.stages}
        # What the whole network holds from an earlier call counts as free.
        self._sessions.release_whole([network])

        def open_stage(name: str) -> Any:
            return self._sessions.stage(network, stages[name], program.input, program.output)

        device = self._sessions.backend.on_device
        if device is not None:
            device.run_program(
                self._sessions.workspace(network),
                routes.native_program,
                open_stage,
                rows,
                route.strategy,
                take=sink,
                intensities=self._on_device(labels) if network == "vae_decoder" else None,
                element_bytes=routes.element_bytes,
                stage=stage,
                observer=observer,
            )
            return
        self._native.run_program(
            routes.native_program,
            open_stage,
            rows,
            route.strategy,
            sink=sink,
            element_bytes=routes.element_bytes,
            threads=self._threads,
            scratch=scratch_folder(),
            stage=stage,
            workspace=self._sessions.workspace(network),
            observer=observer,
        )

    def _on_device(self, labels: NDArray[np.uint16] | None) -> Any:
        """The same as ``intensities`` for rows on a device."""
        from .backends.torch_rows import Intensities

        limits = self._limits()
        return Intensities(self._manifest.intensity.scale, self._manifest.intensity.offset, *limits, labels)

    def _limits(self) -> tuple[float, float, int]:
        """Lowest and highest intensity, and that of air."""
        intensity = self._manifest.intensity
        low = -np.inf if intensity.low is None else intensity.low
        return low, np.inf if intensity.high is None else intensity.high, int(intensity.air)


def _size(image: NDArray[Any]) -> Size3:
    x, y, z = image.shape
    return x, y, z
