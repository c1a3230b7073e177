"""What the torch backend keeps on its device (here the CPU): memory by address, the sampling loop, finished rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from support import staged_plan  # noqa: E402

import ctfast  # noqa: E402
from ctfast import _native  # noqa: E402
from ctfast.backends.torch_memory import TorchMemory  # noqa: E402
from ctfast.backends.torch_recorder import Recorder  # noqa: E402
from ctfast.backends.torch_rows import HostSink, Intensities  # noqa: E402
from ctfast.backends.torch_sampler import conditions, finished, integrate  # noqa: E402
from ctfast.errors import CancelledError, DeviceError, MemoryBudgetError, PlanError, RequestError  # noqa: E402

SOLVERS = ("euler", "heun", "ab2", "dpmpp_2m", "unipc")
CPU = torch.device("cpu")


@pytest.fixture
def memory() -> TorchMemory:
    return TorchMemory(CPU)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def numbers(*shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(4).standard_normal(shape).astype(np.float32))


def test_addresses_lead_back_to_tensors(memory: TorchMemory) -> None:
    given = numbers(3, 5)
    places = [memory.put(given), memory.allocate(64), memory.allocate(1000)]
    assert torch.equal(memory.view("f32", (2, 5), places[0] + 20), given[1:])
    memory.view("bf16", (4, 8), places[1]).fill_(1.5)
    assert memory.view("bf16", (2, 8), places[1] + 32).tolist() == [[1.5] * 8] * 2
    memory.release(places[1])
    memory.view("u8", (1000,), places[2]).fill_(7)
    assert torch.equal(memory.view("f32", (3, 5), places[0]), given)


def test_what_the_device_has_not(memory: TorchMemory) -> None:
    with pytest.raises(MemoryBudgetError, match=r"could not allocate 4611686018427387904 bytes on device 'cpu'"):
        memory.allocate(1 << 62)


@pytest.mark.parametrize(
    ("width", "strides"), [(24, (24, 24)), (24, (40, 24)), (6, (10, 7)), (16, (32, 0)), (3, (3, 5))]
)
def test_copies_of_pieces(memory: TorchMemory, width: int, strides: tuple[int, int]) -> None:
    source, target = memory.allocate(200), memory.allocate(200)
    whole = [memory.view("u8", (200,), each) for each in (source, target)]
    whole[0].copy_(torch.arange(200))
    whole[1].fill_(255)
    memory.copy(target, strides[0], source, strides[1], width, 4)
    wanted = np.full(200, 255)
    for piece in range(4):
        start = piece * strides[1]
        wanted[piece * strides[0] : piece * strides[0] + width] = np.arange(start, start + width)
    assert whole[1].tolist() == wanted.tolist()


@pytest.mark.parametrize("shift", [-5, 3, 60])
def test_moves_of_what_overlaps(memory: TorchMemory, shift: int) -> None:
    place = memory.allocate(120)
    values = memory.view("u8", (120,), place)
    values.copy_(torch.arange(120))
    memory.move(place + 20 + shift, place + 20, 40)
    assert values[20 + shift : 60 + shift].tolist() == list(range(20, 60))


def test_rows_that_are_spilled(memory: TorchMemory) -> None:
    rows = memory.spilled_rows(6, 20)
    given = numbers(6, 5)
    place = memory.put(given)
    rows.write(0, 4, place)
    rows.write(4, 2, place + 80)
    back = memory.allocate(60)
    rows.read(2, 3, back)
    assert torch.equal(memory.view("f32", (3, 5), back), given[2:5])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_sums_of_parts(memory: TorchMemory, dtype: str) -> None:
    kind = torch.float32 if dtype == "f32" else torch.bfloat16
    values = (numbers(90, 6) * 0.3 + 20).to(kind)
    place, sums = memory.put(values), memory.row_sums(6)
    sums.add(place, dtype, 50)
    sums.add(place + 50 * 6 * kind.itemsize, dtype, 40)
    total, squares = sums.totals()
    np.testing.assert_allclose(total, values.double().sum(0), rtol=1e-12)
    np.testing.assert_allclose(squares, values.double().square().sum(0), rtol=1e-6)


def test_intensities_are_the_runtimes() -> None:
    image = numbers(5, 4, 6, 1) * 2
    image[0, 0, 0, 0], image[1, 1, 1, 0] = 0.50025, 1e30  # rounds half to even; clipped
    labels = np.random.default_rng(1).integers(0, 3, (5, 4, 6)).astype(np.uint16)
    limits = (2000.0, -1000.0, -1000.0, math.inf, -1024)
    wanted = _native.to_hu(image[..., 0].numpy(), labels, *limits, "nearest")
    convert = Intensities(*limits, labels)
    found = torch.cat([convert(0, image[:2]), convert(2, image[2:])])
    convert.check()
    assert found.dtype == torch.int16
    assert np.array_equal(found.numpy(), wanted)


def test_voxels_that_are_not_finite_are_counted() -> None:
    convert = Intensities(1.0, 0.0, -math.inf, math.inf, 0)
    image = numbers(3, 2, 2, 1)
    image[0, 0, 0, 0], image[2, 1, 1, 0] = math.nan, math.inf
    convert(0, image)
    with pytest.raises(RequestError, match="found 2 of 12 voxels that are NaN or infinite"):
        convert.check()


def test_finished_rows_come_in_order() -> None:
    taken: list[Any] = []
    sink = HostSink(lambda first, rows: taken.append((first, rows.tolist())), lambda first, rows: rows * 10 + first)
    sink(0, torch.tensor([1.0, 2.0]))
    sink(2, torch.tensor([3.0]))
    sink.flush()
    assert taken == [(0, [10.0, 20.0]), (2, [32.0])]


def run(solver: str, steps: int, noise: Any, guidance: float = 0.0, observer: Any = lambda *_: True) -> Any:
    """A linear flow; the unguided half's velocity is half of the guided one's."""
    t, dt = _native.rflow_time_grid(steps, 512, "exact")

    def predict(inputs: dict[str, Any]) -> Any:
        velocity = torch.sin(3 * inputs["latent"]) - inputs["timestep"].reshape(-1, 1, 1, 1, 1) / 500
        return velocity * torch.tensor([1.0, 0.5])[: len(velocity)].reshape(-1, 1, 1, 1, 1)

    rows = 1 if guidance == 0 else 2
    recording = Recorder(predict).of({"latent": noise.expand(rows, *noise.shape), "timestep": torch.zeros(rows)})
    return integrate(recording, _native.solver_calls(solver, t, dt), steps, noise, guidance, observer)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_solvers_are_the_runtimes(solver: str, guidance: float) -> None:
    t, dt = _native.rflow_time_grid(9, 512, "exact")
    noise = numbers(2, 3, 4, 2)
    factor = 1.0 if guidance == 0 else 0.5 + guidance * 0.5

    def velocity(x: Any, time: float) -> Any:
        return np.float32(factor * (np.sin(3 * x) - time / 500))

    found = run(solver, 9, noise, guidance)
    np.testing.assert_allclose(found.numpy(), _native.integrate(solver, t, dt, velocity, noise.numpy()), atol=3e-6)
    assert torch.equal(noise, numbers(2, 3, 4, 2))  # the caller's own


def test_progress_and_cancelling() -> None:
    seen: list[Any] = []
    run("heun", 3, numbers(1, 2, 2, 2), observer=lambda *event: seen.append(event) or True)
    assert seen == [("sample", step, 3) for step in range(4)]
    with pytest.raises(CancelledError, match="1 of 3 done"):
        run("euler", 3, numbers(1, 2, 2, 2), observer=lambda _, done, total: done < 1)


def test_a_latent_that_overflowed() -> None:
    latent = numbers(2, 2, 2, 2)
    latent[0, 0, 0] = math.nan
    with pytest.raises(DeviceError, match="holds 2 of 16 values that are not finite"):
        finished(latent)


def test_conditions() -> None:
    embedding = [numbers(1, 3, 2, 2, 2), numbers(1, 3, 2, 2, 2) + 1]
    names = ["latent", "timestep", "class_label", "spacing", "top_region", "condition_embedding", "down_residual_00"]
    given = {"class_label": 3, "vectors": {"spacing": (1, 2, 2.5), "top_region": (0, 1, 0, 0)}}
    found = conditions(names, 2, CPU, **given, embedding=embedding)
    assert found.keys() == {"class_label", "spacing", "top_region", "condition_embedding"}
    assert found["class_label"].tolist() == [3, 0]
    assert found["spacing"].tolist() == [[100, 200, 250]] * 2
    assert found["top_region"].tolist() == [[0, 100, 0, 0]] * 2
    assert torch.equal(found["condition_embedding"], torch.cat(embedding))
    one = conditions(["condition_embedding"], 2, CPU, **given, embedding=embedding[:1])
    assert torch.equal(one["condition_embedding"], torch.cat(embedding[:1] * 2))
    with pytest.raises(PlanError, match="wants an input 'age'"):
        conditions(["age"], 1, CPU, **given, embedding=[])


def test_recordings_by_shape() -> None:
    recorder = Recorder(lambda inputs: inputs["a"] * 2)
    first = recorder.of({"a": torch.ones(2)})
    assert first.run().tolist() == [2, 2]
    first.inputs["a"].fill_(4)
    assert first.run().tolist() == [8, 8]
    assert recorder.of({"a": torch.full((2,), 5.0)}) is first
    assert first.run().tolist() == [10, 10]
    for size in (3, 4):
        recorder.of({"a": torch.ones(size)})
    assert recorder.of({"a": torch.ones(2)}) is not first  # the oldest of three was given up


@pytest.mark.parametrize(("precision", "budget"), [("fp32", 2_700_000), ("bf16", 1_600_000)])
def test_the_exact_decode_in_stages(tmp_path: Path, precision: str, budget: int) -> None:
    """In a budget that the whole network does not fit into."""
    latent = np.random.default_rng(0).standard_normal((4, 8, 8, 8)).astype(np.float32)
    engine = ctfast.load(staged_plan.write(tmp_path / "staged.plan"), backend="torch", precision=precision, threads=1)
    whole, staged = engine.decode(latent), engine.decode(latent, memory=budget)
    assert whole.meta["decode_strategy"]["name"] == "whole"
    assert staged.meta["decode_strategy"]["name"] == "in_place"
    apart = np.abs(whole.array.astype(int) - staged.array)
    assert apart.mean() < (0.01 if precision == "fp32" else 10)
    assert apart.max() <= (1 if precision == "fp32" else 150)
