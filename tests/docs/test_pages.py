"""The pages: what README shows works, links lead somewhere, figures are those of the result rows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_plan

from ctfast import locate
from ctfast.cli.main import build_parser, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Commands that need weights or scans to run: for these the options are checked.
PARSED_ONLY = ("build", "verify maisi_v2.plan", "train", "data prepare")
SIZES: dict[str, Any] = {
    "default": [96, 96, 64],
    "rule": {"legal": [[96, 96, 64]], "xy": [], "z": [], "multiple": 32},
    "spacing": {"default": [4.0, 4.0, 3.0], "low": [2, 2, 2], "high": [6, 6, 6]},
}


def blocks(language: str) -> list[str]:
    """README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Words of every ctfast command in a page, options of lines that go on included."""
    shell = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in shell.splitlines() if line.startswith("ctfast ")]
    return [words[1:] for words in found]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a plan of tiny networks in the embedded one's place."""
    (tmp_path / "plans").mkdir()
    tiny_plan.write(tmp_path / "plans" / "headneck.plan", sizes=SIZES, memory=[])
    monkeypatch.setattr(locate, "PLANS", tmp_path / "plans")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_python_examples_run_in_the_order_they_are_shown(workplace: Path) -> None:
    names: dict[str, Any] = {}
    examples = blocks("python")
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    written = {path.name for path in workplace.iterdir()}
    assert {"ct.nii.gz", "ct.json", "ct.png", "ct_0.nii.gz", "ct_2.nii.gz"} <= written
    assert names["again"].array.shape == names["volume"].array.shape


def test_the_commands_run_in_the_order_they_are_shown(workplace: Path) -> None:
    shown = [words for words in commands(README) if not " ".join(words).startswith(PARSED_ONLY)]
    ours = [words for words in shown if "--engine" not in words]
    assert len(ours) >= 8
    for words in ours:
        assert main([*words, "--quiet"]) == 0, words
    assert (workplace / "again.nii.gz").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_has_the_options_shown(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        build_parser(words[0]).parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_figures_are_those_of_the_results() -> None:
    script = ROOT / "benchmarks" / "scripts" / "tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}; run benchmarks/scripts/tables.py --write"


def test_make_explains_itself() -> None:
    """The help is cut out of the Makefile's head by line numbers."""
    done = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    shown = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert shown == [["make", name] for name in ("demo", "test", "lint", "cuda", "native", "clean")]
