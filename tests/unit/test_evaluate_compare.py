"""Two evaluations side by side: verdicts, what may be compared, the page, and the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_sets
from support.pages import Page

from ctfast.cli.main import main
from ctfast.errors import RequestError
from ctfast.evaluate.compare import BETTER, DIFFERENT, REFUSED, UNCLEAR, WORSE, ComparedMetric, compare
from ctfast.evaluate.compare_page import compare_page
from ctfast.evaluate.compare_text import summary, table
from ctfast.evaluate.result import Evaluation, FeatureInfo, Metric, SetOfVolumes
from ctfast.evaluate.run import evaluate

FEW = 20
COUNT = 12


def going(stage: str, done: int, total: int) -> bool:
    return True


def rows(which: str, key: str, values: Sequence[float | None], start: int = 0) -> list[dict[str, Any]]:
    return [{"name": f"v{start + index:02d}", "set": which, key: value} for index, value in enumerate(values)]


def figure(name: str, value: float | None, low: float | None = None, high: float | None = None, **more: Any) -> Metric:
    settings: dict[str, Any] = {"better": "higher", "count": (COUNT, COUNT), "method": "A method.", **more}
    return Metric(name, "masks", value, "", comparable=True, low=low, high=high, **settings)


def result(metrics: Sequence[Metric], per_volume: Sequence[dict[str, Any]] = (), **changes: Any) -> Evaluation:
    made = Evaluation(
        ctfast="0.1.0",
        date="2026-01-01T00:00:00+00:00",
        generated=SetOfVolumes("nowhere/made", COUNT),
        reference=SetOfVolumes("nowhere/real", COUNT),
        preset="native",
        features=FeatureInfo("random-2d", None, False),
        metrics=tuple(metrics),
        per_volume=tuple(per_volume),
    )
    return replace(made, **changes)


def of_volumes(name: str, values: Sequence[float], start: int = 0, **more: Any) -> Evaluation:
    """A result whose one metric is the mean of one figure per volume."""
    return result([figure(name, float(np.mean(values)), **more)], rows("generated", name, values, start))


def only(old: Evaluation, new: Evaluation) -> ComparedMetric:
    (metric,) = compare(old, new).metrics
    return metric


DICE = list(np.random.default_rng(0).uniform(0.4, 0.9, COUNT))


def test_a_small_change_of_every_volume_is_clear_if_volumes_are_paired() -> None:
    lower = [value - 0.02 + 0.002 * (index % 3) for index, value in enumerate(DICE)]
    worse = only(of_volumes("dice", DICE), of_volumes("dice", lower))
    assert (worse.verdict, worse.how) == (WORSE, "paired")
    assert worse.difference == pytest.approx(-0.018)
    assert worse.low is not None
    assert worse.high is not None
    assert -0.02 <= worse.low < -0.018 < worse.high < -0.016
    assert only(of_volumes("dice", lower), of_volumes("dice", DICE)).verdict == BETTER
    # The same change drowns in the spread of the volumes where they are not the same ones.
    apart = only(of_volumes("dice", DICE), of_volumes("dice", lower, start=50))
    assert (apart.verdict, apart.how) == (UNCLEAR, "volumes")


def test_the_interval_of_a_difference_is_that_of_its_standard_error() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0, 1, 200), random.normal(0.3, 2, 200)
    paired = only(of_volumes("psnr", list(first)), of_volumes("psnr", list(second)))
    apart = only(of_volumes("psnr", list(first)), of_volumes("psnr", list(second), start=500))
    for found, error in (
        (paired, (second - first).std(ddof=1) / np.sqrt(200)),
        (apart, np.sqrt(first.var(ddof=1) / 200 + second.var(ddof=1) / 200)),
    ):
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.12)
        assert (found.low + found.high) / 2 == pytest.approx(second.mean() - first.mean(), abs=0.3 * error)


def test_volumes_without_a_change_are_called_different_about_as_often_as_promised() -> None:
    random = np.random.default_rng(2)
    clear = 0
    for _ in range(100):
        first, second = random.normal(0, 1, (2, 30))
        found = compare(of_volumes("psnr", list(first)), of_volumes("psnr", list(second), start=50), replicates=200)
        clear += found.metrics[0].verdict != UNCLEAR
    assert clear <= 14  # 5 expected; percentiles of 30 volumes are a little narrow


def test_lower_is_better_where_the_metric_says_so() -> None:
    far = [value + 5 for value in DICE]
    assert only(of_volumes("hd95", DICE, better="lower"), of_volumes("hd95", far, better="lower")).verdict == WORSE
    assert only(of_volumes("hd95", far, better="lower"), of_volumes("hd95", DICE, better="lower")).verdict == BETTER
    assert only(of_volumes("hd95", DICE, better=None), of_volumes("hd95", far, better=None)).verdict == DIFFERENT


def test_identical_runs_have_no_difference() -> None:
    old = of_volumes("dice", DICE)
    same = only(old, old)
    assert (same.verdict, same.difference, same.low, same.high) == (UNCLEAR, 0, 0, 0)
    distance = result([figure("kid_3d", 1.0, 0.8, 1.2, better="lower")])
    assert only(distance, distance).verdict == UNCLEAR


def test_few_volumes_have_no_verdict() -> None:
    few = only(of_volumes("dice", [0.9] * 5), of_volumes("dice", [0.1] * 5))
    assert few.verdict == UNCLEAR
    assert "5 volumes are too few" in few.why
    assert only(of_volumes("dice", [0.9] * 6), of_volumes("dice", [0.1] * 6)).verdict == WORSE
    small = [result([figure("kid_3d", value, value - 1, value + 1, count=(5, 9))]) for value in (1.0, 9.0)]
    assert "5 volumes are too few" in only(*small).why


@pytest.mark.parametrize(
    ("new", "verdict"),
    [((1.3, 1.21, 1.4), WORSE), ((1.3, 1.19, 1.4), UNCLEAR), ((0.5, 0.4, 0.7), BETTER), ((1.3, None, None), UNCLEAR)],
)
def test_distances_of_sets_are_clear_if_their_intervals_do_not_overlap(new: Any, verdict: str) -> None:
    old = result([figure("descriptor_energy", 1.0, 0.8, 1.2, better="lower")])
    found = only(old, result([figure("descriptor_energy", *new, better="lower")]))
    assert found.verdict == verdict
    assert found.difference == pytest.approx(new[0] - 1.0)
    assert (found.low, found.high) == (None, None)


def test_figures_per_volume_that_are_not_what_the_value_is_made_of_are_not_used() -> None:
    old = result([figure("dice", 0.5, 0.4, 0.6)], rows("generated", "dice", DICE))
    assert only(old, of_volumes("dice", DICE)).how is None
    new = result([figure("dice", 0.9, 0.8, 1.0)], rows("generated", "dice", DICE))
    assert (only(old, new).how, only(old, new).verdict) == ("intervals", BETTER)


def test_memorised_volumes_are_counted_again_from_their_distances() -> None:
    real = rows("reference", "nearest_training", [float(each) for each in range(100, 120)], start=50)
    near = [*rows("generated", "nearest_training", [1.0] * COUNT), *real]
    far = [*rows("generated", "nearest_training", [300.0] * COUNT), *real]
    train = SetOfVolumes("nowhere/train", 9)
    clean = result([figure("memorised", 0.0, better="lower")], far, training=train)
    copies = result([figure("memorised", 1.0, better="lower")], near, training=train)
    found = only(clean, copies)
    assert (found.verdict, found.low, found.high) == (WORSE, 1, 1)
    median = [
        result([figure("nearest_training", value, better=None)], each, training=train)
        for value, each in ((300.0, far), (1.0, near))
    ]
    assert only(*median).verdict == DIFFERENT


def test_other_presets_and_networks_are_not_compared_but_the_rest_is() -> None:
    names = ("fid_2.5d", "kid_3d", "dice")
    old = result([figure(name, 1.0, 0.9, 1.1, parts={"network": "a", "sha256": "1" * 64}) for name in names])
    preset = {metric.name: metric for metric in compare(old, replace(old, preset="jade")).metrics}
    assert [preset[name].verdict for name in names] == [REFUSED, REFUSED, UNCLEAR]
    assert "presets differ: native and jade" in preset["fid_2.5d"].why
    assert preset["fid_2.5d"].difference is None
    other = result([figure(name, 1.0, 0.9, 1.1, parts={"network": "a", "sha256": "2" * 64}) for name in names])
    network = {metric.name: metric for metric in compare(old, other).metrics}
    assert [network[name].verdict for name in names] == [REFUSED, REFUSED, UNCLEAR]
    assert "feature networks differ: a (111111111111) and a (222222222222)" in network["kid_3d"].why


def test_other_reference_sets_are_not_compared_but_what_does_not_rest_on_them_is() -> None:
    names = ("descriptor_energy", "dice", "mask_coherence", "ms_ssim")
    metrics = [figure(name, 1.0, 0.9, 1.1) for name in names]
    old = result(metrics, rows("reference", "descriptor_z", DICE))
    moved = result(metrics, rows("reference", "descriptor_z", DICE), reference=SetOfVolumes("elsewhere", COUNT))
    assert {metric.verdict for metric in compare(old, moved).metrics} == {UNCLEAR}
    shifted = result(metrics, rows("reference", "descriptor_z", [value + 0.1 for value in DICE]))
    renamed = result(metrics, rows("reference", "descriptor_z", DICE, start=3))
    fewer = result(metrics, rows("reference", "descriptor_z", DICE), reference=SetOfVolumes("nowhere/real", 3))
    unknown = result(metrics, reference=SetOfVolumes("elsewhere", COUNT))
    for new in (shifted, renamed, fewer, unknown):
        verdicts = {metric.name: metric.verdict for metric in compare(old, new).metrics}
        assert [verdicts[name] for name in names] == [REFUSED, REFUSED, UNCLEAR, UNCLEAR]


def test_other_training_sets_scales_counts_and_methods_are_not_compared() -> None:
    train = [SetOfVolumes(path, 9) for path in ("one", "two")]
    near = [result([figure("nearest_training", 1.0, 0.9, 1.1)], training=each) for each in (*train, None)]
    assert only(near[0], near[0]).verdict == UNCLEAR
    for other in near[1:]:
        assert "training sets differ" in only(near[0], other).why
    scales = [result([figure("ms_ssim", 1.0, 0.9, 1.1, parts={"scales": count})]) for count in (3, 5)]
    assert "scales differ: 3 and 5" in only(*scales).why
    counts = [result([figure("fid_3d", 1.0, 0.9, 1.1, count=(count, 9))]) for count in (9, 10)]
    assert "fall with the number of volumes: 9 and 10" in only(*counts).why
    methods = [result([figure("dice", 1.0, 0.9, 1.1, method=method)]) for method in ("One.", "Two.")]
    assert "different ways" in only(*methods).why


def test_what_one_result_lacks_is_told() -> None:
    old = result([figure("dice", 1.0), figure("iou", None)])
    new = result([figure("iou", 0.5), figure("psnr", float("inf"))])
    found = compare(old, new)
    assert found.missing == {"dice": "only in the old result", "psnr": "only in the new result"}
    assert [metric.verdict for metric in found.metrics] == [REFUSED]
    same = compare(new, new)
    assert [metric.verdict for metric in same.metrics] == [UNCLEAR, REFUSED]
    json.loads(same.to_json())


def test_the_text_tells_every_metric() -> None:
    found = compare(of_volumes("dice", DICE), of_volumes("dice", [value / 2 for value in DICE]))
    assert "dice" in table(found)
    assert "worse" in table(found)
    assert summary(found) == "1 of 1 metrics compared: 1 worse"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tiny_sets.write(folder / "real", range(1, 8))
    tiny_sets.write(folder / "good", range(1, 8), noise=40)
    tiny_sets.write(folder / "bad", range(1, 8), bone=150, noise=250)
    for name in ("good", "bad"):
        metrics = ["psnr", "organs", "descriptor_energy"]
        found = evaluate(folder / name, folder / "real", paired=True, metrics=metrics, replicates=FEW)
        (folder / f"{name}.json").write_text(found.to_json())
    return folder


def test_a_regression_fails_the_command_and_shows_on_the_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ["-o", str(tmp_path / "c.json"), "--report", str(tmp_path / "c.html"), "--fail-on-worse"]
    assert main(["evaluate", "--compare", str(runs / "good.json"), str(runs / "bad.json"), *targets]) == 1
    assert "psnr" in capsys.readouterr().out
    content = json.loads((tmp_path / "c.json").read_text())
    verdicts = {metric["name"]: metric["verdict"] for metric in content["metrics"]}
    assert verdicts["psnr"] == verdicts["mask_coherence"] == WORSE
    page = Page((tmp_path / "c.html").read_text(encoding="utf-8"))
    for metric in content["metrics"]:
        assert metric["name"] in page.text
        assert metric["why"] in page.text
        assert f"{metric['old']['value']:.4g}" in page.text
        assert f"{metric['new']['value']:.4g}" in page.text
    for words in ("Clearly worse", "synthetic, old", "synthetic, new", "The old run", "The new run", "Synthetic."):
        assert words in page.text
    assert all((each["src"] or "").startswith("data:image/jpeg") for each in page.all("img"))
    assert len(page.pictures()) >= 2 * 4 + 2 * 2
    assert all(each.get("scope") for each in page.all("th"))


def test_identical_runs_do_not_fail_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = str(runs / "good.json")
    assert main(["evaluate", "--compare", same, same, "--fail-on-worse"]) == 0
    assert main(["evaluate", "--compare", str(runs / "bad.json"), same, "--fail-on-worse", "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert WORSE not in {metric["verdict"] for metric in json.loads(printed)["metrics"]}


def test_runs_whose_volumes_are_gone_have_a_page_too() -> None:
    found = compare(of_volumes("dice", DICE), of_volumes("dice", DICE))
    page = Page(compare_page(found, observer=going))
    assert "No pictures beside each other: 'nowhere/made' is not a folder" in page.text
    assert page.all("img") == []
    empty = Page(compare_page(compare(result([]), result([])), observer=going))
    assert "0 of 0 metrics compared" in empty.text
    with pytest.raises(RequestError, match="pictures"):
        compare_page(found, pictures=-1, observer=going)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fail-on-worse"], "--fail-on-worse: expected --compare"),
        (["made", "--compare", "e.json", "e.json"], "found 'made'"),
        (["--sweep", "steps=2", "--compare", "e.json", "e.json"], "found --sweep"),
        (["--compare", "e.json", "e.json", "--from", "e.json"], "found both"),
        (["--downstream", "segmentation", "--compare", "e.json", "e.json"], "found --sweep, --tune or --downstream"),
        (["--compare", "e.json", "e.json", "--fail-on-worse"], "nothing of the two results can be compared"),
        (["--compare", "e.json", "none.json"], "'none.json' cannot be read"),
        (["--compare", "e.json", "wrong.json"], "'wrong.json': expected the JSON"),
        (["--compare", "e.json", "e.json", "--train", "x"], "--train"),
        (["--compare", "e.json", "e.json", "--windows", "soft"], "--windows: expected --report"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.json").write_text(result([]).to_json())
    Path("wrong.json").write_text("[")
    assert main(["evaluate", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_comparison_that_cannot_be_written_leaves_nothing(runs: Path, tmp_path: Path) -> None:
    one = str(runs / "good.json")
    targets = ["-o", str(tmp_path / "c.json"), "--report", str(tmp_path / "none" / "c.html")]
    assert main(["evaluate", "--compare", one, one, *targets, "--quiet"]) == 4
    assert list(tmp_path.iterdir()) == []
