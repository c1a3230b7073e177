"""Prepared crops of ellipsoids, a configuration of tiny networks, and a plan of them: training takes seconds."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from torch import Tensor

from ctfast import plan as plan_file
from ctfast.train.config import TrainConfig, from_dict

from . import tiny_plan

SIZE = (32, 32, 16)
SPACING = (4.0, 4.0, 3.0)

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "data": {"mirror_labels": [[3, 4]]},
    "vae": {
        "network": {"latent_channels": 2, "channels": [8, 16], "blocks": [1, 1], "groups": 4, "patch": 2},
        "optimisation": {"steps": 6, "rate": 1e-3, "warmup": 1, "log_every": 2, "save_every": 3},
        "phases": [{"steps": 3, "patch": [8, 8, 8]}, {"steps": 3}],
        "kl": 1e-6,
    },
    "flow": {
        "network": {
            "in_channels": 2,
            "out_channels": 2,
            "channels": [8, 16],
            "head_channels": [0, 8],
            "blocks": 1,
            "groups": 4,
            "class_embeddings": 4,
        },
        "optimisation": {"steps": 6, "batch": 2, "rate": 1e-3, "warmup": 1, "log_every": 2, "save_every": 3},
        "sample_method": "logit-normal",
        "versions": 3,
    },
    "controlnet": {
        "condition_channels": [4, 4, 8],
        "optimisation": {"steps": 6, "batch": 2, "rate": 1e-3, "warmup": 1, "log_every": 2, "save_every": 3},
        "roi_labels": [7],
    },
}


def config(root: Path, **changes: Mapping[str, Any]) -> TrainConfig:
    """The tiny configuration on the crops of ``root``; ``changes`` are merged in, task by task."""
    given = copy.deepcopy(CONFIG)
    given["data"]["root"] = str(root)
    for section, values in changes.items():
        merge(given[section], values)
    return from_dict(given)


def merge(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Replace the values of nested dictionaries."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def patient(seed: int, size: Sequence[int] = SIZE) -> tuple[Any, Any]:
    """Random ellipsoids: a body of water with bone (7), lung (3) and something denser (4) in it, as HU and labels."""
    rng = np.random.default_rng(seed)
    extent = np.asarray(size)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    hu, labels = np.full(size, -1000, np.int16), np.zeros(size, np.uint8)
    for value, label, radius in ((0, 200, 0.42), (700, 7, 0.12), (-300, 3, 0.12), (300, 4, 0.12)):
        centre = extent / 2 + (0 if label == 200 else 1) * rng.uniform(-0.15, 0.15, 3) * extent
        where = (((grid - centre) / (radius * extent)) ** 2).sum(-1) < 1
        hu[where], labels[where] = value, label
    return hu, labels


def save(array: Any, path: Path, spacing: Sequence[float] = SPACING) -> None:
    """Write a crop or its label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


def prepared(root: Path, train: int = 3, val: int = 1, sizes: Sequence[Sequence[int]] = (SIZE,)) -> Path:
    """A folder as 'ctfast data prepare' leaves it; patients take the sizes in turn."""
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            hu, labels = patient(index + 100 * (split == "val"), sizes[index % len(sizes)])
            save(hu, root / split / f"p{index}_ct.nii.gz")
            save(labels, root / split / f"p{index}_seg.nii.gz")
    return root


def plan(path: Path, networks: Mapping[str, Mapping[str, Tensor]], scale_factor: float = 1.0) -> Path:
    """A plan whose networks have these weights (as float32) and no graphs worth the name."""
    manifest = copy.deepcopy(tiny_plan.MANIFEST)
    manifest["latent"] = {"channels": 2, "compression": [4, 4, 4], "scale_factor": scale_factor}
    manifest["conditioning"]["controlnet"] = "controlnet" in networks
    manifest["networks"], sections = {}, {}
    for name, state in networks.items():
        tensors, weights = {}, b""
        for key, value in state.items():
            array = value.detach().numpy().astype("<f4", order="C")
            tensors[key] = {"offset": len(weights), "shape": list(array.shape), "dtype": "float32", "transposed": False}
            weights += array.tobytes()
        manifest["networks"][name] = {
            "backend": "openvino",
            "precision": "fp32",
            "weights_dtype": "float32",
            "inputs": ["latent"],
            "outputs": ["out"],
            "drop_if_unused": [],
            "tensors": tensors,
        }
        sections |= {f"{name}/model.xml": b"<net/>", f"{name}/model.bin": weights}
    plan_file.write(path, manifest, sections)
    return path
