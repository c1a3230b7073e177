"""Features of volumes on disk: made once per content, preset and network, and read back one volume at a time."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...io.atomic import OutputFiles, sha256_of
from ...io.files import make_folder
from ...io.npz import write_npz
from ..presets import Preset
from ..volumes import Item, Scan, load_scan
from .networks import FeatureNetwork
from .slices import prepared, stack_names, stacks, whole

Features = Mapping[str, NDArray[np.float32]]
WHOLE = "whole"
# Part of every key; counts up when what networks are shown changes.
_VERSION = 1


class FeatureCache:
    """A folder of features, safe to share and to stop at any moment: a file is whole or it is not there."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which is made if it is not there. OutputError if that is impossible."""
        make_folder(folder)
        self._folder = folder
        self.made = 0

    def ensure(self, item: Item, network: FeatureNetwork, preset: Preset, scan: Scan | None = None) -> Path:
        """The file with a volume's features, made now unless it is there; ``scan``: the volume if it is read already.

        RequestError if the volume cannot be read, OutputError if the features cannot be written.
        """
        path = self._folder / f"{self._key(item, network, preset)}.npz"
        names = (WHOLE,) if network.dimensions == 3 else stack_names(preset)
        if not _is_whole(path, names, network.width):
            features = features_of(scan or load_scan(item, labels=False), network, preset)
            with OutputFiles() as files:
                files.add(path, lambda file: write_npz(file, features, {}))
            self.made += 1
        return path

    def _key(self, item: Item, network: FeatureNetwork, preset: Preset) -> str:
        shown = "whole" if network.dimensions == 3 else repr(preset)
        content = f"{_VERSION}|{sha256_of(item.image)}|{network.key}|{shown}"
        return hashlib.sha256(content.encode()).hexdigest()


def features_of(scan: Scan, network: FeatureNetwork, preset: Preset) -> dict[str, NDArray[np.float32]]:
    """A volume's features: (slices, width) per window and plane, or one row under "whole" for a 3-D network."""
    if network.dimensions == 3:
        return {WHOLE: network(whole(scan)).numpy()}
    return {name: network(stack).numpy() for name, stack in stacks(prepared(scan, preset), preset)}


def read_features(paths: list[Path], name: str) -> Iterator[NDArray[np.float64]]:
    """The features of a stack, volume by volume, in float64."""
    for path in paths:
        with np.load(path) as file:
            yield file[name].astype(np.float64)


def _is_whole(path: Path, names: tuple[str, ...], width: int) -> bool:
    """Whether a file can be read and has what is wanted; one spoilt by a disk is made again."""
    try:
        with np.load(path) as file:
            return all(file[name].ndim == 2 and file[name].shape[1] == width for name in names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
