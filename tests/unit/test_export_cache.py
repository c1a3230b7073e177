"""Exported networks are kept by what they are made of, and come back as they were or not at all."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from support import tiny_models  # noqa: E402

from ctfast.export import cache as module  # noqa: E402
from ctfast.export.cache import ExportCache, Part, default_folder, key_of  # noqa: E402
from ctfast.export.wrappers import Graph, graphs  # noqa: E402
from ctfast.manifest import Footprint  # noqa: E402

OPTIONS = {"precision": "bf16", "half": True}


def part(folder: Path, size: int = 100) -> Part:
    folder.mkdir(exist_ok=True)
    files = {name: folder / name for name in ("net.xml", "net.bin", "model.xml")}
    for index, path in enumerate(files.values()):
        path.write_bytes(bytes([index]) * size)
    entry = {"backend": "openvino", "inputs": ["latent"], "footprint": {"loaded_bytes": 1, "bytes_per_voxel": 2.0}}
    sections = {"model.xml": "net.xml", "model.bin": "net.bin", "stages/model.xml": "model.xml"}
    return Part(entry, Footprint(1, 2.0), {section: files[file] for section, file in sections.items()})


def graph(seed: int = 0, **options: Any) -> tuple[Graph, object]:
    network = tiny_models.modules(seed=seed)["denoiser"]
    return graphs("denoiser", network, **options)[0], network.config


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    cache, given = ExportCache(tmp_path / "deep" / "cache"), part(tmp_path / "given")
    assert cache.load("a", "net", tmp_path) is None
    assert not cache.has("a")
    cache.keep("a", given)
    assert cache.has("a")
    (tmp_path / "scratch").mkdir()
    found = cache.load("a", "net", tmp_path / "scratch")
    assert found is not None
    assert (found.entry, found.footprint) == (given.entry, given.footprint)
    assert list(found.files) == list(given.files)
    assert all(found.files[name].read_bytes() == given.files[name].read_bytes() for name in given.files)
    cache.keep("a", given)  # as a second build of the same does
    assert names(cache.folder) == ["a"]


@pytest.mark.parametrize("spoilt", ["model.bin", "stages/model.xml", "entry.json"])
def test_a_damaged_network_is_dropped(tmp_path: Path, spoilt: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = ExportCache(tmp_path / "cache")
    cache.keep("a", part(tmp_path / "given"))
    file = cache.folder / "a" / spoilt
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.unlink()
    file.write_bytes(data)
    (tmp_path / "scratch").mkdir()
    with caplog.at_level(logging.WARNING):
        assert cache.load("a", "net", tmp_path / "scratch") is None
    assert "is exported again" in caplog.text
    assert names(cache.folder) == names(tmp_path / "scratch") == []


def test_a_full_disk_costs_no_kept_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = ExportCache(tmp_path / "cache")
    cache.keep("a", part(tmp_path / "given"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(module, "_link", full)
    assert cache.load("a", "net", tmp_path / "scratch") is None
    assert cache.has("a")
    assert names(tmp_path / "scratch") == []
    cache.keep("b", part(tmp_path / "other"))
    assert names(cache.folder) == ["a"]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = ExportCache(tmp_path / "cache", limit_bytes=2500)
    for index, key in enumerate("abc"):
        cache.keep(key, part(tmp_path / key, 250))
        os.utime(cache.folder / key, (index, index))
    assert names(cache.folder) == ["b", "c"]
    (tmp_path / "scratch").mkdir()
    assert cache.load("b", "net", tmp_path / "scratch") is not None
    cache.keep("d", part(tmp_path / "d", 250))
    assert names(cache.folder) == ["b", "d"]
    cache.keep("e", part(tmp_path / "e", 5000))
    assert names(cache.folder) == ["e"], "the newest stays, whatever its size"


def test_a_cache_that_cannot_be_written_is_told_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache = ExportCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        cache.keep("a", part(tmp_path / "given"))
    assert "could not be kept" in caplog.text
    assert not cache.has("a")


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    cache, given = ExportCache(tmp_path / "cache"), part(tmp_path / "given")
    cache.keep("a", given)
    assert (cache.folder / "a" / "model.bin").read_bytes() == given.files["model.bin"].read_bytes()
    assert (cache.folder / "a" / "model.bin").stat().st_nlink == 1


def test_the_key_tells_apart_what_decides_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, config = graph()
    key = key_of(plain, config, OPTIONS)
    again, same = graph()
    assert key_of(again, same, OPTIONS) == key
    others = [
        key_of(graph(seed=1)[0], config, OPTIONS),
        key_of(graph(controlnet=True)[0], config, OPTIONS),
        key_of(plain, "another shape", OPTIONS),
        key_of(plain, config, OPTIONS | {"half": False}),
    ]
    monkeypatch.setattr(module, "versions", lambda: {"openvino": "0"})
    others.append(key_of(plain, config, OPTIONS))
    monkeypatch.undo()
    monkeypatch.setattr(module, "_source", lambda: "other code")
    others.append(key_of(plain, config, OPTIONS))
    assert len({key, *others}) == len(others) + 1


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "ctfast" / "export"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_folder() == Path("/home/somebody/.cache/ctfast/export")
