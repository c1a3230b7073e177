"""Prepared crops in memory, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import ScaleIntensityRange
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.dictionary import Orientationd
from monai.transforms.utility.dictionary import EnsureChannelFirstd
from torch import Tensor

from ctfast.errors import DataError
from ctfast.train.config import DataConfig
from ctfast.train.sampling import Buckets, generator

_CT, _SEG = "_ct.nii.gz", "_seg.nii.gz"


class Crops:
    """Every crop of one split in memory: intensities in [0, 1], label maps and voxel sizes in mm.

    Crops may differ in shape; a batch holds crops of one shape.

    Raises:
        DataError: No such folder, or a crop that is damaged, lacks its label map, or has extents that are no multiples
            of ``multiple``.
    """

    def __init__(self, config: DataConfig, split: str, multiple: int = 1) -> None:
        folder = Path(config.root) / split
        files = sorted(folder.glob(f"*{_CT}"))
        if not files:
            raise DataError(f"{folder}: expected prepared crops (*{_CT}), found none; run 'ctfast data prepare'")
        self.config = config
        self.names = [file.name[: -len(_CT)] for file in files]
        self.images: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.spacings: list[tuple[float, ...]] = []
        for file in files:
            image, label, spacing = _read(file, config, multiple)
            self.images.append(image)
            self.labels.append(label)
            self.spacings.append(spacing)
        self.buckets = Buckets([image.shape for image in self.images])

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, index: int, flip: bool, shift: Sequence[int] = (0, 0, 0)) -> Tensor:
        """One image (1, x, y, z), mirrored left to right and shifted by whole voxels (edges repeat)."""
        image = self.images[index].float()
        return _shifted(image.flip(1) if flip else image, shift)

    def pick_labels(self, index: int, flip: bool, shift: Sequence[int] = (0, 0, 0)) -> Tensor:
        """The label map (1, x, y, z) of what :meth:`pick` gives; paired organs swap their labels with their sides."""
        label = self.labels[index]
        return _shifted(mirror(label.flip(1), self.config.mirror_labels) if flip else label, shift)

    def batch(self, step: int, size: int, seed: int, rank: int, world: int, patch: Sequence[int] | None) -> Tensor:
        """Images (size, 1, x, y, z) of one step: a shuffled pass over the data after another, mirrored at random."""
        random = generator(seed, step, rank, 1)
        out = []
        for index in self.buckets.members(step, size, seed, rank, world):
            flip = self.config.flip and bool(torch.rand((), generator=random) < 0.5)
            image = self.pick(index, flip)
            out.append(_patch(image, patch, random) if patch is not None else image)
        return torch.stack(out)

    def check_patch(self, patch: Sequence[int]) -> None:
        """DataError if a crop is smaller than a patch."""
        for name, image in zip(self.names, self.images, strict=True):
            if any(wanted > extent for extent, wanted in zip(image.shape[1:], patch, strict=True)):
                raise DataError(
                    f"{name}: expected at least the patch's {tuple(patch)} voxels, found {tuple(image.shape[1:])}; "
                    "train on smaller patches or leave the crop out"
                )


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


def _read(file: Path, config: DataConfig, multiple: int) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Image as float16 in [0, 1], label map as uint8, both (1, x, y, z), and the voxel size."""
    beside = file.with_name(file.name[: -len(_CT)] + _SEG)
    if not beside.exists():
        raise DataError(f"{beside}: missing; each crop needs its label map beside it")
    keys = ("image", "label")
    load = Compose(
        [
            LoadImaged(keys=keys, image_only=True),
            EnsureChannelFirstd(keys=keys),
            Orientationd(keys=keys, axcodes="RAS", labels=None),
        ]
    )
    try:
        entry = load({"image": file, "label": beside})
    except Exception as error:  # MONAI wraps whatever the reader of a damaged file comes up with
        raise DataError(f"{file} or its label map could not be read: {error.__cause__ or error}") from error
    image, label = entry["image"].as_tensor(), entry["label"].as_tensor()
    if image.dim() != 4 or image.shape[0] != 1 or any(n % multiple for n in image.shape[1:]):
        raise DataError(f"{file}: expected a 3D volume with extents in multiples of {multiple}, found {_by(image)}")
    if label.shape != image.shape:
        raise DataError(f"{beside}: expected the image's shape {_by(image)}, found {_by(label)}")
    if not np.allclose(entry["image"].affine, entry["label"].affine, atol=1e-3):
        raise DataError(f"{beside}: lies elsewhere in space than its image; both need the same affine")
    if not torch.isfinite(image).all():
        raise DataError(f"{file}: expected finite intensities, found NaN or infinity")
    if bool((image <= config.low).all()):
        raise DataError(f"{file}: expected a patient, found nothing above {config.low:g}")
    if not bool(((label >= 0) & (label < 256) & (label == label.round())).all()):
        raise DataError(f"{beside}: expected whole labels from 0 to 255, found {label.min():g} to {label.max():g}")
    scale = ScaleIntensityRange(a_min=config.low, a_max=config.high, b_min=0, b_max=1, clip=True)
    # Without MONAI's metadata, which not every release of Python lets torch read again from a file.
    scaled = torch.as_tensor(scale(image)).as_subclass(Tensor)
    spacing = np.linalg.norm(np.asarray(entry["image"].affine)[:3, :3], axis=0)
    return scaled.half(), label.to(torch.uint8), tuple(round(float(v), 6) for v in spacing)


def _by(array: Tensor) -> str:
    return " x ".join(str(n) for n in array.shape[1:])


def _shifted(array: Tensor, shift: Sequence[int]) -> Tensor:
    for axis, by in enumerate(shift, start=1):
        if by:
            index = torch.arange(array.shape[axis]).add(by).clamp(0, array.shape[axis] - 1)
            array = array.index_select(axis, index)
    return array


def _patch(image: Tensor, size: Sequence[int], random: torch.Generator) -> Tensor:
    """A patch at a random place."""
    slices = [slice(None)]
    for extent, wanted in zip(image.shape[1:], size, strict=True):
        start = int(torch.randint(0, extent - wanted + 1, (), generator=random))
        slices.append(slice(start, start + wanted))
    return image[tuple(slices)]
