"""Requests: what a caller asks for, and the same checked against a plan."""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .families import Region, family_of
from .io.files import check_preview, split_name
from .io.geometry import Affine, centred_affine
from .io.intensities import vae_size_problem
from .manifest import Float3, PlanManifest, Size3
from .mask import Mask, body_warning, fitted, read_mask, vocabulary_problem
from .memory import bytes_of
from .time_grids import UNTUNED, chosen, steps_of

FLOW_SOLVERS = ("euler", "heun", "ab2", "dpmpp_2m", "unipc")
DDPM_SOLVERS = ("ddpm", "ddim")
DECODES = ("exact", "windowed")
MAX_STEPS = 1000
MAX_SEED = 2**64 - 1
# The official image script's window (latent voxels) and overlap.
WINDOW: Size3 = (80, 80, 80)
OVERLAP = 0.4


class RequestWarning(UserWarning):
    """A request that can be served but will likely disappoint."""


@dataclass(frozen=True, eq=False)
class Request:
    """What to generate. None means the plan's default; see ``ctfast.generate`` for each field."""

    size: Sequence[int] | None = None
    spacing: Sequence[float] | None = None
    steps: int | None = None
    solver: str | None = None
    time_grid: str | Sequence[float] | None = None
    seed: int = 0
    sample: int = 0
    mask: Any = None
    latents: Any = None
    modality: str | int | None = None
    guidance: float | None = None
    regions: Sequence[str] | None = None
    decode: str = "exact"
    window: Sequence[int] | None = None
    overlap: float | None = None
    memory: int | str | None = None
    output: str | os.PathLike[str] | None = None
    preview: str | os.PathLike[str] | None = None

    @classmethod
    def of(cls, value: Request | Mapping[str, Any]) -> Request:
        """A request from a mapping of its fields; RequestError names fields that there are not."""
        if isinstance(value, Request):
            return value
        if not isinstance(value, Mapping):
            raise RequestError(f"expected a request as a dict or ctfast Request, found {type(value).__name__}")
        names = [field.name for field in fields(cls)]
        problems = []
        for key in value:
            if key not in names:
                close = difflib.get_close_matches(str(key), names, 1)
                hint = f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(names)}"
                problems.append(f"a request has no '{key}'{hint}")
        _raise(problems)
        return cls(**value)


@dataclass(frozen=True, eq=False)
class Job:
    """A request that was checked against a plan: everything has a value that the runtime can take.

    ``guidance_kind`` is "none", "modality" or "tumour"; ``regions`` is None unless the networks take them; ``window``
    is None for decoding exactly; ``memory`` is in bytes, None for what is free. ``times``, before the transform for
    size, are those of a grid that is not computed.
    """

    size: Size3
    spacing: Float3
    affine: Affine
    latent_shape: tuple[int, int, int, int]
    steps: int
    solver: str
    time_grid: str
    times: tuple[float, ...] | None
    seed: int
    sample: int
    latents: NDArray[np.float32] | None
    mask: Mask | None
    class_label: int | None
    modality: str | None
    guidance: float
    guidance_kind: str
    regions: tuple[Region, Region] | None
    decode: str
    window: Size3 | None
    overlap: float
    memory: int | None

    @property
    def method(self) -> str:
        """The runtime's name of the sampling method: flow, ddpm or ddim."""
        return self.solver if self.solver in DDPM_SOLVERS else "flow"


def check(request: Request, manifest: PlanManifest, *, any_grid: bool = False) -> Job:
    """Check a request against a plan's manifest.

    ``any_grid`` takes sizes and spacings that the plan does not generate, as long as its VAE can work on them.
    Emits RequestWarning for what is legal but likely unwanted. RequestError reports all problems at once.
    """
    return _Check(request, manifest, any_grid).job()


class _Check:
    """One check: each method looks at one part of the request and notes its problems."""

    def __init__(self, request: Request, manifest: PlanManifest, any_grid: bool) -> None:
        self.request = request
        self.manifest = manifest
        self.any_grid = any_grid
        self.family = family_of(manifest)
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def job(self) -> Job:
        mask, size, spacing, affine = self._grid()
        steps, solver, time_grid, times = self._sampling()
        seed = self._whole("seed", self.request.seed, 0, MAX_SEED)
        sample = self._whole("sample", self.request.sample, 0, MAX_SEED)
        modality, code = self._modality()
        guidance, kind = self._guidance(mask is not None)
        window, overlap = self._decoding()
        regions = self._regions(mask)
        compression = self.manifest.latent.compression
        x, y, z = (count // factor for count, factor in zip(size, compression, strict=True))
        shape = (self.manifest.latent.channels, x, y, z)
        latents = self._latents(shape, size)
        memory = self._memory()
        self._files()
        _raise(self.problems)
        for text in self.warnings:
            warnings.warn(text, RequestWarning, stacklevel=2)
        return Job(
            size=size,
            spacing=spacing,
            affine=affine,
            latent_shape=shape,
            steps=steps,
            solver=solver,
            time_grid=time_grid,
            times=times,
            seed=seed,
            sample=sample,
            latents=latents,
            mask=mask,
            class_label=code if self.manifest.conditioning.class_label else None,
            modality=modality,
            guidance=guidance,
            guidance_kind=kind,
            regions=regions,
            decode=self.request.decode,
            window=window,
            overlap=overlap,
            memory=memory,
        )

    def _grid(self) -> tuple[Mask | None, Size3, Float3, Affine]:
        size = self._size()
        spacing = self._spacing()
        mask = self._mask(size, spacing)
        defaults = self.manifest.sizes
        size = size or (mask.size if mask is not None else defaults.default)
        spacing = spacing or (mask.spacing if mask is not None else None) or defaults.spacing.default
        for problem in self._grid_problems(size, spacing):
            if problem is not None:
                self.problems.append(problem)
        warning = None if self.problems or self.any_grid else self.manifest.fov_warning(size, spacing)
        if warning is not None:
            self.warnings.append(warning)
        affine = mask.affine if mask is not None and mask.affine is not None else centred_affine(size, spacing)
        return mask, size, spacing, affine

    def _grid_problems(self, size: Size3, spacing: Float3) -> tuple[str | None, str | None]:
        if not self.any_grid:
            return self.manifest.size_problem(size), self.manifest.spacing_problem(spacing)
        found = " x ".join(f"{step:g}" for step in spacing)
        problem = None if min(spacing) > 0 else f"spacing: expected millimetres above 0, found {found}"
        return vae_size_problem(size, self.manifest), problem

    def _size(self) -> Size3 | None:
        value = self.request.size
        if value is None:
            return None
        if _is_list(value, 3) and all(_is_whole(count) for count in value):
            x, y, z = (int(count) for count in value)
            return x, y, z
        self.problems.append(f"size: expected three whole numbers (voxels x, y, z), found {value!r}")
        return None

    def _spacing(self) -> Float3 | None:
        value = self.request.spacing
        if value is None:
            return None
        if _is_list(value, 3) and all(_is_number(step) and math.isfinite(step) for step in value):
            x, y, z = (float(step) for step in value)
            return x, y, z
        self.problems.append(f"spacing: expected three numbers (mm x, y, z), found {value!r}")
        return None

    def _mask(self, size: Size3 | None, spacing: Float3 | None) -> Mask | None:
        if self.request.mask is None:
            return None
        vocabulary = self.manifest.labels
        if not self.manifest.conditioning.controlnet or vocabulary is None:
            self.problems.append(
                f"mask: plan '{self.manifest.name}' has no ControlNet and takes none; leave the mask out"
            )
            return None
        try:
            mask = read_mask(self.request.mask)
        except RequestError as error:
            self.problems.append(str(error))
            return None
        try:
            mask, warning = fitted(mask, size, spacing)
            self.warnings += [warning] if warning is not None else []
        except RequestError as error:
            self.problems.append(str(error))
        problem = vocabulary_problem(mask.labels, vocabulary)
        if problem is not None:
            self.problems.append(problem)
        warning = body_warning(mask.labels, vocabulary)
        self.warnings += [warning] if warning is not None else []
        return mask

    def _sampling(self) -> tuple[int, str, str, tuple[float, ...] | None]:
        request, schedule = self.request, self.manifest.schedule
        steps = steps_of(request.time_grid, schedule) if request.steps is None else request.steps
        steps = self._whole("steps", steps, 1, min(MAX_STEPS, schedule.train_steps))
        solvers = FLOW_SOLVERS if schedule.kind == "rflow" else DDPM_SOLVERS
        solver = self._choice("solver", request.solver, solvers, schedule.solver)
        try:
            return steps, solver, *chosen(request.time_grid, schedule, steps, solver)
        except RequestError as error:
            self.problems.append(str(error))
            return steps, solver, UNTUNED[0], None

    def _modality(self) -> tuple[str | None, int | None]:
        value, modality = self.request.modality, self.manifest.modality
        codes = {code: name for name, code in modality.names.items()}
        if value is None:
            return codes.get(modality.default) if modality.default is not None else None, modality.default
        if isinstance(value, str) and value in modality.names:
            return value, modality.names[value]
        code = int(value) if _is_whole(value) or (isinstance(value, str) and value.isdecimal()) else None
        if code is not None and code in codes:
            return codes[code], code
        known = ", ".join(f"{name} ({number})" for name, number in modality.names.items())
        expected = f"expected one of {known}" if known else f"plan '{self.manifest.name}' knows none; leave it out"
        self.problems.append(f"modality: {expected}, found {value!r}")
        return None, None

    def _guidance(self, masked: bool) -> tuple[float, str]:
        value = self.request.guidance
        if value is not None and not (_is_number(value) and math.isfinite(value) and value >= 0):
            self.problems.append(f"guidance: expected a number from 0 (none) on, found {value!r}")
            return 0.0, "none"
        kind = self.family.guidance_kind(self.manifest, masked)
        scale = float(self.family.default_guidance(self.manifest) if value is None else value)
        if scale == 0 or (kind is None and value is None):
            return 0.0, "none"
        if kind is None:
            why = "its labels name no tumours" if masked else "it has no class label"
            self.problems.append(
                f"guidance: plan '{self.manifest.name}' cannot guide {'by tumours' if masked else 'by modality'}: "
                f"{why}. Leave guidance out"
            )
            return 0.0, "none"
        return scale, kind

    def _regions(self, mask: Mask | None) -> tuple[Region, Region] | None:
        names = self.request.regions
        if not self.manifest.conditioning.region:
            if names is not None:
                self.problems.append(f"regions: plan '{self.manifest.name}' takes none; leave them out")
            return None
        known = self.family.region_names()
        if names is not None and not (_is_list(names, 2) and all(name in known for name in names)):
            self.problems.append(f"regions: expected (top, bottom), each one of {', '.join(known)}, found {names!r}")
            return None
        try:
            wanted = None if names is None else (names[0], names[1])
            return self.family.regions(wanted, None if mask is None else mask.labels)
        except RequestError as error:
            self.problems.append(str(error))
            return None

    def _decoding(self) -> tuple[Size3 | None, float]:
        request = self.request
        decode = self._choice("decode", request.decode, DECODES, DECODES[0])
        if decode == "exact":
            if request.window is not None or request.overlap is not None:
                self.problems.append(
                    "window and overlap: only decode='windowed' has them; the exact way has no windows"
                )
            return None, OVERLAP
        window, overlap = WINDOW, OVERLAP
        if request.window is not None:
            if _is_list(request.window, 3) and all(_is_whole(count) and count >= 1 for count in request.window):
                x, y, z = (int(count) for count in request.window)
                window = (x, y, z)
            else:
                self.problems.append(f"window: expected three whole numbers of latent voxels, found {request.window!r}")
        if request.overlap is not None:
            if _is_number(request.overlap) and 0 <= request.overlap < 1:
                overlap = float(request.overlap)
            else:
                self.problems.append(f"overlap: expected a number from 0 to below 1, found {request.overlap!r}")
        return window, overlap

    def _latents(self, shape: tuple[int, int, int, int], size: Size3) -> NDArray[np.float32] | None:
        if self.request.latents is None:
            return None
        try:
            return as_latent(
                self.request.latents, shape, f"latents for size {' x '.join(str(count) for count in size)}"
            )
        except RequestError as error:
            self.problems.append(str(error))
            return None

    def _memory(self) -> int | None:
        try:
            return None if self.request.memory is None else bytes_of(self.request.memory)
        except RequestError as error:
            self.problems.append(str(error))
            return None

    def _files(self) -> None:
        output, preview = self.request.output, self.request.preview
        if preview is not None and output is None:
            self.problems.append("preview: it is written with output; give that too, or save the volume with a preview")
        try:
            if output is not None:
                split_name(output)
            if preview is not None:
                check_preview(preview)
        except RequestError as error:
            self.problems.append(str(error))

    def _whole(self, name: str, value: object, low: int, high: int) -> int:
        if _is_whole(value) and low <= value <= high:
            return int(value)
        limit = "2^64 - 1" if high == MAX_SEED else str(high)
        self.problems.append(f"{name}: expected a whole number from {low} to {limit}, found {value!r}")
        return low

    def _choice(self, name: str, value: object, choices: tuple[str, ...], default: str) -> str:
        if value is None:
            return default
        if isinstance(value, str) and value in choices:
            return value
        self.problems.append(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
        return default


def as_latent(value: object, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """``value`` as a float32 array of ``shape`` (channels, x, y, z); RequestError if it is no such thing."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise RequestError(
            f"{what}: expected numbers of shape {shape} (channels, x, y, z), found {array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise RequestError(f"{what}: {int((~np.isfinite(array)).sum())} values are NaN or infinite")
    return np.ascontiguousarray(array, dtype=np.float32)


def _raise(problems: Sequence[str]) -> None:
    if len(problems) == 1:
        raise RequestError(problems[0])
    if problems:
        numbered = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        raise RequestError(f"the request has {len(problems)} problems: {numbered}")


def _is_list(value: object, length: int) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes) and len(value) == length


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
