"""Tuned time grids: the fit on a flow whose solution is known, and the copy of a plan that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import known_flow, tiny_plan
from support.known_flow import KnownFlow

import ctfast
from ctfast.cli.main import main
from ctfast.errors import CancelledError, PlanError, RequestError
from ctfast.evaluate.subject import Setting
from ctfast.evaluate.tune import EVALUATIONS, Tuned, times_of, tune
from ctfast.evaluate.tune_text import table
from ctfast.evaluate.tuned_plan import write_tuned
from ctfast.plan import Plan
from ctfast.time_grids import TunedGrid, times_problem

FIT, CHECK = (1, 2), (3, 4, 5)
GRID = TunedGrid("ab2", (1000.0, 640.0, 210.5), "monai", {"seeds": [1, 2]})


def keep_going(*_: object) -> bool:
    return True


@pytest.fixture(scope="module", params=["euler", "ab2", "dpmpp_2m"])
def tuned(request: pytest.FixtureRequest) -> Tuned:
    return tune(KnownFlow(), request.param, 6, FIT, CHECK, observer=keep_going)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")


@pytest.mark.parametrize("a", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("b", [0.2, 1.0, 3.0])
def test_the_familys_times_are_legal(a: float, b: float) -> None:
    for steps in (1, 2, 8, 30):
        assert times_problem(times_of(steps, a, b, 1000), 1000) is None


def test_the_family_holds_equal_steps_and_a_worked_example() -> None:
    assert times_of(4, 1, 1, 1000) == pytest.approx((1000, 750, 500, 250))
    # p = 1/2: 1 - (1 - 1/4)^3 = 37/64.
    assert times_of(2, 2, 3, 1000)[1] == pytest.approx(1000 * 37 / 64)


def exact_rms(setting: Setting, seeds: tuple[int, ...]) -> float:
    flow = KnownFlow()
    squares = [np.mean((flow.sample(s, setting, keep_going) - known_flow.solution(s)) ** 2) for s in seeds]
    return float(np.sqrt(np.mean(squares)))


def test_a_fitted_grid_is_closer_to_the_known_solution_on_seeds_it_was_not_fitted_to(tuned: Tuned) -> None:
    solver = tuned.setting.solver
    found = exact_rms(tuned.setting, CHECK)
    for grid in ("monai", "exact"):
        assert found < 0.8 * exact_rms(Setting(solver, grid, 6), CHECK)
    assert tuned.better
    assert tuned.check.latent_rms == pytest.approx(found, abs=1e-3)
    assert tuned.fitted_rms <= tuned.even_rms
    assert tuned.evaluations <= EVALUATIONS + 1


def test_the_fit_finds_what_a_search_of_the_whole_range_finds(tuned: Tuned) -> None:
    solver = tuned.setting.solver
    logs = np.linspace(-1.5, 1.5, 13)
    best = min(
        exact_rms(Setting(solver, "tuned", 6, times_of(6, float(np.exp(a)), float(np.exp(b)), 1000)), FIT)
        for a in logs
        for b in logs
    )
    assert exact_rms(tuned.setting, FIT) < 1.1 * best + 1e-3


def test_the_result_tells_how_it_was_found(tuned: Tuned) -> None:
    result = json.loads(json.dumps(tuned.as_dict(), allow_nan=False))
    assert result["times"] == list(tuned.setting.times or ())
    assert result["fit"]["seeds"] == list(FIT)
    assert [each["seed"] for each in result["check"]["per_seed"]] == list(CHECK)
    assert [(row["solver"], row["time_grid"], row["steps"]) for row in result["others"]][-1] == ("euler", "monai", 30)
    assert "3 seeds" in table(result)
    grid = tuned.grid("monai")
    assert (grid.solver, grid.times, grid.otherwise) == (tuned.setting.solver, tuned.setting.times, "monai")
    assert grid.about["fit"]["seeds"] == list(FIT)


def test_progress_and_cancelling() -> None:
    told: list[tuple[str, int, int]] = []

    def watch(stage: str, done: int, total: int) -> bool:
        told.append((stage, done, total))
        return True

    tune(KnownFlow(), "ab2", 4, [1], [2], reference_steps=40, observer=watch)
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["tune", "check"]
    assert all(0 <= done <= total for _, done, total in told)
    with pytest.raises(CancelledError):
        tune(KnownFlow(), "ab2", 4, [1], [2], reference_steps=40, observer=lambda stage, *_: stage == "tune")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rk4", 5, [1], [2]), "solver"),
        (("ab2", 0, [1], [2]), "steps"),
        (("ab2", 300, [1], [2]), "reference steps"),
        (("ab2", 5, [1], [1]), "different"),
        (("ab2", 5, [1], []), "others to check with"),
    ],
)
def test_what_cannot_be_tuned_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    flow = KnownFlow()
    with pytest.raises(RequestError, match=words):
        tune(flow, *arguments, observer=keep_going)
    assert flow.calls == 0


def test_a_copy_differs_in_its_schedule_alone(plan: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.plan"
    identity = write_tuned(plan, copy, GRID)
    old, new = Plan.open(plan), Plan.open(copy)
    new.verify()
    assert new.identity == identity != old.identity
    assert [section.name for section in new.sections] == [section.name for section in old.sections]
    for section in old.sections:
        assert new.section(section.name) == old.section(section.name)
    before, after = json.loads(old.manifest_text), json.loads(new.manifest_text)
    assert (before.pop("format"), after.pop("format")) == (1, 2)
    assert after.pop("schedule") == {
        **before.pop("schedule"),
        "steps": 3,
        "solver": "ab2",
        "time_grid": "tuned",
        "tuned": {"solver": "ab2", "times": list(GRID.times), "otherwise": "monai", "about": {"seeds": [1, 2]}},
    }
    assert after == before
    assert new.manifest.schedule.tuned == GRID


def test_a_copy_samples_on_the_grid_and_can_be_tuned_again(plan: Path, tmp_path: Path) -> None:
    write_tuned(plan, tmp_path / "once.plan", GRID)
    write_tuned(tmp_path / "once.plan", tmp_path / "twice.plan", TunedGrid("euler", (1000.0, 300.0), "exact"))
    engine, first = ctfast.load(tmp_path / "once.plan", precision="fp32"), ctfast.load(plan, precision="fp32")
    volume = engine.generate(seed=4)
    assert (volume.meta["steps"], volume.meta["solver"], volume.meta["time_grid"]) == (3, "ab2", "tuned")
    np.testing.assert_array_equal(volume.array, first.generate(seed=4, solver="ab2", time_grid=GRID.times).array)
    assert Plan.open(tmp_path / "twice.plan").manifest.schedule.steps == 2


def test_a_damaged_plan_is_not_copied(plan: Path, tmp_path: Path) -> None:
    data = bytearray(plan.read_bytes())
    last = Plan.open(plan).sections[-1]
    data[last.offset] ^= 1
    (tmp_path / "bad.plan").write_bytes(data)
    with pytest.raises(PlanError, match="altered or damaged"):
        write_tuned(tmp_path / "bad.plan", tmp_path / "copy.plan", GRID)
    assert not (tmp_path / "copy.plan").exists()


def test_a_plan_is_not_replaced_by_its_copy(plan: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.plan"
    link.symlink_to(plan)
    for target in (plan, link):
        with pytest.raises(RequestError, match="another name"):
            write_tuned(plan, target, GRID)


def command(plan: Path, *words: object) -> list[str]:
    start = ["evaluate", "--engine", str(plan), "--reference-steps", "40", "--volumes", "1", "--precision", "fp32"]
    return [*start, *map(str, words)]


def test_the_command_writes_a_plan_that_generates_with_its_grid(
    plan: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--tune", 3, "--solver", "euler", "--write", "tuned.plan", "-o", "t.json", "--json", "--quiet"]
    assert main(command(plan, *words)) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads(Path("t.json").read_text()) == result
    assert result["better"]
    assert result["written"] == {"path": "tuned.plan", "identity": Plan.open("tuned.plan").identity}
    assert main(["generate", "--engine", "tuned.plan", "--quiet"]) == 0
    meta = json.loads(Path("ct.json").read_text())
    assert (meta["time_grid"], meta["times"]) == ("tuned", result["times"])


def test_a_grid_that_is_no_better_is_not_written(
    plan: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tuned, "better", False)
    assert main(command(plan, "--tune", 2, "--write", "tuned.plan", "-o", "t.json")) == 2
    out, err = capsys.readouterr()
    assert "the tuned grid is no better" in out
    assert err == "ctfast: error: the tuned grid is no better on other seeds: nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep", "steps=5", "--tune", "5"], "one of them at a time"),
        (["--write", "x.plan"], "--write goes with --tune"),
        (["--tune", "5", "--solver", "ab2,euler"], "expected one solver, found ab2, euler"),
        (["--tune", "5", "--picture", "x.svg"], "go with --sweep"),
        (["--tune", "5", "--write", "nowhere/x.plan"], "nowhere"),
    ],
)
def test_bad_options_are_one_message(plan: Path, words: list[str], message: str, capsys: Any) -> None:
    assert main(command(plan, *words)) in (2, 4)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_the_plan_itself_is_not_overwritten_by_the_command(plan: Path, capsys: Any) -> None:
    before = plan.read_bytes()
    assert main(command(plan, "--tune", "2", "--write", plan)) == 2
    assert "another name" in capsys.readouterr().err
    assert plan.read_bytes() == before
