"""Prepared crops and their latents as training batches, drawn by the step number alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged
from torch import Tensor

from ctfast.errors import DataError
from ctfast.train.config import DataConfig


def generator(*key: int) -> torch.Generator:
    """A random generator that is a function of its key alone: what makes a resumed run equal an unbroken one."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]) & (2**63 - 1)
    return torch.Generator().manual_seed(seed)


class Crops:
    """Every crop of one split in memory: intensities in [0, 1] and label maps.

    Raises:
        DataError: No such folder, or a file that is damaged or of another shape than the first.
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        folder = Path(config.root) / split
        images = sorted(folder.glob("*_ct.nii.gz"))
        if not images:
            raise DataError(f"{folder}: expected prepared crops (*_ct.nii.gz), found none; run 'ctfast data prepare'")
        items = []
        for image in images:
            label = image.with_name(image.name.replace("_ct.nii.gz", "_seg.nii.gz"))
            if not label.exists():
                raise DataError(f"{label}: missing; each crop needs its label map beside it")
            items.append({"image": image, "label": label})
        load = Compose(
            [
                LoadImaged(keys=("image", "label"), image_only=True),
                EnsureChannelFirstd(keys=("image", "label")),
                Orientationd(keys=("image", "label"), axcodes="RAS", labels=None),
                ScaleIntensityRanged(keys="image", a_min=config.low, a_max=config.high, b_min=0, b_max=1, clip=True),
            ]
        )
        try:
            loaded = CacheDataset(items, load, num_workers=0, progress=False)
        except (RuntimeError, OSError, ValueError) as error:
            raise DataError(f"{folder}: a crop could not be read: {error}") from error
        self.names = [item["image"].name[: -len("_ct.nii.gz")] for item in items]
        self.config = config
        self.images: list[Tensor] = []
        self.labels: list[Tensor] = []
        for name, entry in zip(self.names, loaded, strict=True):
            image, label = entry["image"].as_tensor().half(), entry["label"].as_tensor().to(torch.uint8)
            if not torch.isfinite(image).all():
                raise DataError(f"{name}: expected finite intensities, found NaN or infinity")
            if self.images and (image.shape != self.images[0].shape or label.shape != image.shape):
                raise DataError(f"{name}: expected shape {tuple(self.images[0].shape)}, found {tuple(image.shape)}")
            self.images.append(image)
            self.labels.append(label)

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, index: int, flip: bool, shift: Sequence[int] = (0, 0, 0)) -> tuple[Tensor, Tensor]:
        """One crop, mirrored left to right (labels swapped) and shifted by whole voxels (edges repeat)."""
        image, label = self.images[index].float(), self.labels[index]
        if flip:
            image, label = image.flip(1), mirror(label.flip(1), self.config.mirror_labels)
        if any(shift):
            image, label = _shifted(image, shift), _shifted(label, shift)
        return image, label

    def batch(self, step: int, size: int, seed: int, rank: int, world: int, patch: Sequence[int] | None) -> Tensor:
        """Images (size, 1, x, y, z) of one step: a shuffled pass over the data after another, mirrored at random."""
        random = generator(seed, step, rank, 1)
        out = []
        for position in range(size):
            index = draw(step * size * world + rank * size + position, len(self), seed)
            flip = self.config.flip and bool(torch.rand((), generator=random) < 0.5)
            image, _ = self.pick(index, flip)
            out.append(_patch(image, patch, random) if patch is not None else image)
        return torch.stack(out)


def draw(position: int, count: int, seed: int) -> int:
    """Index of the ``position``-th sample when every epoch is a fresh permutation of ``count`` samples."""
    epoch, offset = divmod(position, count)
    return int(torch.randperm(count, generator=generator(seed, epoch, 2))[offset])


def mirror(label: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """Swap the labels of paired organs."""
    table = torch.arange(256, dtype=torch.uint8)
    for left, right in pairs:
        table[left], table[right] = right, left
    return table[label.long()]


def label_bits(label: Tensor, bits: int) -> Tensor:
    """Label map (..., 1, x, y, z) to its binary digits (..., bits, x, y, z), least significant first."""
    planes = [(label >> bit) & 1 for bit in range(bits)]
    return torch.cat(planes, dim=-4).float()


def _shifted(array: Tensor, shift: Sequence[int]) -> Tensor:
    for axis, by in enumerate(shift, start=1):
        if by:
            index = torch.arange(array.shape[axis]).add(by).clamp(0, array.shape[axis] - 1)
            array = array.index_select(axis, index)
    return array


def _patch(image: Tensor, size: Sequence[int], random: torch.Generator) -> Tensor:
    """A random patch whose centre lies near the volume's: most of what lies further out is air."""
    slices = [slice(None)]
    for extent, wanted in zip(image.shape[1:], size, strict=True):
        if wanted > extent:
            raise DataError(f"expected crops of at least {tuple(size)} voxels, found {tuple(image.shape[1:])}")
        start = int(torch.randint(0, extent - wanted + 1, (), generator=random))
        slices.append(slice(start, start + wanted))
    return image[tuple(slices)]
