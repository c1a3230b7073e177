"""Folders for what is passing: gone at the end, and after a kill as soon as somebody needs the place again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from ctfast.export.scratch import clean, owned_folder  # noqa: E402

OWNER = """
import sys, time
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("scratch", sys.argv[2])
scratch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scratch)
with scratch.owned_folder(Path(sys.argv[1]), "x-") as folder:
    (folder / "file").write_text("content")
    print(folder, flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    with owned_folder(tmp_path, "x-") as folder:
        (folder / "inside").mkdir()
        assert names(tmp_path) == [folder.name]
        clean(tmp_path, "x-")
        with owned_folder(tmp_path, "x-") as other:
            assert len(names(tmp_path)) == 2
            assert other != folder
    assert not names(tmp_path)
    with pytest.raises(KeyError), owned_folder(tmp_path, "x-"):
        raise KeyError
    assert not names(tmp_path)


def test_what_a_killed_owner_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    import ctfast.export.scratch as module

    (tmp_path / "y-other").mkdir()
    (tmp_path / "x-file").touch()
    (tmp_path / "x-link").symlink_to(tmp_path / "y-other")
    others = names(tmp_path)
    command = [sys.executable, "-c", OWNER, str(tmp_path), str(module.__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        clean(tmp_path, "x-")
        assert (left / "file").exists(), "its owner lives"
        owner.send_signal(signal.SIGKILL)
    assert left.exists()
    with owned_folder(tmp_path, "x-") as folder:
        assert names(tmp_path) == sorted([*others, folder.name])
    assert names(tmp_path) == others


def test_a_folder_that_is_cleaned_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], os.open

    def cleaned_first(path: object, *more: int, **options: int) -> int:
        if not opened:
            opened.append(path)
            monkeypatch.setattr(os, "open", real)
            clean(tmp_path, "x-")
        return real(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", cleaned_first)
    with owned_folder(tmp_path, "x-") as folder:
        assert opened
        assert folder != opened[0]
        assert names(tmp_path) == [folder.name]
