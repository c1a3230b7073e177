"""Compression on several threads, and files that are written while their volume is still being computed."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctfast.errors import OutputError, RequestError
from ctfast.io import atomic
from ctfast.io.deflate import BLOCK, GzipStream
from ctfast.io.rows import BackgroundRows
from ctfast.io.volume_files import VolumeFiles
from ctfast.volume import Volume

META = {"synthetic": True, "intensity": {"kind": "ct", "unit": "HU", "low": -1000.0, "high": 1000.0}}


def ct(size: tuple[int, int, int], seed: int = 0) -> Any:
    """Intensities with the noise and the flat regions of a CT, int16 (x, y, z)."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, count) for count in size), indexing="ij")
    inside = x**2 + y**2 < 0.7
    tissue = 40 + 60 * (np.sin(9 * x) * np.cos(7 * y) > 0.3) + 5 * z + rng.normal(0, 12, size)
    return np.where(inside, tissue, -1000).round().astype(np.int16)


def packed(data: bytes, sizes: list[int], threads: int) -> bytes:
    file = io.BytesIO()
    stream = GzipStream(file, threads)
    start = 0
    for count in sizes:
        stream.write(data[start : start + count])
        start += count
    stream.write(memoryview(data)[start:])
    stream.close()
    return file.getvalue()


def test_gzip_bytes_depend_on_the_data_alone() -> None:
    data = ct((160, 160, 60)).tobytes(order="F")
    assert 2 * BLOCK < len(data) < 3 * BLOCK
    first = packed(data, [], 1)
    assert gzip.decompress(first) == data
    assert first[4:8] == bytes(4)  # no time
    assert first[3] == 0  # no name
    for sizes in ([BLOCK], [352, 1, BLOCK, 17], [100_000] * 20, [len(data)]):
        for threads in (1, 2, 3):
            assert packed(data, sizes, threads) == first, (sizes, threads)


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_gzip_of_any_length(count: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes()
    assert gzip.decompress(packed(data, [], 2)) == data


def test_gzip_is_about_as_small_as_zlibs_fastest() -> None:
    data = ct((192, 192, 64)).tobytes(order="F")
    assert len(packed(data, [], 2)) < 1.1 * len(zlib.compress(data, 1))


class FullDisk(io.BytesIO):
    def write(self, data: Any, /) -> int:
        if self.tell() > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("threads", [1, 2])
def test_gzip_tells_of_a_full_disk_and_ends_its_threads(threads: int) -> None:
    before = threading.active_count()
    stream = GzipStream(FullDisk(), threads)
    noise = np.random.default_rng(0).integers(0, 256, 20 * BLOCK, np.uint8).data
    with pytest.raises(OSError, match="No space left"), closing(stream):
        stream.write(noise)
    assert threading.active_count() == before


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "npz"])
@pytest.mark.parametrize("heights", [[3, 40, 1, 6], [50]])
def test_rows_make_the_file_that_saving_makes(tmp_path: Path, suffix: str, heights: list[int]) -> None:
    array = ct((90, 80, 50))
    volume = Volume(array, np.diag([2.0, 2.0, 3.0, 1.0]), (array > 0).astype(np.uint16), META)
    whole = volume.save(tmp_path / f"whole.{suffix}")
    with VolumeFiles(tmp_path / f"rows.{suffix}", tmp_path / "rows.png") as files:
        files.begin(volume.size, volume.affine, volume.meta)
        first = 0
        for height in heights:
            files.put(np.ascontiguousarray(array.T[first : first + height]))
            first += height
        saved = files.finish(volume)
    assert saved.image.read_bytes() == whole.image.read_bytes()
    assert saved.sha256 == whole.sha256 == hashlib.sha256(saved.image.read_bytes()).hexdigest()
    assert saved.labels is not None
    assert whole.labels is not None
    assert saved.labels.read_bytes() == whole.labels.read_bytes()
    assert saved.preview == tmp_path / "rows.png"
    assert np.array_equal(Volume.load(saved.image).array, array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_arrays_order_does_not_change_the_file(tmp_path: Path, order: Any) -> None:
    array = ct((40, 30, 20))
    first = Volume(array, np.eye(4), None, META).save(tmp_path / "a.nii.gz").sha256
    assert Volume(np.array(array, order=order), np.eye(4), None, META).save(tmp_path / "b.nii.gz").sha256 == first


def test_the_display_range_is_the_plans(tmp_path: Path) -> None:
    array = ct((8, 8, 8))
    Volume(array, np.eye(4), None, META).save(tmp_path / "ct.nii")
    header: Any = nibabel.load(tmp_path / "ct.nii").header
    assert (header["cal_min"], header["cal_max"]) == (-1000.0, 1000.0)
    unlimited = {"intensity": {"low": 0.0, "high": None}}
    for meta in ({}, unlimited):
        Volume(array, np.eye(4), None, meta).save(tmp_path / "plain.nii")
        header = nibabel.load(tmp_path / "plain.nii").header
        assert (header["cal_min"], header["cal_max"]) == (0.0, 0.0)  # which viewers read as: look at the data


def test_rows_are_written_while_more_are_computed(tmp_path: Path) -> None:
    """The file grows although ``finish`` has not been called."""
    array = ct((64, 64, 40))
    volume = Volume(array, np.eye(4), None, META)
    with VolumeFiles(tmp_path / "ct.nii") as files:
        files.begin(volume.size, volume.affine, volume.meta)
        (part,) = tmp_path.iterdir()
        assert part.name.endswith(".part")
        files.put(array.T[:39])
        deadline = time.monotonic() + 20
        while part.stat().st_size < 20 * 64 * 64 * 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        files.put(array.T[39:])
        files.finish(volume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.json", "ct.nii"]


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_leaving_without_finishing_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    before = threading.active_count()
    (tmp_path / f"ct.{suffix}").write_bytes(b"from before")
    array = ct((64, 64, 40))
    with VolumeFiles(tmp_path / f"ct.{suffix}") as files:
        files.begin((64, 64, 40), np.eye(4), META)
        files.put(array.T[:9])
    assert [path.name for path in tmp_path.iterdir()] == [f"ct.{suffix}"]
    assert (tmp_path / f"ct.{suffix}").read_bytes() == b"from before"
    assert threading.active_count() == before


def _failing_write(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let files that are written bit by bit meet a full disk after so many bytes."""

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file
            self._count = 0

        def write(self, data: Any) -> int:
            self._count += len(data)
            if self._count > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self._file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    opened: Callable[..., Any] = os.fdopen
    monkeypatch.setattr(atomic.os, "fdopen", lambda *args: Full(opened(*args)))


def _write_in_rows(path: Path, array: Any) -> None:
    with VolumeFiles(path) as files:
        files.begin(array.shape, np.eye(4), META)
        for first in range(array.shape[2]):
            files.put(array.T[first : first + 1])
        files.finish(Volume(array, np.eye(4), None, META))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("after", [0, 100, 5000])
def test_a_full_disk_surfaces_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, after: int
) -> None:
    """As an OutputError, of a later row or of the end."""
    _failing_write(monkeypatch, after)
    before = threading.active_count()
    array = ct((64, 64, 40))
    with pytest.raises(OutputError, match=rf"cannot write '.*ct\.{suffix}': the disk is full"):
        _write_in_rows(tmp_path / f"ct.{suffix}", array)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_an_error_of_the_thread_stops_who_hands_rows_over() -> None:
    class Broken:
        def write(self, rows: Any) -> None:
            raise OutputError("no")

        def close(self) -> None:
            pass

    rows = BackgroundRows(Broken)
    with pytest.raises(OutputError, match="no"):
        _put_for_a_while(rows)


def _put_for_a_while(rows: BackgroundRows) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows.put(np.zeros((1, 1, 1), np.int16))
        time.sleep(0.001)


def test_a_preview_is_a_png(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"ends in \.png"):
        VolumeFiles(tmp_path / "ct.nii", tmp_path / "ct.jpg")
