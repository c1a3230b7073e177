"""What decoding with statistics from a cheap first pass would cost and lose: the experiment behind docs/decode.md.

    python benchmarks/scripts/shared_statistics.py prepared/val openkbp lung/ct.nii.gz --limit 4 \\
        --append benchmarks/results/shared_statistics.jsonl

Arguments are CT scans (.nii.gz) or folders of them. Each is encoded with the embedded plan's VAE and decoded in fp32 by
the torch modules: once exactly, and once for every way of gathering the group norms' means and variances from less than
the whole latent. The second pass with these frozen statistics needs no border anywhere, so it is run in one piece: a
pass in tiles with a full halo, or streamed row by row, computes the same numbers. Reported are PSNR on [-1000, 1000] HU
against the exact decode, and the first pass's work as a part of the exact decode's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import records
import torch
import torch.nn.functional as F
from real_latents import Case, chosen, embedded_vae, encoded, hounsfield, psnr
from torch import Tensor, nn

from ctfast.networks import AutoencoderKL

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Piece:
    """A part of the latent that the first pass decodes: where it is, which part of it counts, and for how much."""

    outer: Box
    inner: Box
    weight: float


@dataclass(frozen=True)
class FirstPass:
    """Latent and pieces of it. ``joint``: one set of statistics for all at every norm; else each piece has its own."""

    latent: Tensor
    pieces: list[Piece]
    joint: bool


class Moments:
    """Means and variances of every group norm, in the order they are met."""

    def __init__(self) -> None:
        self.frozen: list[tuple[Tensor, Tensor]] = []
        self.met = 0


class SharedNorm(nn.Module):
    """A group norm whose statistics are gathered from pieces, or given."""

    def __init__(self, norm: nn.GroupNorm, moments: Moments) -> None:
        super().__init__()
        self.norm, self.moments = norm, moments
        self.gather: FirstPass | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.gather is None:
            mean, variance = self.moments.frozen[self.moments.met]
            self.moments.met += 1
            return self._normalised(x, mean, variance)
        means, variances = self._of_pieces(x, self.gather)
        weights = torch.tensor([piece.weight for piece in self.gather.pieces], dtype=torch.float64)[:, None]
        weights = weights / weights.sum()
        mean = (weights * means).sum(0, keepdim=True)
        variance = (weights * (variances + (means - mean).square())).sum(0, keepdim=True)
        self.moments.frozen.append((mean, variance))
        return self._normalised(x, mean, variance) if self.gather.joint else self._normalised(x, means, variances)

    def _of_pieces(self, x: Tensor, gather: FirstPass) -> tuple[Tensor, Tensor]:
        """Mean and variance (pieces, groups) of what counts of each piece."""
        means, variances = [], []
        for values, piece in zip(x, gather.pieces, strict=True):
            scale = values.shape[1] // (piece.outer[0].stop - piece.outer[0].start)
            a, b, c = (
                slice(scale * (inner.start - outer.start), scale * (inner.stop - outer.start))
                for inner, outer in zip(piece.inner, piece.outer, strict=True)
            )
            counted = values[:, a, b, c].reshape(self.norm.num_groups, -1).double()
            variance, mean = torch.var_mean(counted, dim=1, correction=0)
            means.append(mean)
            variances.append(variance)
        return torch.stack(means), torch.stack(variances)

    def _normalised(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """``mean`` and ``variance``: (pieces or 1, groups)."""
        width = x.shape[1] // self.norm.num_groups
        scale = (variance + self.norm.eps).rsqrt().float().repeat_interleave(width, 1) * self.norm.weight
        shift = self.norm.bias - mean.float().repeat_interleave(width, 1) * scale
        return x * scale[:, :, None, None, None] + shift[:, :, None, None, None]


@contextmanager
def shared_norms(vae: AutoencoderKL, moments: Moments) -> Iterator[list[SharedNorm]]:
    """The decoder with its group norms replaced, for as long as the block lasts."""
    places = [
        (module, name, child)
        for module in vae.decoder.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.GroupNorm)
    ]
    made = [SharedNorm(norm, moments) for _, _, norm in places]
    for (module, name, _), replacement in zip(places, made, strict=True):
        setattr(module, name, replacement)
    try:
        yield made
    finally:
        for module, name, norm in places:
            setattr(module, name, norm)


def decode_shared(vae: AutoencoderKL, latent: Tensor, first: FirstPass) -> Tensor:
    """The image (x, y, z) of a latent (channels, x, y, z) with the statistics of a first pass."""
    moments = Moments()
    with shared_norms(vae, moments) as norms:
        for norm in norms:
            norm.gather = first
        vae.decode(torch.stack([_part(first.latent, piece.outer) for piece in first.pieces]))
        for norm in norms:
            norm.gather = None
        return vae.decode(latent[None])[0, 0]


def whole(latent: Tensor) -> FirstPass:
    """Everything: the statistics of the exact decode, a check of the arithmetic."""
    return FirstPass(latent, [_piece(_all(latent))], joint=True)


def windows(latent: Tensor, of_eight: int, joint: bool, margin: int = 0) -> FirstPass:
    """The latent cut in two along each axis, and of the eight windows all, four (a checkerboard) or two (opposite).

    ``margin``: rows at the cuts that are decoded with the window but do not count.
    """
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    kept = {8: corners, 4: [one for one in corners if sum(one) % 2 == 0], 2: [(0, 0, 0), (1, 1, 1)]}[of_eight]
    found = []
    for corner in kept:
        outer, inner = [], []
        for which, extent in zip(corner, latent.shape[1:], strict=True):
            half = extent // 2
            outer.append(slice(half, 2 * half) if which else slice(0, half))
            inner.append(slice(half + margin, 2 * half) if which else slice(0, half - margin))
        found.append(Piece(_box(outer), _box(inner), 1.0))
    return FirstPass(latent, found, joint)


def slabs(latent: Tensor, rows: int, halo: int, every: int) -> FirstPass:
    """Slabs of ``rows`` rows along z, one in ``every`` rows, each with a halo that does not count.

    The first and the last row are among them. Each slab stands for the rows that are nearer to it than to another one.
    """
    depth = latent.shape[3]
    length = rows + 2 * halo
    count = max(2, round(depth / every))
    starts = [round(n * (depth - length) / (count - 1)) for n in range(count)]
    centres = [start + length / 2 for start in starts]
    borders = [0.0, *((one + other) / 2 for one, other in pairwise(centres)), float(depth)]
    x, y, _ = _all(latent)
    found = []
    for n, start in enumerate(starts):
        low = start if start == 0 else start + halo
        high = start + length if start + length == depth else start + length - halo
        piece = Piece((x, y, slice(start, start + length)), (x, y, slice(low, high)), borders[n + 1] - borders[n])
        found.append(piece)
    return FirstPass(latent, found, joint=True)


def pooled(latent: Tensor) -> FirstPass:
    """The latent at half its extents, by the mean of 2 x 2 x 2, brought back to its own mean and spread per channel."""
    small = F.avg_pool3d(latent[None], 2)[0]
    wide = latent.flatten(1)
    narrow = small.flatten(1)
    ratio = (wide.std(1) / narrow.std(1))[:, None, None, None]
    centre = wide.mean(1)[:, None, None, None]
    small = (small - narrow.mean(1)[:, None, None, None]) * ratio + centre
    return FirstPass(small, [_piece(_all(small))], joint=True)


def thinned(latent: Tensor) -> FirstPass:
    """Every second latent voxel along each axis."""
    small = latent[:, ::2, ::2, ::2]
    return FirstPass(small, [_piece(_all(small))], joint=True)


#: Ways to gather statistics, by name.
WAYS: dict[str, Callable[[Tensor], FirstPass]] = {
    "the exact statistics (check)": whole,
    "8 windows, each with its own statistics": lambda latent: windows(latent, 8, joint=False),
    "4 of 8 windows, each with its own statistics": lambda latent: windows(latent, 4, joint=False),
    "4 of 8 windows in step": lambda latent: windows(latent, 4, joint=True),
    "4 of 8 windows in step, without the rows at the cuts": lambda latent: windows(latent, 4, joint=True, margin=1),
    "2 of 8 windows in step": lambda latent: windows(latent, 2, joint=True),
    "slabs of 2 rows and 2 of halo in step, one in 8 rows": lambda latent: slabs(latent, 2, 2, 8),
    "slabs of 2 rows and 1 of halo in step, one in 8 rows": lambda latent: slabs(latent, 2, 1, 8),
    "slabs of 4 rows and 2 of halo in step, one in 16 rows": lambda latent: slabs(latent, 4, 2, 16),
    "a latent of half the extents, means": pooled,
    "a latent of half the extents, every second voxel": thinned,
}


@torch.no_grad()
def measure(vae: AutoencoderKL, case: Case) -> dict[str, dict[str, float]]:
    """PSNR against the exact decode, and the work of the first pass over that of the exact decode, by way."""
    exact = hounsfield(vae.decode(case.latent[None])[0, 0])
    found = {}
    for name, way in WAYS.items():
        start = time.perf_counter()
        first = way(case.latent)
        image = hounsfield(decode_shared(vae, case.latent, first))
        voxels = sum(_voxels(piece.outer) for piece in first.pieces)
        found[name] = {
            "psnr_db": round(psnr(image, exact), 2),
            "first_pass_work": round(voxels / _voxels(_all(case.latent)), 4),
            "mean_shift_hu": round(float((image - exact).mean()), 2),
            "seconds": round(time.perf_counter() - start, 2),
        }
    return found


def main() -> int:
    """Measure, print, and keep a row if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+", help="CT files (.nii.gz) or folders of *ct.nii.gz")
    parser.add_argument("--limit", type=int, default=6, help="scans of a folder (default: 6)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    records.add_output_options(parser)
    options = parser.parse_args()

    load_before = records.load()
    torch.set_num_threads(options.threads)
    vae = embedded_vae()
    cases: dict[str, Any] = {}
    for path in chosen(options.scans, options.limit):
        case = encoded(vae, path)
        cases[case.name] = {"latent": list(case.latent.shape[1:]), "ways": measure(vae, case)}
        _say(f"{case.name}: latent {' x '.join(map(str, case.latent.shape[1:]))}")
        for name, figures in cases[case.name]["ways"].items():
            _say(f"  {name:55} {figures['psnr_db']:7.2f} dB  first pass {figures['first_pass_work']:.3f}")
    settings = {"plan": "headneck", "precision": "fp32 (torch)", "threads": options.threads, "scans": len(cases)}
    entry = records.row("shared_statistics", settings, {"ways": summaries(cases), "cases": cases}, load_before)
    records.give(options, entry)
    return 0


def summaries(cases: dict[str, Any]) -> dict[str, Any]:
    """PSNR of each folder's scans and work over all scans, by way."""
    found = {}
    for name in WAYS:
        folders: dict[str, list[float]] = {}
        for case, result in cases.items():
            folders.setdefault(case.partition("/")[0], []).append(result["ways"][name]["psnr_db"])
        work = [result["ways"][name]["first_pass_work"] for result in cases.values()]
        found[name] = {
            "psnr_db": {folder: records.summary(values, 2) for folder, values in folders.items()},
            "first_pass_work": records.summary(work, 4),
        }
    return found


def _box(parts: list[slice]) -> Box:
    a, b, c = parts
    return a, b, c


def _part(latent: Tensor, box: Box) -> Tensor:
    a, b, c = box
    return latent[:, a, b, c]


def _piece(box: Box) -> Piece:
    return Piece(box, box, float(_voxels(box)))


def _all(latent: Tensor) -> Box:
    a, b, c = (slice(0, extent) for extent in latent.shape[1:])
    return a, b, c


def _voxels(box: Box) -> int:
    a, b, c = (part.stop - part.start for part in box)
    return int(a * b * c)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
