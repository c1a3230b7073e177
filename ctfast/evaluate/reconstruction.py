"""How close a volume is to the one it should be: PSNR and SSIM on [-1000, 1000] HU, and a plan's round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .descriptors import BODY_HU
from .volumes import Item, Scan, load_scan

if TYPE_CHECKING:
    from ..engine import Engine

HU = NDArray[np.float32]
LOW, HIGH = -1000.0, 1000.0
# Side of SSIM's Gaussian window, in voxels, and its width.
_KERNEL, _SIGMA = 11, 1.5


def psnr(found: HU, wanted: HU, where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB, the peak being 2000 HU; infinite for equal volumes.

    ``where``: the voxels that count. RequestError for different shapes or if no voxel counts.
    """
    _same_shape(found, wanted)
    error = np.square(np.clip(found, LOW, HIGH).astype(np.float64) - np.clip(wanted, LOW, HIGH))
    kept = error if where is None else error[where]
    if kept.size == 0:
        raise RequestError("PSNR: expected voxels inside the body, found none")
    mean = float(kept.mean())
    return float("inf") if mean == 0 else float(10 * np.log10((HIGH - LOW) ** 2 / mean))


def ssim(found: HU, wanted: HU) -> float:
    """Structural similarity in 3-D: MONAI's, Gaussian window of 11 voxels. RequestError for volumes smaller than that.

    1 for equal volumes.
    """
    from monai.metrics import SSIMMetric

    _same_shape(found, wanted)
    if min(found.shape) < _KERNEL:
        raise RequestError(f"SSIM: expected at least {_KERNEL} voxels a side, found {found.shape}")
    metric: Any = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=_KERNEL, kernel_sigma=_SIGMA)
    return float(metric(unit_range(found), unit_range(wanted)).mean())


def unit_range(hu: HU) -> Any:
    """HU as a tensor (1, 1, x, y, z) in [0, 1]."""
    import torch

    return torch.from_numpy((np.clip(hu, LOW, HIGH) - LOW) / (HIGH - LOW))[None, None]


def body_of(hu: HU) -> NDArray[np.bool_]:
    """The voxels that are not air."""
    body: NDArray[np.bool_] = hu > BODY_HU
    return body


def round_trip(item: Item, engine: Engine) -> tuple[Scan, HU]:
    """A volume, and what a plan's VAE makes of it (encoded to the posterior's mean and decoded).

    RequestError if the plan cannot encode it.
    """
    from ..volume import Volume

    volume = Volume.load(item.image)
    back = engine.decode(engine.encode(volume), affine=volume.affine)
    return load_scan(item, labels=False), back.array.astype(np.float32)


def _same_shape(found: HU, wanted: HU) -> None:
    if found.shape != wanted.shape:
        raise RequestError(f"expected volumes of one shape, found {found.shape} and {wanted.shape}")
