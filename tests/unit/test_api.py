"""``ctfast.build`` hands over to the exporter, which is an extra."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ctfast
from ctfast import api
from ctfast.errors import RequestError


def test_build_hands_over_to_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def build(*args: Any, **options: Any) -> str:
        calls.append((args, options))
        return "out.plan"

    monkeypatch.setattr(api, "import_module", lambda name: {"ctfast.export": SimpleNamespace(build=build)}[name])
    assert ctfast.build("rflow-ct", weights="models/", output="out.plan", name="mine") == Path("out.plan")
    expected = {"weights": "models/", "output": "out.plan", "backend": "openvino", "precision": "bf16", "name": "mine"}
    assert calls == [(("rflow-ct",), expected)]


@pytest.mark.parametrize("module", ["torch", "onnx", "onnxscript.ir"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(api, "import_module", missing)
    with pytest.raises(RequestError, match=rf"'{module}', which is not installed: pip install 'ctfast\[export\]'"):
        ctfast.build("rflow-ct", weights="models/", output="out.plan")


def test_a_module_of_our_own_that_is_missing_is_no_users_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'ctfast.nothing'", name="ctfast.nothing")

    monkeypatch.setattr(api, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        ctfast.build("rflow-ct", weights="models/", output="out.plan")
