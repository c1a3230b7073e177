"""What runs in a process of its own when decodes are timed and weighed: ctfast's ways, and MONAI's windows."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size3 = tuple[int, int, int]
#: A decode of this latent goes ahead, so that libraries are loaded and the first call's work is done.
_SMALL = (8, 8, 8)
_STATUS = Path("/proc/self/status")


def ours(path: Path, precision: str, threads: int, latent: Size3, memory: int | None, repeats: int) -> dict[str, Any]:
    """Decode noise to int16 within ``memory`` bytes (None: whole, in one call); memory is beyond the networks."""
    import full_width
    from decoder import Decoder

    from ctfast.decoding import WHOLE, quickest

    decoder = Decoder(path, precision, threads)
    for name, small in decoder.routes(_SMALL).items():
        if (name == WHOLE) == (memory is None):
            decoder.run(full_width.noise(_SMALL).numpy(), small)
    routes = decoder.routes(latent, memory)
    route = routes[WHOLE] if memory is None else quickest([each for name, each in routes.items() if name != WHOLE])
    if route is None:
        needs = {name: each.peak_bytes for name, each in routes.items()}
        return {"refused": f"nothing fits into {memory} bytes; needed: {needs}"}
    noise = full_width.noise(latent).numpy()
    gc.collect()
    loaded = _kib("VmRSS")
    _forget_peak()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        volume = _decoded(decoder, noise, route)
        seconds.append(time.perf_counter() - start)
    peak = _kib("VmHWM") - loaded
    predicted = route.peak_bytes or 0
    return {
        "way": route.name,
        "seconds": [round(value, 2) for value in seconds],
        "loaded_gib": round(loaded / 2**20, 3),
        "peak_gib": round(peak / 2**20, 3),
        "predicted_gib": round(predicted / 2**30, 3),
        "peak_to_predicted": round(peak * 1024 / predicted, 3) if predicted else None,
        "work": round(route.work, 3),
        "spilled_gib": round(route.spilled_bytes / 2**30, 2),
        "mean_hu": round(float(volume.mean()), 2),
    }


def monai_windows(
    state: Path, dtype: str, threads: int, latent: Size3, roi: int, overlaps: Sequence[float], count: int
) -> list[dict[str, Any]]:
    """MONAI's sliding window, by overlap: ``count`` of its equal windows timed, the blending of all, and the sum."""
    import full_width
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.inferers.utils import dense_patch_slices
    from peer import networks

    torch.set_num_threads(threads)
    autoencoder: Any = networks.autoencoder()
    autoencoder.load_state_dict(torch.load(state, weights_only=True), strict=True)
    network = torch.nn.Sequential(autoencoder.post_quant_conv, autoencoder.decoder).eval()
    window: Size3 = (min(roi, latent[0]), min(roi, latent[1]), min(roi, latent[2]))
    places = {
        overlap: dense_patch_slices(latent, window, [max(1, int(extent * (1 - overlap))) for extent in window])
        for overlap in overlaps
    }
    noise = full_width.noise(latent)[None]
    seconds: list[float] = []
    blending: dict[float, float] = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        network(noise[:, :, :8, :8, :8])
        for x, y, z in max(places.values(), key=len)[:count]:
            part = noise[:, :, x, y, z]
            start = time.perf_counter()
            image = network(part).float()
            seconds.append(time.perf_counter() - start)
        for overlap in overlaps:
            inferer: Any = SlidingWindowInferer(window, sw_batch_size=1, overlap=overlap, mode="gaussian")
            start = time.perf_counter()
            inferer(noise, lambda part: image)
            blending[overlap] = time.perf_counter() - start
    return [
        {
            "runs_in": dtype,
            "roi": roi,
            "overlap": overlap,
            "seconds": round(statistics.fmean(seconds) * len(windows) + blending[overlap], 1),
            "windows": len(windows),
            "windows_timed": min(len(seconds), len(windows)),
            "window_s": [round(value, 2) for value in seconds],
            "blending_s": round(blending[overlap], 2),
            "peak_rss_gib": round(_kib("VmHWM") / 2**20, 2),
        }
        for overlap, windows in places.items()
    ]


def saving(folder: Path, extent: int, threads: int | None) -> dict[str, Any]:
    """Write a CT of extent^3 voxels as .nii.gz: the embedded plan's volume enlarged, with a scanner's noise on it."""
    import ctfast

    volume = _enlarged(ctfast.generate(seed=1, steps=10).array, extent)
    large = ctfast.Volume(volume, np.diag([0.75, 0.75, 0.75, 1.0]), None, {"synthetic": True})
    path = folder / "large.nii.gz"
    start = time.perf_counter()
    large.save(path)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "voxels": [extent] * 3,
        "raw_mib": round(volume.nbytes / 2**20, 1),
        "written_mib": round(path.stat().st_size / 2**20, 1),
        "same_after_reading": bool(np.array_equal(ctfast.Volume.load(path).array, volume)),
    }


def _enlarged(array: Any, extent: int) -> Any:
    """Linear interpolation to extent^3 and 12 HU of noise, in air too, where generated volumes have none."""
    import torch
    import torch.nn.functional as F

    small = torch.from_numpy(array.astype(np.float32))[None, None]
    large = F.interpolate(small, size=(extent,) * 3, mode="trilinear", align_corners=False)[0, 0]
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(0)) * 12
    return np.asarray((large + noise).clamp(-1000, 1000).round().short().numpy(), order="F")


def _decoded(decoder: Any, latent: Any, route: Any) -> Any:
    """To intensities, slab by slab where the way has slabs, as the Engine does."""
    from ctfast import _native
    from ctfast.decoding import WHOLE

    settings = decoder.manifest.intensity

    def hounsfield(image: Any) -> NDArray[np.int16]:
        values: NDArray[np.int16] = _native.to_hu(image, None, settings.scale, settings.offset)
        return values

    if route.name == WHOLE:
        return hounsfield(decoder.run(latent, route).image)
    x, y, z = decoder.output_size(latent.shape[1:])
    volume = np.empty((z, y, x), np.int16)

    def take(first: int, rows: Any) -> None:
        volume[first : first + len(rows)] = hounsfield(rows[..., 0])

    decoder.run(latent, route, take)
    return volume.T


def _kib(name: str) -> int:
    """A figure of this process in KiB, as the kernel counts it."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"{_STATUS} has no {name}")


def _forget_peak() -> None:
    """Let VmHWM start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
