"""From noise to a latent without leaving the device: a rectified flow's solver loop around recorded network calls.

Does what csrc/core/sampler.cc does for flows, in float32 and in the order of the device's stream. The solvers' steps
are the runtime's own (``_native.solver_calls``), and so is the noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DeviceError, PlanError
from ..observer import Observer, report
from .torch_recorder import Recorder, Recording, Tensors
from .torch_updates import updates

if TYPE_CHECKING:
    from .._native import SolverCall
    from .torch_graph import Graph

# The networks are given 100 times the spacing in mm, and 100 times the one-hot regions.
_CONDITION_SCALE = 100.0
# Steps that may be queued before the first of them is done: progress and cancelling are that far behind.
_AHEAD = 2


def predictor(denoiser: Graph, controlnet: Graph | None) -> Recorder:
    """The network call of a step: ``latent``, ``timestep`` and conditions by name in, the prediction out.

    The ControlNet's residuals stay where it puts them.
    """

    def predict(inputs: Tensors) -> Tensor:
        given = {name: inputs[name] for name in denoiser.inputs if name in inputs}
        if controlnet is not None:
            residuals = controlnet.compute({name: inputs[name] for name in controlnet.inputs})
            given |= {name: residuals[name] for name in denoiser.inputs if name in residuals}
        return denoiser.compute(given)["prediction"].float()

    return Recorder(predict)


def conditions(
    names: Sequence[str],
    rows: int,
    device: torch.device,
    *,
    class_label: int | None,
    vectors: Mapping[str, Sequence[float] | None],
    embedding: Sequence[Tensor] | None,
) -> Tensors:
    """The inputs that stay the same over the steps, of those that networks take.

    Args:
        names: What they take.
        rows: 1, or 2 where the prediction is guided: the second row is the unguided half's.
        device: Where to.
        class_label: The modality; the unguided half has 0.
        vectors: Spacing in mm and regions, by name.
        embedding: The ControlNet's embeddings of the mask; a second one is the unguided half's.

    Raises:
        PlanError: A network wants what the request does not have.
    """
    found: Tensors = {}
    for name in names:
        if name in ("latent", "timestep") or name.startswith("down_residual_") or name == "middle_residual":
            continue
        if name == "class_label" and class_label is not None:
            found[name] = torch.tensor([class_label, 0][:rows], dtype=torch.int64, device=device)
        elif name == "condition_embedding" and embedding:
            both = torch.cat(list(embedding)[:rows])
            found[name] = both.expand(rows, *both.shape[1:]).contiguous()
        elif vectors.get(name) is not None:
            values = torch.tensor(vectors[name], dtype=torch.float32, device=device) * _CONDITION_SCALE
            found[name] = values.repeat(rows, 1)
        else:
            raise PlanError(f"the network wants an input '{name}', and the request has none")
    return found


def integrate(
    recording: Recording,
    calls: Sequence[SolverCall],
    steps: int,
    noise: Tensor,
    guidance: float,
    observer: Observer,
) -> Tensor:
    """The data of ``noise`` (channels, x, y, z); CancelledError if the observer stops it."""
    latent, timestep = recording.inputs["latent"], recording.inputs["timestep"]
    state = updates(calls, noise, guidance)
    pace = _Pace(noise.device)
    reported = -1
    for call in calls:
        if call.step != reported:
            reported = call.step
            pace.wait()
            report(observer, "sample", reported, steps)
        latent.copy_(state.y.expand(latent.shape))
        timestep.fill_(call.t)
        state(call, recording.run())
        pace.note()
    report(observer, "sample", steps, steps)
    return state.y


def finished(latent: Tensor) -> NDArray[np.float32]:
    """A latent on this computer; DeviceError if it is not finite."""
    bad = int((~torch.isfinite(latent)).sum())
    if bad:
        raise DeviceError(
            f"the sampled latent holds {bad} of {latent.numel()} values that are not finite: the network overflowed. "
            "Try precision fp32, or less guidance; if it stays, the plan's weights are damaged (ctfast verify)."
        )
    array: NDArray[np.float32] = latent.cpu().numpy()
    return array


class _Pace:
    """Keeps this computer a few steps ahead of the device, not the whole loop."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: deque[Any] = deque()

    def note(self) -> None:
        if self._cuda:
            event = torch.cuda.Event()
            event.record()
            self._events.append(event)

    def wait(self) -> None:
        while len(self._events) >= _AHEAD:
            self._events.popleft().synchronize()
