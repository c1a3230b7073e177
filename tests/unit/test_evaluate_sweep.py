"""Sweeps of steps and solvers: on a flow whose solution is known, and on a plan of tiny networks."""

from __future__ import annotations

import errno
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import known_flow, tiny_plan
from support.known_flow import KnownFlow

import ctfast
from ctfast.cli.main import main
from ctfast.errors import CancelledError, OutputError, RequestError
from ctfast.evaluate.distances import References
from ctfast.evaluate.subject import EngineSubject, Setting
from ctfast.evaluate.sweep import BASELINE, Sweep, sweep
from ctfast.evaluate.sweep_text import svg, table
from ctfast.request import FLOW_SOLVERS

STEPS = (3, 6, 12, 24)
SEEDS = (4, 5, 6)


def keep_going(*_: object) -> bool:
    return True


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return sweep(KnownFlow(), FLOW_SOLVERS, STEPS, SEEDS, observer=keep_going)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")


def exact_distance(setting: Setting, seed: int) -> tuple[float, float]:
    """Latent and image RMS from the known solution."""
    flow = KnownFlow()
    latent, truth = flow.sample(seed, setting, keep_going), known_flow.solution(seed)
    image, wanted = flow.image(latent, keep_going), flow.image(truth, keep_going)
    body = wanted > -900
    assert 0 < body.mean() < 1
    return (
        float(np.sqrt(np.mean((latent - truth) ** 2))),
        float(np.sqrt(np.mean((image[body] - wanted[body]) ** 2))),
    )


def test_distances_from_the_reference_are_those_from_the_truth(swept: Sweep) -> None:
    assert [row.setting for row in swept.rows] == [
        Setting(solver, "monai" if solver == "euler" else "exact", steps) for solver in FLOW_SOLVERS for steps in STEPS
    ]
    blur = 2 * swept.agreement.image_rms
    assert blur < 0.5
    assert np.median([row.image_rms for row in swept.rows]) > 20 * blur
    for row in swept.rows:
        for distance in row.distances:
            latent, image = exact_distance(row.setting, distance.seed)
            assert distance.latent_rms == pytest.approx(latent, abs=blur / 1000)
            assert distance.image_rms == pytest.approx(image, abs=blur)
        squares = [distance.image_rms**2 for distance in row.distances]
        assert row.image_rms == pytest.approx(np.sqrt(np.mean(squares)))
        assert row.psnr(swept.span) == pytest.approx(10 * np.log10(2000**2 / np.mean(squares)))


def test_calls_are_those_that_are_made(swept: Sweep) -> None:
    for row in swept.rows:
        flow = KnownFlow()
        flow.sample(0, row.setting, keep_going)
        assert flow.calls == row.setting.calls == row.setting.steps * (2 if row.setting.solver == "heun" else 1)


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_the_fewest_steps_do_it_and_one_less_does_not(swept: Sweep, solver: str) -> None:
    found = next(each for each in swept.smallest if each.solver == solver)

    def pooled(setting: Setting) -> float:
        return float(np.sqrt(np.mean([exact_distance(setting, seed)[1] ** 2 for seed in SEEDS])))

    limit = pooled(BASELINE)
    if found.row is None:
        assert all(pooled(Setting(solver, found.time_grid, steps)) > limit for steps in STEPS)
        return
    fewest = found.row.setting
    assert pooled(fewest) <= limit < pooled(Setting(solver, found.time_grid, fewest.steps - 1))


def test_methods_of_order_two_need_fewer_calls_than_euler(swept: Sweep) -> None:
    calls = {each.solver: each.row.setting.calls for each in swept.smallest if each.row is not None}
    assert calls["ab2"] < 24
    assert calls["heun"] < 30


def test_a_setting_is_sampled_once_for_each_seed() -> None:
    flow = KnownFlow()
    sweep(flow, ["euler", "ab2"], [10, 30], [1, 2], observer=keep_going)
    assert max(flow.samples.count(setting) for setting in flow.samples) == 2


def test_a_sweep_of_the_reference_itself_finds_no_distance(tmp_path: Path) -> None:
    reference = Setting("heun", "exact", 40)
    row = References(KnownFlow(), reference, [1], tmp_path, keep_going).row(reference, keep_going)
    assert (row.image_rms, row.latent_rms, row.psnr(2000.0)) == (0, 0, None)


def test_where_nothing_is_body_the_whole_image_counts(tmp_path: Path) -> None:
    class Air(KnownFlow):
        def image(self, latent: Any, observer: Any) -> Any:
            return np.clip(latent[0], -1, 1) - 999

    few, reference = Setting("euler", "exact", 2), Setting("heun", "exact", 40)
    row = References(Air(), reference, [1], tmp_path, keep_going).row(few, keep_going)
    assert row.image_rms > 0.01


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        References(KnownFlow(), Setting("heun", "exact", 4), [1], tmp_path, keep_going)


def test_unknown_limits_are_those_of_the_references(tmp_path: Path) -> None:
    class Unlimited(KnownFlow):
        def limits(self) -> tuple[float | None, float | None]:
            return 0.0, None

    references = References(Unlimited(), Setting("heun", "exact", 40), [1, 2], tmp_path, keep_going)
    highest = max(float(known_flow.solution(seed)[0].max()) * 1000 - 1000 for seed in (1, 2))
    assert references.span == pytest.approx(highest, abs=0.5)


def test_progress_is_told_in_network_calls_and_can_cancel() -> None:
    told: list[tuple[str, int, int]] = []

    def watch(stage: str, done: int, total: int) -> bool:
        told.append((stage, done, total))
        return True

    flow = KnownFlow()
    sweep(flow, ["ab2"], [5, 10], [1, 2], observer=watch)
    first = [each for each in told if each[0] == "sweep"]
    # Reference, check, baseline and the two settings, for two seeds.
    assert {total for _, _, total in first} == {2 * (400 + 200 + 30 + 5 + 10)}
    assert [done for _, done, _ in first] == sorted(done for _, done, _ in first)
    assert {stage for stage, _, _ in told} == {"sweep", "refine"}
    assert all(0 <= done <= total for _, done, total in told)
    with pytest.raises(CancelledError):
        sweep(flow, ["ab2"], [5], [1], observer=lambda stage, done, total: done < 500)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"solvers": ["euler", "rk4"]}, ["solver", "unipc", "found rk4"]),
        ({"solvers": []}, ["solver", "none"]),
        ({"solvers": ["ab2", "ab2"]}, ["each once"]),
        ({"steps": [0, 5]}, ["steps", "from 1 to 1000", "0, 5"]),
        ({"steps": []}, ["steps"]),
        ({"steps": [5, 300]}, ["reference steps", "more than the 300", "found 200"]),
        ({"reference_steps": 30}, ["more than the 30", "found 30"]),
        ({"seeds": [1, 1]}, ["seeds", "different"]),
        ({"seeds": [-1]}, ["seeds"]),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(changes: dict[str, Any], words: list[str]) -> None:
    arguments: dict[str, Any] = {"solvers": ["euler"], "steps": [5], "seeds": [1], **changes}
    flow = KnownFlow()
    with pytest.raises(RequestError) as caught:
        sweep(flow, **arguments, observer=keep_going)
    assert all(word in str(caught.value) for word in words)
    assert flow.calls == 0


def test_the_picture_shows_every_row(swept: Sweep) -> None:
    result = swept.as_dict()
    root = ElementTree.fromstring(svg(result))
    marks = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("transform")]
    assert len(marks) == len(swept.rows) + len(swept.refined) + len(FLOW_SOLVERS)  # those of the legend
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {*FLOW_SOLVERS, "network calls", "euler, 30 calls"} <= set(texts)


def test_the_table_tells_what_the_result_holds(swept: Sweep) -> None:
    result = json.loads(json.dumps(swept.as_dict(), allow_nan=False))
    text = table(result)
    assert len(text.splitlines()) == 2 + len(swept.rows) + 1 + len(FLOW_SOLVERS)
    few = sweep(KnownFlow(), ["dpmpp_2m"], [2], [1], observer=keep_going).as_dict()
    assert few["smallest"][0]["calls"] is None
    assert "more than the 2 steps tried" in table(few)


def test_a_latent_decodes_to_what_generate_gives(plan: Path) -> None:
    engine = ctfast.load(plan, precision="fp32")
    latent = engine.sample_latent(seed=7, steps=3, solver="ab2")
    assert latent.shape == tiny_plan.LATENT
    volume = engine.generate(seed=7, steps=3, solver="ab2")
    np.testing.assert_array_equal(engine.decode(latent).array, volume.array)


def test_models_that_are_no_flow_are_refused(tmp_path: Path) -> None:
    schedule = {**tiny_plan.MANIFEST["schedule"], "kind": "ddpm", "solver": "ddpm", "beta_start": 0.001}
    path = tiny_plan.write(tmp_path / "ddpm.plan", schedule={**schedule, "beta_end": 0.02})
    with pytest.raises(RequestError, match="rectified flow"):
        EngineSubject(ctfast.load(path))


def command(plan: Path, *words: object) -> list[str]:
    return ["evaluate", "--engine", str(plan), "--reference-steps", "40", "--volumes", "2", *map(str, words)]


def test_the_command(plan: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--sweep", "steps=2,4", "--solver", "euler,dpmpp2m", "-o", "s.json", "--picture", "s.svg", "--seed", 3]
    assert main(command(plan, *words)) == 0
    out = capsys.readouterr().out
    assert "dpmpp_2m  exact" in out
    result = json.loads(Path("s.json").read_text())
    assert result["seeds"] == [3, 4]
    assert [(row["solver"], row["steps"]) for row in result["rows"]] == [
        *[("euler", 2), ("euler", 4), ("dpmpp_2m", 2), ("dpmpp_2m", 4)]
    ]
    assert result["plan"]["name"] == "tiny"
    assert result["precision"]["denoiser"] in ("fp32", "bf16")
    ElementTree.parse("s.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.svg"]
    assert main(command(plan, *words, "--json", "--quiet")) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == result["rows"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep", "5,10"], "--sweep: expected numbers of steps"),
        (["--sweep", "steps=5,x"], "steps=5,x"),
        (["--sweep", "steps=5", "--solver", "rk4"], "rk4"),
        (["--sweep", "steps=5", "--volumes", "0"], "--volumes"),
        (["--sweep", "steps=5", "-o", "nowhere/s.json"], "nowhere"),
        (["--sweep", "steps=5", "--size", "33", "32", "16"], "size 33"),
        (["--sweep", "steps=5", "--picture", "s.png"], "ends in .svg, found 's.png'"),
    ],
)
def test_bad_options_are_one_message(plan: Path, words: list[str], message: str, capsys: Any) -> None:
    assert main(command(plan, *words)) in (2, 4)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
