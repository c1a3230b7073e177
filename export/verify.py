"""Whether a plan computes what its checkpoints compute: every network, run by the plan's own runtime, against torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctfast import _native
from ctfast.errors import PlanError, RequestError
from ctfast.export.sources import Model, Weights, resolve
from ctfast.export.wrappers import GRAPHS, Graph, graphs
from ctfast.networks.variants import VARIANTS
from ctfast.observer import Progress, observer_of, report
from ctfast.plan import Plan
from ctfast.plan_weights import state_dict

#: Largest relative L2 error of a network in fp32 against torch with the same weights. Ten times what is promised of
#: each call, since rounding errors grow with the weights; a wrong graph is off by far more.
LIMIT = 1e-4

#: The same of a network in int8 against torch with the checkpoint's weights: rounding is most of it, and a wrong
#: checkpoint is off by about 1.
INT8_LIMIT = 0.2


@dataclass(frozen=True)
class NetworkCheck:
    """One network of a plan against its checkpoint.

    ``graph_error`` is the relative L2 error in fp32 against torch with the weights that the plan holds (the largest
    over outputs), ``weights_error`` against torch with the checkpoint's: it shows what rounding the weights costs.
    ``altered`` names tensors that are neither the checkpoint's values nor those rounded to float16. A network in int8
    has no weights to compare, and both errors are against the checkpoint's.
    """

    network: str
    graph_error: float
    weights_error: float
    altered: tuple[str, ...]
    limit: float = LIMIT

    @property
    def ok(self) -> bool:
        """Whether the network is the checkpoint's."""
        return self.graph_error <= self.limit and not self.altered


def verify_against(
    plan: str | os.PathLike[str],
    weights: Weights,
    variant_or_config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    threads: int = 0,
    observer: Progress | None = None,
) -> tuple[NetworkCheck, ...]:
    """Compare a plan's networks with checkpoints on random inputs, at a small size, in fp32.

    Args:
        plan: Path of the plan.
        weights: Folder or files by role, as for ``build``.
        variant_or_config: As for ``build``; the plan's own variant unless given.
        seed: Of the inputs.
        threads: For the runtime; 0 for all.
        observer: Called as observer(stage, done, total); returning False cancels.

    Raises:
        PlanError: The plan cannot be read, or has no network of these checkpoints.
        CheckpointError: Files are missing or do not fit.
        RequestError: The plan is of no published variant and no description was given.
    """
    opened = Plan.open(plan)
    source = variant_or_config or opened.manifest.variant
    if isinstance(source, str) and source == opened.manifest.variant and source not in VARIANTS:
        raise RequestError(
            f"plan '{opened.name}' is of variant '{source}', which is none of {', '.join(VARIANTS)}; give the "
            "description that it was built from"
        )
    model = resolve(source, weights)
    names = opened.manifest.networks
    roles = [role for role in model.files if all(name in names for name in GRAPHS[role])]
    if not roles:
        raise PlanError(f"plan '{opened.name}' has none of the networks of {model.variant.name}; check the variant")
    total = sum(len(GRAPHS[role]) for role in roles)
    watch = observer_of(observer)
    native = _native.Plan(os.fspath(plan))
    checks: list[NetworkCheck] = []
    for role in roles:
        for graph in _graphs(model, role, controlnet="controlnet" in names):
            report(watch, f"verify {graph.name}", len(checks), total)
            session = _native.OpenVINOSession(native, graph.name, "fp32", threads)
            stored = None if names[graph.name].precision == "int8" else state_dict(opened, graph.name)
            checks.append(compare(graph, session, stored, seed))
    report(watch, "verify", total, total)
    return tuple(checks)


def compare(
    graph: Graph, session: _native.Session, stored: Mapping[str, NDArray[Any]] | None, seed: int = 0
) -> NetworkCheck:
    """Compare one network; ``stored`` are its tensors as the plan has them, and ``graph`` gets these in the end.

    None for a network in int8.
    """
    inputs = graph.example(_size(graph), batch=1, seed=seed)
    result = session.run({port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)})
    found = [np.asarray(result[name], np.float32) for name in graph.outputs]
    with_own = _run(graph, inputs)
    if stored is None:
        error = _error(found, with_own)
        return NetworkCheck(graph.name, error, error, (), INT8_LIMIT)
    altered = tuple(key for key, tensor in graph.state.items() if not _same(tensor, stored.get(key)))
    with torch.no_grad():
        for key, tensor in graph.state.items():
            if key in stored and tuple(tensor.shape) == stored[key].shape:
                tensor.copy_(torch.from_numpy(stored[key]))
    with_stored = _run(graph, inputs)
    return NetworkCheck(graph.name, _error(found, with_stored), _error(found, with_own), altered)


def _graphs(model: Model, role: str, controlnet: bool) -> tuple[Graph, ...]:
    factor = model.scale_factor("mask_denoiser") if role == "mask_autoencoder" else 1.0
    return graphs(role, model.load(role), controlnet=controlnet, scale_factor=factor)


def _size(graph: Graph) -> tuple[int, int, int]:
    """In units of the graph's free axes: enough voxels for the statistics of a norm to mean something."""
    coarsest = max(axis[1] for port in graph.inputs for axis in port.shape if not isinstance(axis, int))
    return (6, 5, 4) if coarsest <= 4 else (2, 1, 2)


def _run(graph: Graph, inputs: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        out = graph.module(*inputs)
    return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]


def _error(found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> float:
    """Largest relative L2 error over outputs; infinite if a shape or a value is not what it should be."""
    errors = []
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(ours).all():
            return float("inf")
        errors.append(float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-30)))
    return max(errors)


def _same(tensor: Tensor, stored: NDArray[Any] | None) -> bool:
    if stored is None or tuple(tensor.shape) != stored.shape:
        return False
    ours = tensor.detach().numpy()
    if np.array_equal(ours, stored):
        return True
    with np.errstate(over="ignore"):
        return np.array_equal(ours.astype(np.float16).astype(np.float32), stored)
