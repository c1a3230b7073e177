"""What a build would do and take, found out by loading the networks and nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from ctfast.export.options import Options
from ctfast.export.quantize import NETWORKS
from ctfast.export.sources import Model
from ctfast.export.wrappers import graphs
from ctfast.observer import Observer, report

#: Measured while building the official architectures on one core; rounded up.
SECONDS_PER_NETWORK = 15
SECONDS_PER_MILLION = 0.6

#: The same of calibrating int8 and quantising, for volumes of 96 x 96 x 64 voxels; larger ones take longer.
SECONDS_PER_QUANTISED_MILLION = 2.5

#: The most memory that the same builds took: torch and OpenVINO, and so many times the largest network in float32.
BASE_BYTES = 700 << 20
COPIES = 5.5


@dataclass(frozen=True)
class NetworkOutline:
    """One network of the plan: ``weight_bytes`` as they are stored, ``kept`` if an earlier build exported it."""

    name: str
    parameters: int
    weights_dtype: str
    kept: bool

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in the plan."""
        return self.parameters * {"int8": 1, "float16": 2, "float32": 4}[self.weights_dtype]


@dataclass(frozen=True)
class Outline:
    """A build in figures, all of them estimates."""

    networks: tuple[NetworkOutline, ...]

    @property
    def plan_bytes(self) -> int:
        """Size of the plan; graphs and tables are small beside the weights."""
        return sum(network.weight_bytes for network in self.networks)

    @property
    def disk_bytes(self) -> int:
        """What the build needs beside the plan's place at most: all networks, the plan, and one network as ONNX."""
        exported = sum(max(network.weight_bytes, 2 * network.parameters) for network in self.networks)
        return 2 * exported + 4 * self._largest(exported=True)

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the build."""
        largest = self._largest(exported=True)
        return BASE_BYTES + int(4 * (COPIES * largest if largest else self._largest(exported=False)))

    @property
    def seconds(self) -> float:
        """Time on one core."""
        exported = [network.parameters for network in self.networks if not network.kept]
        quantised = [network.parameters for network in self.networks if network.weights_dtype == "int8"]
        seconds = SECONDS_PER_NETWORK * len(exported) + SECONDS_PER_MILLION * sum(exported) / 1e6
        return seconds + SECONDS_PER_QUANTISED_MILLION * sum(quantised) / 1e6

    def _largest(self, exported: bool) -> int:
        return max((each.parameters for each in self.networks if not (exported and each.kept)), default=0)


def outline(model: Model, options: Options, watch: Observer) -> Outline:
    """Load every network once, and tell what a build would make of it.

    CheckpointError: a file does not fit its network. CancelledError: the observer asked to stop.
    """
    found: list[NetworkOutline] = []
    mask_factor = model.scale_factor("mask_denoiser") if "mask_denoiser" in model.files else 1.0
    for index, role in enumerate(model.files):
        report(watch, f"check {role}", index, len(model.files))
        module = model.load(role)
        for graph in graphs(role, module, controlnet="controlnet" in model.files, scale_factor=mask_factor):
            parameters = sum(tensor.numel() for tensor in graph.state.values())
            dtype = "float16" if options.half(graph) else "float32"
            if options.precision == "int8" and graph.name in NETWORKS:
                dtype = "int8"
            found.append(NetworkOutline(graph.name, parameters, dtype, options.kept(graph, module.config)))
    report(watch, "check", len(model.files), len(model.files))
    return Outline(tuple(found))
