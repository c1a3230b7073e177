"""ctfast.cuda and how it takes arrays, with its kernels compiled for this computer."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import cuda_library
from support.cuda_library import Interface, OnDevice, zeros

from ctfast import _native, cuda
from ctfast.device_arrays import device_array
from ctfast.errors import DeviceError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda_library.build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    cuda.library.cache_clear()
    yield
    cuda.library.cache_clear()


@pytest.fixture
def built(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuda, "PATH", path)
    return path


def normals(*shape: int) -> Any:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def test_a_package_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "PATH", tmp_path / "libctfast_cuda.so")
    assert not cuda.available()
    with pytest.raises(DeviceError, match=r"found no such file.*CTFAST_CUDA=ON"):
        cuda.noise(zeros(4), 1, 2)


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "PATH", tmp_path / "libctfast_cuda.so")
    cuda.PATH.write_bytes(b"not ELF")
    assert not cuda.available()
    with pytest.raises(DeviceError, match="could not open the CUDA kernels"):
        cuda.library()


@pytest.mark.parametrize(
    ("interface", "code", "count", "message"),
    [
        (99, 0, 1, "of interface 1 in .*found 99"),
        (1, 35, 0, "device and its driver, found: driver too old"),
        (1, 0, 0, "device and its driver, found: no device"),
    ],
)
def test_libraries_that_are_of_no_use(
    interface: int, code: int, count: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Function:
        def __init__(self, result: Any) -> None:
            self.result = result

        def __call__(self, *arguments: Any) -> Any:
            return self.result(*arguments) if callable(self.result) else self.result

    def devices(place: Any) -> int:
        ctypes.cast(place, ctypes.POINTER(ctypes.c_int32))[0] = count
        return code

    names = {f"ctfast_cuda_{name}": Function(0) for name in (*cuda._ARGUMENTS, "channel_slabs")}
    names |= {"ctfast_cuda_interface": Function(interface), "ctfast_cuda_devices": Function(devices)}
    names["ctfast_cuda_error"] = Function(b"driver too old")
    monkeypatch.setattr(cuda, "PATH", tmp_path / "libctfast_cuda.so")
    cuda.PATH.touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(**names))
    assert not cuda.available()
    with pytest.raises(DeviceError, match=message):
        cuda.library()


def test_kernels_that_do_not_start(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = cuda.library()
    failing = SimpleNamespace(
        ctfast_cuda_noise=lambda *_: 209, ctfast_cuda_error=lambda code: b"no image for %d" % code
    )
    monkeypatch.setattr(cuda, "library", lambda: failing)
    with pytest.raises(DeviceError, match="'noise' did not start: no image for 209"):
        cuda.noise(zeros(4), 1, 2)
    assert opened is not failing
    monkeypatch.undo()


def test_importing_opens_nothing() -> None:
    code = "import ctfast, ctfast.cuda, sys; print(ctfast.cuda.library.cache_info().currsize, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_arrays_by_dlpack() -> None:
    whole = normals(3, 4, 5)
    given = OnDevice(whole[1:, ::2].transpose(2, 0, 1), 3)
    found = device_array("x", given)
    assert (found.shape, found.strides, found.dtype, found.device) == ((5, 2, 2), (1, 20, 10), "f32", 3)
    assert found.pointer == whole[1:].ctypes.data
    assert found.size == 20
    assert not found.contiguous
    assert given.streams == [-1]  # nothing is waited for
    assert device_array("x", OnDevice(whole[1:])).contiguous
    assert device_array("x", OnDevice(whole[:, :1])).contiguous is False
    assert device_array("x", OnDevice(whole[:1, :, :])).contiguous


def test_arrays_by_the_array_interface() -> None:
    whole = np.arange(12, dtype=np.int16).reshape(3, 4)
    found = device_array("x", Interface(whole[:, 1:]))
    assert (found.shape, found.strides, found.dtype, found.device) == ((3, 3), (4, 1), "i16", None)
    assert found.pointer == whole.ctypes.data + 2
    assert device_array("x", Interface(whole)).contiguous


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="x: expected an array on a CUDA device, found one on DLPack device 1"):
        device_array("x", torch.zeros(3))

    class Moved:
        def __init__(self, tensor: Any) -> None:
            self.__dlpack__ = tensor.__dlpack__

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    tensor = torch.zeros(2, 3, 4, dtype=torch.bfloat16).permute(0, 2, 1)
    found = device_array("x", Moved(tensor))
    assert (found.pointer, found.shape, found.strides, found.dtype) == (
        tensor.data_ptr(),
        (2, 4, 3),
        (12, 1, 4),
        "bf16",
    )
    for dtype, name in ((torch.bool, "u8"), (torch.uint16, "u16"), (torch.int64, "i64")):
        assert device_array("x", Moved(torch.zeros(2, dtype=dtype))).dtype == name


def test_arrays_that_no_kernel_takes() -> None:
    with pytest.raises(ValueError, match="no kernel takes elements of DLPack type 5"):
        device_array("x", zeros(2, dtype=np.complex64))
    with pytest.raises(ValueError, match="no kernel takes elements of type <c8"):
        device_array("x", Interface(np.zeros(2, np.complex64)))
    with pytest.raises(ValueError, match="x: expected a torch tensor or a CuPy array, found list"):
        device_array("x", [1, 2])


def test_noise(built: Path) -> None:
    out = zeros(3, 7)
    cuda.noise(out, 2**64 - 1, 9, 5)
    np.testing.assert_array_equal(
        out.array.reshape(-1), _native.fill_normal(2**64 - 1, 9, (1, 1, 1, 26)).reshape(-1)[5:]
    )
    with pytest.raises(ValueError, match="out: expected a contiguous array"):
        cuda.noise(OnDevice(np.zeros((4, 4), np.float32)[:, :2]), 1, 1)
    with pytest.raises(ValueError, match="out: expected elements of f32, found f64"):
        cuda.noise(zeros(4, dtype=np.float64), 1, 1)


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "dpmpp_2m", "unipc"])
def test_solvers(built: Path, solver: str) -> None:
    t = np.array([1000.0, 700.0, 400.0, 150.0])
    dt = np.array([0.3, 0.3, 0.25, 0.15])
    start = normals(2, 3, 4, 5)
    wanted = _native.integrate(solver, t, dt, lambda x, time: np.float32(0.5) * x, start)
    x, y = start.copy(), start.copy()
    latest = [np.zeros_like(start) for _ in range(3)]
    for call in _native.solver_calls(solver, t, dt):
        latest = [latest[2], *latest[:2]]
        newest, *before = map(OnDevice, latest)
        velocity = OnDevice(np.float32(0.5) * y)
        cuda.solver_update(
            call, OnDevice(x), OnDevice(y), velocity, newest=newest, before=before, wide=solver != "euler"
        )
    np.testing.assert_array_equal(y, wanted)


def test_guided_updates(built: Path) -> None:
    (call,) = _native.solver_calls("euler", np.array([1000.0]), np.array([1.0]))
    y, answer = normals(2, 3), normals(2, 2, 3)
    wanted = y + (answer[1] + np.float32(1.5) * (answer[0] - answer[1]))
    place = OnDevice(y)
    cuda.solver_update(call, place, place, OnDevice(answer[0]), OnDevice(answer[1]), guidance=1.5, wide=False)
    np.testing.assert_array_equal(y, wanted)
    with pytest.raises(ValueError, match=r"arrays of one size, found \[3, 6\]"):
        cuda.solver_update(call, place, place, zeros(3), wide=False)
    with pytest.raises(ValueError, match="a place for the newest"):
        cuda.solver_update(call, place, place, zeros(2, 3), before=[zeros(2, 3)], wide=False)
    with pytest.raises(ValueError, match=r"arrays on one device, found devices \[0, 1\]"):
        cuda.solver_update(call, place, place, OnDevice(answer[0], 1), wide=False)


def test_intensities_in_another_order(built: Path) -> None:
    image = normals(4, 5, 6)
    labels = (np.arange(120).reshape(4, 5, 6) % 3).astype(np.uint16)
    wanted = np.where(labels == 0, -7, np.clip(np.rint(image * np.float32(1000)), -900, 32767)).astype(np.int16)
    out, bad = np.zeros((6, 5, 4), np.int16), np.zeros(1, np.int64)
    limits: dict[str, Any] = {"scale": 1000.0, "offset": 0.0, "low": -900.0, "high": np.inf, "air": -7}
    cuda.intensities(
        OnDevice(image), OnDevice(out.transpose(2, 1, 0)), OnDevice(bad), labels=OnDevice(labels), **limits
    )
    np.testing.assert_array_equal(out.transpose(2, 1, 0), wanted)
    image[0, 0, :2] = np.nan, np.inf
    cuda.intensities(OnDevice(image), OnDevice(out.transpose(2, 1, 0)), OnDevice(bad), nearest=False, **limits)
    assert bad.tolist() == [2]
    assert out[5, 4, 3] == int(max(image[3, 4, 5] * np.float32(1000), -900))
    with pytest.raises(ValueError, match="of one shape"):
        cuda.intensities(OnDevice(image), zeros(4, 5, 7, dtype=np.int16), OnDevice(bad), **limits)


def test_channel_sums(built: Path) -> None:
    values = normals(7, 9, 11, 5)
    partial, totals = zeros(cuda.channel_slabs(693, 5) * 10, dtype=np.float64), zeros(2, 5, dtype=np.float64)
    cuda.channel_sums(OnDevice(values), totals, partial)
    flat = values.reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(totals.array, [flat.sum(0), (flat * flat).sum(0)], rtol=1e-12)
    with pytest.raises(ValueError, match="room for 30 partial sums, found 8"):
        cuda.channel_sums(OnDevice(values), totals, zeros(8, dtype=np.float64))
    with pytest.raises(ValueError, match=r"totals of shape \(2, 5\)"):
        cuda.channel_sums(OnDevice(values), zeros(5, dtype=np.float64), partial)


def test_stitching(built: Path) -> None:
    out, total = zeros(2, 6, 4, 4), zeros(3, 2, 4)
    weights = np.array([1.0, 0.5, 1.0, 0.5, 1.0, 0.25, 0.25, 1.0], np.float32)
    patches = normals(2, 2, 4, 4, 4)
    full = np.maximum(weights[:2, None, None] * weights[None, 2:4, None] * weights[4:], np.float32(0.1))
    wide = full.repeat(2, 0).repeat(2, 1)
    wanted, sums = np.zeros((2, 6, 4, 4), np.float32), np.zeros((6, 4, 4), np.float32)
    for start, patch in zip((0, 1), patches, strict=True):
        cuda.stitch_add(out, total, OnDevice(patch), OnDevice(weights), 0.1, (start, 0, 0), (2, 2, 1))
        wanted[:, 2 * start : 2 * start + 4] += patch * wide
        sums[2 * start : 2 * start + 4] += wide
    cuda.stitch_finish(out, total, (2, 2, 1))
    np.testing.assert_array_equal(out.array, wanted / sums)
    with pytest.raises(ValueError, match="expected a window inside"):
        cuda.stitch_add(out, total, OnDevice(patches[0]), OnDevice(weights), 0.1, (2, 0, 0), (2, 2, 1))
    with pytest.raises(ValueError, match="expected a volume of"):
        cuda.stitch_finish(out, total, (2, 2, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_medians(built: Path, dtype: Any) -> None:
    random = np.random.default_rng(8)
    values = random.integers(-1000, 1001, 500).astype(np.int16)
    labels = random.integers(0, 6, 500).astype(dtype)
    counts, found, counted = zeros(7, 2001, dtype=np.int32), zeros(7), zeros(7, dtype=np.int64)
    for half in (slice(0, 200), slice(200, 500)):
        cuda.count_values(OnDevice(values[half]), OnDevice(labels[half]), counts, -1000)
    cuda.medians(counts, -1000, found, counted)
    wanted = [np.median(values[labels == label]) for label in range(1, 6)]
    np.testing.assert_array_equal(found.array, np.array([np.nan, *wanted, np.nan], np.float32))
    assert counted.array.tolist() == [0, *np.bincount(labels)[1:].tolist(), 0]
    with pytest.raises(ValueError, match="expected 7 medians"):
        cuda.medians(counts, -1000, zeros(6), counted)
