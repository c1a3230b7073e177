"""A network call, or several, recorded as a CUDA graph: launching a thousand kernels one by one takes longer than some
of them run.

A recording is for one set of shapes. Its inputs and outputs have places of their own; what is put into the inputs is
used by the next replay. On other devices than CUDA the function is called as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Function = Callable[[Tensors], Tensor]

_KEPT = 2  # recordings: each holds the memory of its activations
_WARMING = 2  # calls in front of a recording, in which libraries choose algorithms and make workspaces


class Recording:
    """A function with inputs that stay where they are."""

    def __init__(self, function: Function, inputs: Mapping[str, Tensor]) -> None:
        self._function = function
        self.inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None
        if any(tensor.is_cuda for tensor in self.inputs.values()):
            self._record()

    def run(self) -> Tensor:
        """The result of what the inputs are now, valid until the next run."""
        if self._graph is None or self._output is None:
            return self._function(self.inputs)
        self._graph.replay()
        return self._output

    def _record(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARMING):
                self._function(self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._function(self.inputs)
        self._graph = graph


class Recorder:
    """Recordings of one function by shape, the latest few."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._recordings: OrderedDict[object, Recording] = OrderedDict()

    def of(self, inputs: Mapping[str, Tensor]) -> Recording:
        """The recording for tensors like these, with their values put in."""
        key = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(inputs.items()))
        recording = self._recordings.pop(key, None)
        if recording is None:
            while len(self._recordings) >= _KEPT:
                self._recordings.popitem(last=False)
            recording = Recording(self._function, inputs)
        else:
            for name, tensor in inputs.items():
                recording.inputs[name].copy_(tensor)
        self._recordings[key] = recording
        return recording
