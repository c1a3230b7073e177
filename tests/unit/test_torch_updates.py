"""Where the torch backend uses the kernels of csrc/cuda: on this computer, by the library compiled for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from support import cuda_library  # noqa: E402

from ctfast import _native, cuda, device_arrays  # noqa: E402
from ctfast.backends import torch_updates  # noqa: E402
from ctfast.backends.torch_recorder import Recorder  # noqa: E402
from ctfast.backends.torch_rows import Intensities  # noqa: E402
from ctfast.backends.torch_sampler import integrate  # noqa: E402
from ctfast.backends.torch_updates import KernelUpdates, TorchUpdates, updates  # noqa: E402
from ctfast.errors import RequestError  # noqa: E402

SOLVERS = ("euler", "heun", "ab2", "dpmpp_2m", "unipc")
T, DT = np.array([1000.0, 700.0, 400.0, 150.0]), np.array([0.3, 0.3, 0.25, 0.15])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda_library.build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def kernels(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The library takes this computer's tensors; the names of what is called in it."""
    called = []
    call = cuda._call

    def noted(name: str, *arguments: Any) -> None:
        called.append(name)
        call(name, *arguments)

    monkeypatch.setattr(cuda, "PATH", path)
    monkeypatch.setattr(cuda, "serves", lambda tensor: cuda.available())
    monkeypatch.setattr(cuda, "_call", noted)
    monkeypatch.setattr(device_arrays, "CUDA_DEVICES", {1})
    cuda.library.cache_clear()
    yield called
    cuda.library.cache_clear()


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def numbers(*shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(4).standard_normal(shape).astype(np.float32))


def run(solver: str, noise: Any, guidance: float, rows: int) -> Any:
    """A flow whose answers are channels last, as networks give them."""

    def answer(inputs: dict[str, Any]) -> Any:
        latent = inputs["latent"]
        scale = torch.tensor([0.5, 0.25][:rows]).reshape(rows, 1, 1, 1, 1)
        return (latent * scale).contiguous(memory_format=torch.channels_last_3d)

    inputs = {"latent": noise.expand(rows, *noise.shape), "timestep": torch.zeros(rows)}
    recording = Recorder(answer).of(inputs)
    return integrate(recording, _native.solver_calls(solver, T, DT), len(T), noise, guidance, lambda *_: True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_kernel_is_the_runtime_s_solver(solver: str, kernels: list[str]) -> None:
    noise = numbers(3, 4, 5, 2)
    before = noise.clone()
    found = run(solver, noise, 0, 1)
    wanted = _native.integrate(solver, T, DT, lambda x, t: np.float32(0.5) * x, noise.numpy())
    np.testing.assert_array_equal(found.numpy(), wanted)
    assert torch.equal(noise, before)
    assert kernels == ["solver_update"] * len(_native.solver_calls(solver, T, DT))


@pytest.mark.parametrize("solver", SOLVERS)
def test_guidance_is_that_of_torch_operations(solver: str, kernels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    noise = numbers(3, 4, 5, 2)
    found = run(solver, noise, 1.5, 2)
    assert kernels
    monkeypatch.setattr(cuda, "serves", lambda tensor: False)
    np.testing.assert_allclose(found.numpy(), run(solver, noise, 1.5, 2).numpy(), atol=3e-6)


def test_tensors_elsewhere_are_left_to_torch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "PATH", path)
    calls = _native.solver_calls("unipc", T, DT)
    assert isinstance(updates(calls, numbers(1, 2, 3, 4), 0), TorchUpdates)
    monkeypatch.setattr(cuda, "serves", lambda tensor: True)
    assert isinstance(updates(calls, numbers(1, 2, 3, 4), 0), KernelUpdates)
    assert torch_updates.stream_of(numbers(1)) == 0


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_intensities(labelled: bool, dtype: Any, kernels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    image = (numbers(6, 5, 7, 1) * 1500).to(dtype)
    labels = (np.arange(6 * 5 * 7).reshape(6, 5, 7) % 3).astype(np.uint16) if labelled else None
    limits = (1.0, 10.0, -1000.0, math.inf, -1024)
    by_kernel, by_torch = Intensities(*limits, labels), Intensities(*limits, labels)
    found = [by_kernel(first, image[first : first + 3]) for first in (0, 3)]
    by_kernel.check()
    assert kernels == ["intensities"] * 2
    monkeypatch.setattr(cuda, "serves", lambda tensor: False)
    wanted = [by_torch(first, image[first : first + 3].float()) for first in (0, 3)]
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_voxels_that_are_not_finite(kernels: list[str]) -> None:
    image = numbers(2, 3, 4, 1)
    image[0, 0, :2] = math.nan
    convert = Intensities(1.0, 0.0, -math.inf, math.inf, 0)
    convert(0, image)
    convert(2, image)
    with pytest.raises(RequestError, match="found 4 of 48 voxels"):
        convert.check()
