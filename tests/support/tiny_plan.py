"""A whole plan of tiny random networks in the head-and-neck vocabulary: generation takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from ctfast import plan as plan_file

from . import tiny_networks as nets

SIZE = (32, 32, 16)
SPACING = (4.0, 4.0, 2.5)
LATENT = (4, 8, 8, 4)
BODY = 200
NAMES = {
    **{"1": "Brainstem", "2": "SpinalCord", "3": "RightParotid", "4": "LeftParotid", "5": "Esophagus"},
    **{"6": "Larynx", "7": "Mandible", "8": "PTV56", "9": "PTV63", "10": "PTV70", "200": "Body"},
}

MANIFEST: dict[str, Any] = {
    "format": 1,
    "name": "tiny",
    "family": "maisi-v2",
    "variant": "headneck",
    "revision": "1",
    "modality": {"default": 1, "names": {"ct": 1, "ct_contrast": 3}},
    "latent": {"channels": 4, "compression": [4, 4, 4], "scale_factor": 1.25},
    "intensity": {"kind": "ct", "unit": "HU", "scale": 2000, "offset": -1000, "low": -1000, "high": 1000, "air": -1000},
    "sizes": {
        "default": list(SIZE),
        "rule": {"legal": [], "xy": [32, 48], "z": [], "multiple": 16},
        "spacing": {"default": list(SPACING), "low": [2, 2, 1], "high": [6, 6, 5]},
        "fov": {"low": [100, 100, 30], "high": [200, 200, 100]},
    },
    "schedule": {
        "kind": "rflow",
        "train_steps": 1000,
        "base_voxels": 32,
        "transform": True,
        "steps": 4,
        "solver": "euler",
        "time_grid": "monai",
    },
    "conditioning": {"spacing": True, "region": False, "class_label": True, "controlnet": True},
    "labels": {"names": NAMES, "bits": 8, "body": BODY, "tumour_replacement": {"10": [BODY]}},
    "target": {},
    "memory": [{"size": list(SIZE), "peak_bytes": 1000000}],
    "weights": [{"network": "denoiser", "source": "random", "sha256": "0" * 64, "licence": "Apache-2.0"}],
    "licence": {"class": "open", "text": "Apache-2.0"},
    "build": {"command": "tests", "ctfast": "0.1.0", "date": "2026-11-21", "versions": {}},
}


def condition_embedding(seed: int = 5) -> ov.Model:
    """Label bits to an embedding of the latent's extent."""
    rng = np.random.default_rng(seed)
    bits = nets._input("condition", [-1, 8, -1, -1, -1])
    pooled = op.avg_pool(nets._conv(bits, rng, 8, nets.WIDTH), [4] * 3, [0] * 3, [0] * 3, [4] * 3, False)
    return ov.Model([nets._named(pooled, "condition_embedding")], [bits], "controlnet_condition")


NETWORKS = {
    "denoiser": nets.denoiser,
    "controlnet": nets.controlnet,
    "controlnet_condition": condition_embedding,
    "vae_decoder": nets.decoder,
    "vae_encoder": nets.encoder,
}


def plain_network(name: str, make: Callable[[], ov.Model]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest entry and sections of a network without a program."""
    model = make()
    inputs = [port.any_name for port in model.inputs]
    entry = {
        "backend": "openvino",
        "precision": "fp32",
        "weights_dtype": "float32",
        "inputs": inputs,
        "outputs": [port.any_name for port in model.outputs],
        "drop_if_unused": [each for each in inputs if "residual" in each],
        "tensors": {},
    }
    xml, weights = nets.to_ir(model)
    return entry, {f"{name}/model.xml": xml.encode(), f"{name}/model.bin": weights}


def write(path: Path, leave_out: tuple[str, ...] = (), **changes: Any) -> Path:
    """Write the plan; ``changes`` replace top-level keys of the manifest, ``leave_out`` names networks to omit."""
    manifest = deepcopy(MANIFEST) | changes
    sections: dict[str, bytes] = {}
    manifest["networks"] = {}
    for name, make in NETWORKS.items():
        if name in leave_out:
            continue
        manifest["networks"][name], own = plain_network(name, make)
        sections |= own
    plan_file.write(path, manifest, sections)
    return path
