"""Where operations run, what they are launched with, and how tables are measured: with a device that is made up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ctfast.kernels import dispatch, tune, tuning  # noqa: E402
from ctfast.kernels.epilogue import TUNABLE, epilogue  # noqa: E402

NAME = "NVIDIA H200 NVL (test)"


class OnGpu:
    """As much of a CUDA tensor as configurations look at."""

    is_cuda, device, dtype, shape = True, "cuda:0", torch.bfloat16, (1, 64, 100, 100, 100)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Tables in a folder of the test's own, and a GPU by the name of ``NAME``."""
    monkeypatch.setattr(tuning, "_FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: NAME)
    tuning._table.cache_clear()
    yield tmp_path
    tuning._table.cache_clear()


def test_buckets_and_names() -> None:
    assert tuning.bucket((1, 64, 100, 128, 129)) == "1x64x128x128x256"
    assert tuning.type_name(torch.bfloat16) == "bfloat16"
    assert tuning.file_name(NAME) == "nvidia-h200-nvl-test.json"


def test_configurations(folder: Path) -> None:
    x: Any = OnGpu()
    assert tuning.configuration(TUNABLE, x) == TUNABLE.default
    tuning._table.cache_clear()
    measured = {"epilogue": {"bfloat16": {"1x64x128x128x128": {"num_warps": 16}, "2x2": {"use": True}}}}
    tuning.table_path(NAME).write_text(json.dumps({"operations": measured}))
    assert tuning.configuration(TUNABLE, x) == {**TUNABLE.default, "num_warps": 16}
    assert tuning.configuration(TUNABLE, x, (2, 2)) == {**TUNABLE.default, "use": True}
    assert tuning.configuration(TUNABLE, x, (4, 2)) == TUNABLE.default
    assert tuning.configuration(TUNABLE, torch.zeros(1)) == TUNABLE.default


def test_the_package_has_no_table_that_was_not_measured() -> None:
    folder = Path(tuning.__file__).parent / "tables"
    for path in folder.glob("*.json"):
        table = json.loads(path.read_text())
        assert table.keys() == {"device", "versions", "operations"}
        assert path.name == tuning.file_name(table["device"])


def pretended(times: dict[int, float], rival: float | None = None) -> tuning.Tunable:
    """An operation that takes so long with so many warps; without a time it does not run."""

    def example(shape: Any, dtype: Any, device: Any) -> Any:
        def run(options: Any) -> float:
            return times[options["num_warps"]] * shape[0]

        return run

    candidates = [{"num_warps": warps} for warps in (2, 4, 8)]
    beside = None if rival is None else lambda *_: lambda: rival
    return tuning.Tunable("pretended", {"num_warps": 1}, candidates, example, beside)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_milliseconds", lambda run, *_: run())


def test_the_fastest_is_kept(clock: None) -> None:
    device = torch.device("cpu")
    table = tuning.tune(pretended({1: 3.0, 2: 2.0, 8: 2.5}), [(1,), (3,)], torch.float32, device)
    assert table == {"1": {"num_warps": 2}, "4": {"num_warps": 2}}
    table = tuning.tune(pretended({1: 1.0, 2: 2.0}, rival=1.5), [(1,), (2,)], torch.float32, device)
    assert table == {"1": {"num_warps": 1, "use": True}, "2": {"num_warps": 1, "use": False}}
    with pytest.raises(RuntimeError, match=r"pretended: no configuration runs at \(5,\)"):
        tuning.tune(pretended({}), [(5,)], torch.float32, device)


def test_tables_are_written_over_what_was_known(
    folder: Path, clock: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "tunable", lambda _: pretended({1: 3.0, 2: 2.0}))
    monkeypatch.setattr(tune, "triton", type("Triton", (), {"__version__": "3"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    path = tuning.table_path(NAME)
    known = {"epilogue": {"bfloat16": {"8": {"num_warps": 4}}}, "conv3d": {"float16": {"1": {"use": False}}}}
    path.write_text(json.dumps({"operations": known}))
    assert tune.main(["--operations", "epilogue", "--shapes", "3,1"]) == 0
    table = json.loads(path.read_text())
    assert table["device"] == NAME
    assert table["versions"]["torch"] == torch.__version__
    found = {"8": {"num_warps": 4}, "4": {"num_warps": 2}, "1": {"num_warps": 2}}
    assert table["operations"] == {"epilogue": {"bfloat16": found}, "conv3d": known["conv3d"]}
    elsewhere = folder / "new" / "table.json"
    assert tune.main(["--operations", "epilogue", "--dtypes", "float16", "--output", str(elsewhere)]) == 0
    assert json.loads(elsewhere.read_text())["operations"].keys() == {"epilogue"}
    assert tune.main(["--dtypes", "int4"]) == 1
    assert "there is no type 'int4'" in capsys.readouterr().err


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main([]) == 1
    assert "nothing can be measured here" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is no operation 'sort'; there are affine_silu"):
        tune.tunable("sort")


@pytest.mark.parametrize("operation", tune._TUNABLES)
def test_every_operation_can_be_measured(operation: str) -> None:
    """Its default is one of the kinds of its candidates, and there are shapes for it."""
    found = tune.tunable(operation)
    assert found.name == operation
    assert len(found.candidates) > 1
    assert all(set(candidate) <= set(found.default) for candidate in found.candidates)
    assert tune._SHAPES.get(operation, tune._FEATURES)


def test_where_operations_run(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(1, 1, 1, 1, 1)
    assert not dispatch.available(x)
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), dispatch.interpreter_on_cpu():
        pass
    ran: list[Any] = []
    dispatch.launch({}, (0, 3), x, ran)  # an empty grid: not even looked up
    assert not ran


def test_without_triton() -> None:
    """Kernels' modules load, and their operations run, where there is no triton; the package itself loads nothing."""
    script = (
        "import sys, ctfast, ctfast.kernels; "
        "assert not {'torch', 'triton'} & set(sys.modules); "
        "sys.modules['triton'] = None; "
        "import torch; "
        "from ctfast.kernels import dispatch, affine_silu, channel_sums, phase_upsample, unpack_bits; "
        "from ctfast.kernels.epilogue import epilogue; "
        "from ctfast.kernels.group_norm_silu import group_norm_silu; "
        "x = torch.ones(1, 2, 2, 2, 2); "
        "assert dispatch.triton is None and not dispatch.available(x); "
        "assert float(epilogue(x, torch.ones(2)).sum()) == 32; "
        "assert group_norm_silu(x, 1, None, None, 1e-5, True).abs().max() == 0"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_empty_batch() -> None:
    assert epilogue(torch.ones(0, 4, 2, 2, 2), torch.ones(4)).shape == (0, 4, 2, 2, 2)
