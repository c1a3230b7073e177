"""What the torch backend does with tensors that stay on their device: sampling, and programs of stages."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _native
from ..observer import Observer
from .torch_graph import Graph
from .torch_memory import DTYPES, TorchMemory
from .torch_rows import HostSink, Intensities, Take
from .torch_sampler import conditions, finished, integrate, predictor

_CTYPES: Mapping[str, Any] = {"f32": ctypes.c_float, "i64": ctypes.c_int64, "u8": ctypes.c_uint8}
# What of a stage lies in the walker's memory, and not on this computer.
_ON_DEVICE = ("x", "residual")


class GraphSession(_native.CallableSession):
    """A network as the runtime calls it; loops on the device take its graph instead."""

    def __init__(self, graph: Graph, run: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[np.float32]]]) -> None:
        super().__init__(list(graph.inputs), list(graph.outputs), run)
        self.graph = graph
        # Recordings by the ControlNet that they call, if any: they go when this session does.
        self.recorders: dict[int | None, Any] = {}


class TorchDevice:
    """A device on which requests stay from noise to intensities."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device = device
        self._threads = threads
        self.memory = TorchMemory(device)
        #: Whether programs are run in stages even where the whole network would fit: cuDNN takes no tensors of 2^31
        #: elements or more, which slabs are not.
        self.stages_only = device.type == "cuda"

    def free_bytes(self) -> int | None:
        """Memory of the device that can still be had, or None for this computer."""
        if self._device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self._device)
        held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(free + held)

    def workspace(self) -> _native.Workspace:
        """Memory on the device for a program."""
        return _native.Workspace(self.memory)

    def session(self, graph: Graph) -> GraphSession:
        """A network for the runtime, whose tensors are on this computer."""

        def run(given: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            with self._current():
                results = graph.run({name: torch.from_numpy(array) for name, array in given.items()})
                return {name: result.cpu().numpy() for name, result in results.items()}

        return GraphSession(graph, run)

    def stage(self, graph: Graph) -> _native.AddressedSession:
        """A stage of a program that runs in ``workspace``."""

        def run(inputs: dict[str, tuple[str, tuple[int, ...], int]], output: tuple[str, tuple[int, ...], int]) -> None:
            given = {
                name: self.memory.view(*place) if name in _ON_DEVICE else _from_here(*place, self._device)
                for name, place in inputs.items()
            }
            self.memory.view(*output).copy_(graph.compute(given)["y"])

        return _native.AddressedSession(list(graph.inputs), run)

    def embed(self, session: GraphSession, labels: NDArray[np.uint16]) -> Tensor:
        """The ControlNet's embedding of a label map, (1, channels, x, y, z); its first convolution reads the bits."""
        with self._current():
            given = torch.from_numpy(np.ascontiguousarray(labels)).to(self._device)[None]
            return session.graph.compute({"condition": given})["condition_embedding"].float()

    def sample(
        self,
        denoiser: GraphSession,
        controlnet: GraphSession | None,
        *,
        t: NDArray[np.float64],
        dt: NDArray[np.float64],
        solver: str,
        shape: tuple[int, int, int, int],
        seed: int,
        sample: int,
        latents: NDArray[np.float32] | None,
        class_label: int | None,
        spacing: Sequence[float] | None,
        regions: tuple[Sequence[float] | None, Sequence[float] | None],
        embeddings: Sequence[Tensor],
        guidance: float,
        observer: Observer,
    ) -> NDArray[np.float32]:
        """A flow's latent; the arguments are those of ``_native.sample``, with embeddings as ``embed`` gives them."""
        calls = _native.solver_calls(solver, t, dt)
        start = _native.fill_normal(seed, sample, shape) if latents is None else latents
        rows = 1 if guidance == 0 else 2
        with self._current():
            noise = torch.from_numpy(np.ascontiguousarray(start, np.float32)).to(self._device)
            control = None if controlnet is None else controlnet.graph
            names = [*denoiser.graph.inputs, *(() if control is None else control.inputs)]
            inputs = conditions(
                list(dict.fromkeys(names)),
                rows,
                self._device,
                class_label=class_label,
                vectors={"spacing": spacing, "top_region": regions[0], "bottom_region": regions[1]},
                embedding=embeddings,
            )
            inputs["latent"] = noise.expand(rows, *shape)
            inputs["timestep"] = torch.zeros(rows, device=self._device)
            key = None if controlnet is None else id(controlnet)
            if key not in denoiser.recorders:
                denoiser.recorders = {key: predictor(denoiser.graph, control)}
            recording = denoiser.recorders[key].of(inputs)
            return finished(integrate(recording, calls, len(t), noise, guidance, observer))

    def run_program(
        self,
        workspace: _native.Workspace,
        program: _native.Program,
        open_stage: Callable[[str], _native.Session],
        rows: NDArray[np.float32],
        strategy: _native.Strategy,
        *,
        take: Take,
        intensities: Intensities | None,
        element_bytes: int,
        stage: str,
        observer: Observer,
    ) -> None:
        """Run a program on rows (z, y, x, channels); ``take`` gets finished ones, int16 if ``intensities`` is given."""
        sink = HostSink(take, (lambda _, finished: finished) if intensities is None else intensities)
        z, y, x, channels = rows.shape
        with self._current():
            given = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
            address = self.memory.put(given)
            try:
                _native.run_program_in(
                    workspace,
                    program,
                    open_stage,
                    address,
                    (z, y, x, channels),
                    strategy,
                    sink=lambda first, place: sink(first, self.memory.view(*place)),
                    element_bytes=element_bytes,
                    stage=stage,
                    observer=observer,
                )
                sink.flush()
            finally:
                self.memory.release(address)
            if intensities is not None:
                intensities.check()

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Torch set up for this device, in this thread: OpenMP keeps the number of threads by thread."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            if self._device.type == "cuda":
                with torch.cuda.device(self._device):
                    yield
            else:
                yield


def _from_here(dtype: str, shape: tuple[int, ...], address: int, device: torch.device) -> Tensor:
    """A copy on the device of a tensor in this computer's memory."""
    values = np.ctypeslib.as_array((_CTYPES[dtype] * int(np.prod(shape))).from_address(address))
    # The driver has taken its copy when this returns, since the memory is not page-locked.
    here = torch.from_numpy(values).to(DTYPES[dtype]).reshape(shape)
    return here.to(device, non_blocking=True) if device.type == "cuda" else here.clone()
