"""Time grids of requests and plans: tuned ones, times of one's own, and what is said where they do not fit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import plan_bytes, tiny_plan

import ctfast
from ctfast import _native
from ctfast.errors import PlanError, RequestError
from ctfast.manifest import PlanManifest
from ctfast.request import Job, Request, check

TIMES = [1000.0, 700.0, 150.0]
TUNED = {"solver": "ab2", "times": TIMES, "otherwise": "monai", "about": {"seeds": [1, 2]}}


def tuned_schedule(**changes: Any) -> dict[str, Any]:
    base = {**tiny_plan.MANIFEST["schedule"], "steps": 3, "solver": "ab2", "time_grid": "tuned", "tuned": TUNED}
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> ctfast.Engine:
    path = tiny_plan.write(tmp_path_factory.mktemp("plan") / "tuned.plan", format=2, schedule=tuned_schedule())
    return ctfast.load(path, precision="fp32")


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> ctfast.Engine:
    return ctfast.load(tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan"), precision="fp32")


def job_of(engine: ctfast.Engine, **request: Any) -> Job:
    return check(Request(**request), engine.manifest)


def refusal(engine: ctfast.Engine, **request: Any) -> str:
    with pytest.raises(RequestError) as caught:
        check(Request(**request), engine.manifest)
    return str(caught.value)


def test_the_tuned_grid_is_the_default_for_its_own_steps_and_solver(engine: ctfast.Engine) -> None:
    for request in ({}, {"steps": 3}, {"solver": "ab2"}, {"time_grid": "tuned"}):
        job = job_of(engine, **request)
        assert (job.steps, job.solver, job.time_grid, job.times) == (3, "ab2", "tuned", tuple(TIMES))


def test_other_steps_and_solvers_have_their_usual_grid(engine: ctfast.Engine) -> None:
    def grid(**request: Any) -> tuple[str, object]:
        job = job_of(engine, **request)
        return job.time_grid, job.times

    assert grid(steps=5) == ("exact", None)
    assert grid(solver="unipc") == ("exact", None)
    assert grid(solver="euler") == ("monai", None)
    assert grid(time_grid="exact") == ("exact", None)
    assert grid(time_grid="monai") == ("monai", None)


def test_the_tuned_grid_is_refused_for_other_steps(engine: ctfast.Engine, untuned: ctfast.Engine) -> None:
    message = refusal(engine, time_grid="tuned", steps=5)
    assert all(words in message for words in ("3 steps of ab2", "found 5 steps of ab2", "leave steps and solver out"))
    assert "found 3 steps of euler" in refusal(engine, time_grid="tuned", solver="euler")
    assert "no tuned one" in refusal(untuned, time_grid="tuned")
    assert "ctfast evaluate --tune" in refusal(untuned, time_grid="tuned")


def test_times_of_ones_own(untuned: ctfast.Engine) -> None:
    for times in (TIMES, tuple(TIMES), np.array(TIMES), [1000, 700, 150]):
        job = job_of(untuned, time_grid=times)
        assert (job.steps, job.solver, job.time_grid, job.times) == (3, "euler", "given", tuple(TIMES))
    assert job_of(untuned, time_grid=TIMES, steps=3).steps == 3


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([900, 500], ["begin at 1000", "found 900 at step 1"]),
        ([1000, 500, 500], ["fall", "found 500 at step 3"]),
        ([1000, 0], ["above 0", "found 0 at step 2"]),
        ([1000, float("nan")], ["nan"]),
        ([1000, True], ["True"]),
        ([1000, "a"], ["'a'"]),
        ([], ["begin at 1000", "found []"]),
        ([1000 - i / 2 for i in range(1001)], ["at most 1000 times, found 1001"]),
        ({"a": 1}, ["monai, exact", "{'a': 1}"]),
        (5, ["monai, exact", "found 5"]),
    ],
)
def test_times_that_are_none_are_refused(untuned: ctfast.Engine, times: Any, words: list[str]) -> None:
    message = refusal(untuned, time_grid=times)
    assert all(word in message for word in words), message


def test_as_many_times_as_steps(untuned: ctfast.Engine) -> None:
    assert "as many times as steps, 4, found 3" in refusal(untuned, time_grid=TIMES, steps=4)


def test_volumes_are_sampled_at_the_times(engine: ctfast.Engine, untuned: ctfast.Engine) -> None:
    volume = engine.generate(seed=2)
    assert (volume.meta["time_grid"], volume.meta["times"]) == ("tuned", TIMES)
    given = untuned.generate(seed=2, solver="ab2", time_grid=TIMES)
    assert (given.meta["time_grid"], given.meta["times"]) == ("given", TIMES)
    np.testing.assert_array_equal(volume.array, given.array)
    plain = untuned.generate(seed=2, solver="ab2", steps=3)
    assert "times" not in plain.meta
    assert not np.array_equal(volume.array, plain.array)
    even = untuned.generate(seed=2, solver="ab2", time_grid=[1000, 2000 / 3, 1000 / 3])
    np.testing.assert_allclose(even.array, plain.array, atol=1)


def test_the_network_is_called_at_the_times_after_the_transform_for_size(
    engine: ctfast.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def sample(*_: Any, **settings: Any) -> Any:
        seen.update(settings)
        return np.zeros(tiny_plan.LATENT, np.float32)

    monkeypatch.setattr(engine, "_native", type("Native", (), {**vars(_native), "sample": staticmethod(sample)}))
    engine.sample_latent()
    ratio = (np.prod(tiny_plan.LATENT[1:]) / 32) ** (1 / 3)
    unit = np.array(TIMES) / 1000
    np.testing.assert_allclose(seen["t"], 1000 * ratio * unit / (1 + (ratio - 1) * unit))
    np.testing.assert_allclose(seen["dt"], (seen["t"] - [*seen["t"][1:], 0]) / 1000)


def manifest(**changes: Any) -> dict[str, Any]:
    value = copy.deepcopy(plan_bytes.MANIFEST)
    value["format"] = changes.pop("format", 2)
    schedule = {**value["schedule"], "steps": 3, "solver": "ab2", "time_grid": "tuned", "tuned": dict(TUNED), **changes}
    value["schedule"] = {key: item for key, item in schedule.items() if item is not None}
    return value


def test_a_tuned_grid_goes_through_the_manifest_and_back() -> None:
    read = PlanManifest.from_json(json.dumps(manifest()), strict=True)
    assert read.to_json() == manifest()
    assert read.schedule.tuned is not None
    assert read.schedule.tuned.times == tuple(TIMES)
    # As long as it is not the default, older readers may ignore it.
    untuned = manifest(format=1, time_grid="monai", steps=30, solver="euler")
    assert PlanManifest.from_json(untuned, strict=True).to_json() == untuned


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 1}, "format: expected 2 or more, since schedule.time_grid is tuned, found 1"),
        ({"tuned": None}, "schedule.tuned: is missing"),
        ({"steps": 4}, "schedule: time_grid is tuned for 3 steps of ab2, and the default is 4 steps of ab2"),
        ({"solver": "euler"}, "the default is 3 steps of euler"),
        ({"tuned": {**TUNED, "times": [900]}}, "schedule.tuned.times: expected times that begin at 1000"),
        ({"tuned": {**TUNED, "times": 5}}, "schedule.tuned.times: expected a list, found 5"),
        ({"tuned": {**TUNED, "solver": "ddim"}}, "schedule.tuned.solver: expected one of euler"),
        ({"tuned": {**TUNED, "otherwise": "tuned"}}, "schedule.tuned.otherwise: expected one of monai, exact"),
        ({"tuned": {**TUNED, "about": 3}}, "schedule.tuned.about: expected an object"),
        ({"tuned": {**TUNED, "more": 1}}, "schedule.tuned.more: unknown key"),
        (
            {"kind": "ddpm", "solver": "ddpm", "beta_start": 0.001, "beta_end": 0.02, "time_grid": "monai"},
            "schedule.tuned: is for kind rflow",
        ),
    ],
)
def test_manifests_that_contradict_themselves(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError) as caught:
        PlanManifest.from_json(manifest(**changes), strict=True)
    assert words in str(caught.value)


def test_the_command_line_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from ctfast.cli.main import main

    monkeypatch.chdir(tmp_path)
    plan = tiny_plan.write(tmp_path / "tuned.plan", format=2, schedule=tuned_schedule())
    assert main(["generate", "--engine", str(plan), "--time-grid", "tuned", "--quiet"]) == 0
    assert json.loads(Path("ct.json").read_text())["times"] == TIMES
    assert main(["info", str(plan)]) == 0
    assert "default 3 steps of ab2, time grid tuned" in " ".join(capsys.readouterr().out.split())
