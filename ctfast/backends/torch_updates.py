"""What a solver makes of the network's answers, on the device that they are on.

``updates`` gives the kernel of csrc/cuda, which goes over the latents once for each call, where it is to be had; and
torch operations otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from .. import cuda

if TYPE_CHECKING:
    from .._native import SolverCall


class Updates(Protocol):
    """A run of a solver, which has come to ``y``."""

    y: Tensor

    def __call__(self, call: SolverCall, answer: Tensor) -> None:
        """Go on by one network call's answer: (rows, channels, x, y, z), the second row being the unguided one."""


def updates(calls: Sequence[SolverCall], noise: Tensor, guidance: float) -> Updates:
    """The calls' updates, from ``noise`` on, which stays as it is."""
    return KernelUpdates(calls, noise, guidance) if cuda.serves(noise) else TorchUpdates(noise, guidance)


def stream_of(tensor: Tensor) -> int:
    """The stream that work on a tensor goes into, as ctfast.cuda wants it."""
    return int(torch.cuda.current_stream(tensor.device).cuda_stream) if tensor.is_cuda else 0


class TorchUpdates:
    """By torch operations, in float32."""

    def __init__(self, noise: Tensor, guidance: float) -> None:
        self.y = self._x = noise
        self._before = self._older = torch.zeros((), device=noise.device)
        self._guidance = guidance

    def __call__(self, call: SolverCall, answer: Tensor) -> None:
        """See Updates."""
        velocity = answer[0] if self._guidance == 0 else answer[1] + self._guidance * (answer[0] - answer[1])
        newest = call.velocity * velocity if call.point == 0 else call.point * self.y + call.velocity * velocity
        self._x = _mixed(call.keep, self._x, call.mix, (newest, self._before, self._older))
        self.y = _mixed(call.stay, self._x, call.lead, (newest, self._before))
        self._older, self._before = self._before, newest


class KernelUpdates:
    """By the kernel of csrc/cuda: as csrc/core/solver.cc, bit for bit where the velocities are."""

    def __init__(self, calls: Sequence[SolverCall], noise: Tensor, guidance: float) -> None:
        self.y = noise.clone(memory_format=torch.contiguous_format)
        ahead = any(call.stay != 1 or any(call.lead) for call in calls)
        self._x = self.y.clone() if ahead else self.y
        self._latest = [torch.zeros_like(self.y) for _ in range(_depth(calls))]
        self._wide = ahead or any(call.point != 0 or call.keep != 1 or any(call.mix[1:]) for call in calls)
        self._guidance = guidance

    def __call__(self, call: SolverCall, answer: Tensor) -> None:
        """See Updates."""
        self._latest = [*self._latest[-1:], *self._latest[:-1]]
        rows = answer.contiguous()
        cuda.solver_update(
            call,
            self._x,
            self.y,
            rows[0],
            None if self._guidance == 0 else rows[1],
            guidance=self._guidance,
            newest=self._latest[0] if self._latest else None,
            before=self._latest[1:],
            wide=self._wide,
            stream=stream_of(self.y),
        )


def _depth(calls: Sequence[SolverCall]) -> int:
    """How many predictions have to be kept: none, where no call looks back."""
    if any(call.mix[2] != 0 for call in calls):
        return 3
    return 2 if any(call.mix[1] != 0 or call.lead[1] != 0 for call in calls) else 0


def _mixed(keep: float, base: Tensor, weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """keep * base + weights . tensors, without what is times 0."""
    result = base if keep == 1 else keep * base
    for weight, tensor in zip(weights, tensors, strict=True):
        if weight != 0:
            result = result + weight * tensor
    return result
