"""ctfast's side of the measurement on a GPU, and the machine's ceilings to hold it against."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Size3 = tuple[int, int, int]

_GIB = 2**30
_COUNTED = 16


class Ours:
    """A plan through the torch backend."""

    def __init__(self, plan: str | None, device: str) -> None:
        import ctfast

        self.device = torch.device(device)
        start = time.perf_counter()
        self.engine: Any = ctfast.load(plan, device=device, backend="torch")
        self.load_seconds = time.perf_counter() - start
        self.manifest: Any = self.engine.manifest
        self.default_size: Size3 = self.manifest.sizes.default
        self.has_controlnet = "controlnet" in self.manifest.networks

    def gpu(self) -> str:
        """What it runs on."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "none (CPU)"

    def run(self, size: Size3, control: bool, steps: int, seed: int, memory: str | None = None) -> dict[str, float]:
        """Seconds of each stage, and the peak of the device's memory in GiB."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        labels = self.manifest.labels
        mask = (
            blocks_of_labels(size, sorted(int(label) for label in labels.names)[:4], labels.body) if control else None
        )
        start = time.perf_counter()
        volume = self.engine.generate(size=size, steps=steps, seed=seed, mask=mask, memory=memory)
        total = time.perf_counter() - start
        stages = {name: seconds for name, seconds in volume.meta["timings"].items() if name != "total"}
        return {**stages, "total": total, "peak_gib": self._peak()}

    def work(self, size: Size3, stages: dict[str, float], steps: int, control: bool) -> dict[str, float]:
        """TFLOP of a step and of the decode, and the rates that the stages' times make of them."""
        latent = [edge // factor for edge, factor in zip(size, self.manifest.latent.compression, strict=True)]
        step = self._step_flop(latent, control) / 1e12
        program = self.manifest.networks["vae_decoder"].program
        decode = 0.0 if program is None else 2 * _program_work(program, latent) / 1e12
        figures = {
            "step_tflop": step,
            "decode_tflop": decode,
            "sample_tflop_per_s": step * steps / stages["sample"],
            "decode_tflop_per_s": decode / stages["decode"],
        }
        return {name: round(value, 3) for name, value in figures.items()}

    def _step_flop(self, latent: list[int], control: bool) -> float:
        """Of the networks of a step, counted on a small latent for what grows with voxels; attention is left out."""
        from torch.utils.flop_counter import FlopCounterMode

        total = 0
        for name in ("denoiser", "controlnet") if control else ("denoiser",):
            graph = self.engine._sessions.get(name, dropped=name == "denoiser").graph
            with FlopCounterMode(display=False) as counter:
                graph.compute({port: self._example(port) for port in graph.inputs})
            counts = counter.get_flop_counts()["Global"]
            total += sum(count for operation, count in counts.items() if "attention" not in str(operation))
        return total * math.prod(latent) / _COUNTED**3

    def _example(self, port: str) -> torch.Tensor:
        """An input of a network for a latent of _COUNTED voxels a side."""
        if port == "condition_embedding":
            labels = np.zeros([_COUNTED * factor for factor in self.manifest.latent.compression], np.uint16)
            sessions = self.engine._sessions
            session = sessions.get("controlnet_condition")
            embedding: torch.Tensor = sessions.backend.on_device.embed(session, labels)
            return embedding
        shapes = {"latent": (1, self.manifest.latent.channels, *[_COUNTED] * 3), "spacing": (1, 3)}
        shapes |= dict.fromkeys(("timestep", "class_label"), (1,))
        kind = torch.int64 if port == "class_label" else torch.float32
        return torch.ones(shapes.get(port, (1, 4)), dtype=kind, device=self.device)

    def _peak(self) -> float:
        return torch.cuda.max_memory_reserved(self.device) / _GIB if self.device.type == "cuda" else 0.0


def blocks_of_labels(size: Size3, labels: list[int], body: int) -> NDArray[np.uint16]:
    """A body with blocks of labels in it."""
    mask = np.zeros(size, np.uint16)
    x, y, z = (edge // 8 for edge in size)
    mask[x : 7 * x, y : 7 * y] = body
    for index, label in enumerate(labels):
        mask[(1 + index) * x : (2 + index) * x, y : 6 * y, z : 7 * z] = label
    return mask


def ceilings(device: str) -> dict[str, float]:
    """What the machine does at best here: TFLOP/s of a large bf16 matrix product, TB/s of a large copy."""
    edge, count = (8192, 2**32) if device != "cpu" else (1024, 2**26)
    a, b = (torch.randn(edge, edge, device=device).bfloat16() for _ in range(2))
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _seconds(device, lambda: torch.mm(a, b))
    copy = _seconds(device, lambda: target.copy_(source))
    rates = {"matmul_tflop_per_s": 2 * edge**3 / product / 1e12, "copy_tb_per_s": 2 * count / copy / 1e12}
    return {name: float(f"{rate:.3g}") for name, rate in rates.items()}


def most_expensive(ours: Ours, size: Size3, steps: int) -> str:
    """The ten kernels that a volume spends most of its time in, with times."""
    from torch.profiler import ProfilerActivity, profile

    cuda = ours.device.type == "cuda"
    ours.run(size, ours.has_controlnet, steps, 0)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        ours.run(size, ours.has_controlnet, steps, 1)
    table: str = found.key_averages().table(sort_by=f"self_{'cuda' if cuda else 'cpu'}_time_total", row_limit=10)
    return table


def _program_work(program: Any, latent: list[int]) -> float:
    """Multiply-adds of a program's stages."""
    voxels = {program.input: float(math.prod(latent))}
    total = 0.0
    for stage in program.stages:
        grown = voxels[stage.reads] * math.prod(stage.up) / math.prod(stage.down)
        voxels[stage.writes] = grown
        total += stage.multiply_adds * grown
    return total


def _seconds(device: str, work: Any, rounds: int = 10) -> float:
    """Mean of several calls, by events on a GPU."""
    for _ in range(3):
        work()
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        return (time.perf_counter() - start) / rounds
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(rounds):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / rounds
