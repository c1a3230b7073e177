"""Writing the plan file: its layout, and that a failed or killed write leaves nothing that looks like a plan."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import plan_bytes

from ctfast import plan, plan_writer
from ctfast.errors import OutputError, PlanError
from ctfast.plan import Plan


def write_tiny(path: Path, **changes: Any) -> Path:
    plan.write(path, plan_bytes.MANIFEST | changes, plan_bytes.SECTIONS)
    return path


def test_writer_follows_the_documented_layout(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.plan")
    text = json.dumps(Plan.open(path).manifest.to_json(), ensure_ascii=False).encode()
    assert path.read_bytes() == bytes(plan_bytes.build(text, plan_bytes.SECTIONS))


def test_sections_can_be_streamed_from_files(tmp_path: Path) -> None:
    streamed = {}
    for index, (name, data) in enumerate(plan_bytes.SECTIONS.items()):
        streamed[name] = tmp_path / str(index)
        streamed[name].write_bytes(data)
    plan.write(tmp_path / "streamed.plan", plan_bytes.MANIFEST, streamed)
    assert (tmp_path / "streamed.plan").read_bytes() == write_tiny(tmp_path / "x.plan").read_bytes()


def test_a_plan_can_be_written_again_from_itself(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.plan")
    before = path.read_bytes()
    opened = Plan.open(path)
    plan.write(path, opened.manifest, {section.name: opened.section(section.name) for section in opened.sections})
    assert path.read_bytes() == before
    opened.verify()  # the old file is still mapped


def test_written_plan_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert write_tiny(tmp_path / "x.plan").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writer_refuses_bad_sections_all_at_once(tmp_path: Path) -> None:
    sections = {"denoiser/model.xml": b"", "../x": b"", "a" * 129: b"", "denoiser/model.bin": plan_bytes.WEIGHTS}
    with pytest.raises(PlanError) as caught:
        plan.write(tmp_path / "x.plan", plan_bytes.MANIFEST, sections)
    message = str(caught.value)
    for words in ("'../x' has '..'", "is longer than 128", "'vae_decoder/model.xml'", "'vae_decoder/model.bin'"):
        assert words in message
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_unknown_keys_and_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="licens: unknown key"):
        write_tiny(tmp_path / "x.plan", licens="MIT")
    with pytest.raises(PlanError, match=r"section 'vae_decoder/model\.bin' cannot be read: No such file"):
        plan.write(
            tmp_path / "x.plan",
            plan_bytes.MANIFEST,
            plan_bytes.SECTIONS | {"vae_decoder/model.bin": tmp_path / "missing"},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(20))
    monkeypatch.setattr(plan_writer, "_source_length", lambda name, data: 21)
    with pytest.raises(PlanError, match="changed while it was read"):
        plan.write(tmp_path / "x.plan", plan_bytes.MANIFEST, dict.fromkeys(plan_bytes.SECTIONS, source))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_plan_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_tiny(tmp_path / "x.plan")
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(plan_writer.os, "fsync", fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_tiny(path, name="other")
    if expected is OutputError:
        assert "No space left on device. Make room" in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name in ("missing/x.plan", "file/x.plan", "folder"):
        with pytest.raises(OutputError, match=r"could not be written: .* give another path"):
            write_tiny(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def run_child(script: str, folder: Path) -> str:
    """Run Python code with tests/ on its path, in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file size makes the kernel refuse writes half-way, as a full disk does."""
    out = run_child(
        """
        import resource
        from ctfast import plan
        from ctfast.errors import OutputError
        from support import plan_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        try:
            plan.write("x.plan", plan_bytes.MANIFEST, plan_bytes.SECTIONS)
        except OutputError as error:
            print(error)
        """,
        tmp_path,
    )
    assert "could not be written: File too large" in out
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_leaves_no_half_written_plan(tmp_path: Path) -> None:
    """A child is killed before every operation of the writer in turn; what it leaves is refused or whole."""
    out = run_child(
        """
        import builtins, os, signal, sys
        from pathlib import Path
        from ctfast import plan, plan_writer
        from ctfast.errors import PlanError
        from support import plan_bytes

        def killing(real, state):
            def wrapper(*args, **keywords):
                state[0] -= 1
                if state[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **keywords)
            return wrapper

        def write_and_die(path, after):
            state = [after]
            def unbuffered(*args):
                file = builtins.open(*args, buffering=0)
                class Watched:
                    def __getattr__(self, name):
                        return killing(getattr(file, name), state)
                    def __enter__(self):
                        return self
                    def __exit__(self, *error):
                        file.close()
                return Watched()
            plan_writer.open = unbuffered
            for name in ("fsync", "replace"):
                setattr(os, name, killing(getattr(os, name), state))
            plan.write(path, plan_bytes.MANIFEST, plan_bytes.SECTIONS)

        target, kills, refused = Path("x.plan"), 0, 0
        for old in (None, b"old"):
            for after in range(1000):
                for path in Path().iterdir():
                    path.unlink()
                if old:
                    target.write_bytes(old)
                child = os.fork()
                if child == 0:
                    write_and_die(target, after)
                    os._exit(0)
                if os.waitpid(child, 0)[1] == 0:
                    break
                kills += 1
                for path in Path().iterdir():
                    if path == target and path.read_bytes() == old:
                        continue
                    try:
                        plan.Plan.open(path).verify()
                    except PlanError:
                        refused += 1
                        assert path != target
            assert list(Path().iterdir()) == [target]
            plan.Plan.open(target).verify()
        print(kills, refused)
        """,
        tmp_path,
    )
    kills, refused = map(int, out.split())
    assert kills > 30
    assert refused > 20
