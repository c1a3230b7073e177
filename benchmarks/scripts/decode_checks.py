"""How exact the exact decode is, and whether slabs or windows leave seams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import full_width
import numpy as np
import torch
from decoder import Decoder, Float32, Size3
from pipelines import COMPRESSION
from real_latents import Case, embedded_vae, encoded

from ctfast import _native
from ctfast.decoding import WHOLE, Route
from ctfast.networks import AutoencoderKL

#: Parts of what keeping all tensors takes: enough, half, and nothing, which gives the smallest slabs.
BUDGETS = (2.0, 0.5, 0.0)


def exactness(
    home: Path, sizes: Sequence[Size3], scans: Sequence[Path], engine: Path, threads: int
) -> Iterator[dict[str, Any]]:
    """Every way on every latent against torch's fp32 decode of the whole, in fp32 and bf16; a row's figures each."""
    torch.set_num_threads(threads)
    vae = full_width.autoencoder(home)
    cases: list[tuple[Case, AutoencoderKL, Path | None]] = []
    cases += [(Case("noise", full_width.noise(size)), vae, home) for size in sizes]
    if scans:
        own = embedded_vae(engine)
        cases += [(encoded(own, path), own, None) for path in scans]
    for case, module, folder in cases:
        with torch.no_grad():
            reference = module.decode(case.latent[None])[0, 0].numpy()
        size, ways = size_of(case.latent), []
        for precision in ("fp32", "bf16"):
            path = engine if folder is None else folder / full_width.PLANS[precision]
            decoder = Decoder(path, precision, threads)
            scaled = (case.latent * decoder.manifest.latent.scale_factor).numpy()
            for route in every_way(decoder, size):
                image = decoder.run(scaled, route).image
                ways.append(
                    {
                        "precision": precision,
                        **about(route),
                        "relative_l2": relative(image, reference),
                        "psnr_db": round(psnr(image, reference), 2),
                    }
                )
        yield {
            "weights": "random, full width" if folder is not None else "embedded plan",
            "case": case.name,
            "latent": list(size),
            "largest_relative_l2_fp32": max(way["relative_l2"] for way in ways if way["precision"] == "fp32"),
            "lowest_psnr_db_bf16": min(way["psnr_db"] for way in ways if way["precision"] == "bf16"),
            "ways": ways,
        }


def every_way(decoder: Decoder, size: Size3) -> Iterator[Route]:
    """Every way to run the decoder; those in stages with the largest slabs and the smallest, and between."""
    every = decoder.routes(size)
    if WHOLE in every:
        yield every[WHOLE]
    enough = every["in_place"].peak_bytes or 0
    seen = set()
    for part in BUDGETS:
        for route in decoder.routes(size, int(part * enough) or 1).values():
            key = str(about(route))
            if is_itself(route) and key not in seen:
                seen.add(key)
                yield route


def ways_within(decoder: Decoder, size: Size3, budgets: Sequence[int]) -> Iterator[Route]:
    """The ways in stages that fit each budget (bytes)."""
    for budget in budgets:
        yield from (route for route in decoder.routes(size, budget).values() if route.fits and is_itself(route))


def is_itself(route: Route) -> bool:
    """Whether a way in stages does what it is named for: with enough memory, none spills or computes again."""
    plain = route.work == 1.0 and not route.spilled_bytes
    return route.strategy is not None and plain == (route.name == "in_place")


def about(route: Route) -> dict[str, Any]:
    """A way in a row."""
    return {
        "way": route.name,
        "slab_rows": 0 if route.strategy is None else route.strategy.slab_rows,
        "work": round(route.work, 3),
        "spilled_mib": round(route.spilled_bytes / 2**20, 1),
    }


def relative(image: Float32, reference: Float32) -> float:
    """Relative L2 error, of what differs from the reference's mean: an image's offset does not count as signal."""
    wanted = reference.astype(np.float64)
    spread = np.linalg.norm((wanted - wanted.mean()).ravel())
    return float(f"{np.linalg.norm((image - wanted).ravel()) / spread:.3g}")


def psnr(image: Float32, reference: Float32) -> float:
    """PSNR in dB on [-1000, 1000] HU, before rounding to integers."""
    difference = np.clip(image, 0, 1).astype(np.float64) - np.clip(reference, 0, 1)
    return 10 * math.log10(1 / max(float(np.square(difference).mean()), 1e-16))


def seams(
    decoder: Decoder, latent: Float32, ways: Iterable[Route], window: Size3, overlap: float
) -> list[dict[str, Any]]:
    """Jumps at the borders of slabs and windows, way by way.

    ``ratio`` is the mean absolute difference across the borders over the one a voxel beside them; ``undivided`` is
    that of the whole decode at the same places, which is not 1 where the network's own grid shows.
    """
    size, found = size_of(latent), []
    whole = decoder.windowed(latent, None, 0.0).image
    for route in ways:
        done = decoder.run(latent, route)
        if done.borders:
            found.append({**about(route), **_seam(done.image, whole, [(2, done.borders)])})
    for part in (overlap, 0.0):
        places = window_borders(size, window, part)
        image = decoder.windowed(latent, window, part).image
        found.append({"way": "windowed", "window": list(window), "overlap": part, **_seam(image, whole, places)})
    return found


def window_borders(volume: Size3, window: Size3, overlap: float) -> list[tuple[int, list[int]]]:
    """By axis the first voxels behind the places where a window begins or ends."""
    starts, size = _native.window_starts(volume, window, overlap)
    found = []
    for axis, extent in enumerate(volume):
        places = {place for start in starts for place in (start[axis], start[axis] + size[axis])}
        found.append((axis, sorted(COMPRESSION * place for place in places if 0 < place < extent)))
    return found


def jump_ratio(image: Float32, places: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Mean absolute difference across borders (axis, first voxels behind) over the mean one voxel beside them."""
    across, beside = 0.0, 0.0
    for axis, borders in places:
        along = np.moveaxis(image, axis, 0)
        for border in borders:
            if 2 <= border < len(along) - 1:
                steps = np.abs(np.diff(along[border - 2 : border + 2].astype(np.float64), axis=0))
                across += float(steps[1].sum())
                beside += float(steps[0].sum() + steps[2].sum()) / 2
    return across / beside if beside else float("nan")


def _seam(image: Float32, whole: Float32, places: Sequence[tuple[int, Sequence[int]]]) -> dict[str, Any]:
    ratio, undivided = jump_ratio(image, places), jump_ratio(whole, places)
    return {
        "borders": sum(len(borders) for _, borders in places),
        "ratio": round(ratio, 4),
        "undivided": round(undivided, 4),
        "ratio_to_undivided": round(ratio / undivided, 4),
    }


def size_of(latent: Any) -> Size3:
    """Extents of a latent (channels, x, y, z)."""
    x, y, z = latent.shape[1:]
    return int(x), int(y), int(z)
