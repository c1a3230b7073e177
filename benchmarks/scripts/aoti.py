"""AOTInductor beside the torch backend: one official network with random weights, compiled for one size.

    python benchmarks/scripts/aoti.py --network denoiser --latent 16 --append benchmarks/results/aoti.jsonl
    python benchmarks/scripts/aoti.py --network vae_decoder --latent 16 --precision fp32

Inductor compiles the graph that torch.export gives to a shared library with the weights inside; what that takes, in
seconds and bytes, is in the row. The plan of the other side is made on first use and kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import records
import torch
from ours import PLANS, prepare
from sides import limit_threads, run_apart
from torch import Tensor, nn

ROLES = {"denoiser": "denoiser", "vae_decoder": "autoencoder"}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class _Network(nn.Module):
    """A graph's module in a precision, behind inputs and one output in float32 as backends have them."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        moved: Any = module.to(dtype)
        self.module: Any = moved.to(memory_format=torch.channels_last_3d) if dtype == torch.bfloat16 else moved
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> Tensor:
        given = (tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
        result: Tensor = self.module(*given)
        return result.float()


def main() -> int:
    """Compile, time in turns, print, and keep a row if asked to."""
    options = _options()
    limit_threads(options.threads)
    torch.set_num_threads(options.threads)
    load_before = records.load()
    models = run_apart(prepare, options.cache, 1, [options.precision])
    network, inputs, names = _exported(models, options.network, options.latent, DTYPES[options.precision])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        started = time.perf_counter()
        program = torch.export.export(network, inputs)
        path = Path(folder) / "network.pt2"
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        once = {"compile_s": round(time.perf_counter() - started, 1), "package_bytes": path.stat().st_size}
        package: Any = torch._inductor.aoti_load_package(str(path))
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        sides: dict[str, Callable[[], Any]] = {"aoti": partial(package, *inputs), "eager": partial(network, *inputs)}
        for backend in ("torch", "openvino"):
            session = _session(models.parent / PLANS[options.precision], backend, options)
            sides[backend] = partial(session.run, given)
        seconds = _in_turns(sides, options.rounds)
    ratio = {
        name: records.summary([theirs / ours for theirs, ours in zip(seconds["torch"], own, strict=True)])
        for name, own in seconds.items()
    }
    settings = {key: getattr(options, key) for key in ("network", "latent", "precision", "rounds", "threads")}
    summaries = {name: records.summary(own) for name, own in seconds.items()}
    figures = {"seconds": summaries, "torch_over": ratio, **once}
    for name, own in summaries.items():
        print(f"{name:10} {own['median']:.3f} s   torch's time over its: {ratio[name]['median']:.2f}", file=sys.stderr)
    records.give(options, records.row("aoti", settings, figures, load_before))
    return 0


def _exported(
    models: Path, name: str, latent: int, dtype: torch.dtype
) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...]]:
    """The network with its weights, one example of its inputs, and their names."""
    from ctfast.export.sources import resolve
    from ctfast.export.wrappers import graphs

    role = ROLES[name]
    graph = graphs(role, resolve("rflow-ct", models, None).load(role))[0]
    largest = max(axis[1] for axis in graph.inputs[0].shape[2:] if not isinstance(axis, int))
    inputs = graph.example((latent // largest,) * 3, batch=1)
    return _Network(graph.module, dtype).eval(), inputs, tuple(port.name for port in graph.inputs)


def _session(path: Path, backend: str, options: argparse.Namespace) -> Any:
    from ctfast import _native
    from ctfast.backends import Source, open_backend
    from ctfast.plan import Plan

    manifest = Plan.open(path).manifest
    source = Source(_native.Plan(path), manifest, "cpu", options.precision, options.threads)
    dropped = manifest.networks[options.network].drop_if_unused
    return open_backend(backend, source).open(options.network, dropped)


def _in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=tuple(ROLES), default="denoiser")
    parser.add_argument("--latent", type=int, default=16, help="extent, a multiple of 8 (default: 16)")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every side (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="for each side (default: 2)")
    cache = records.ROOT / "build" / "benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="keeps weights and plans (default: %(default)s)")
    records.add_output_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
