"""The report of an evaluation: a page that is whole, self-contained and complete, whatever the sets lack."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import tiny_sets
from support.pages import Page

from ctfast.cli.main import main
from ctfast.errors import CancelledError, OutputError, RequestError
from ctfast.evaluate.report import report_page, write_report
from ctfast.evaluate.report_verdict import cautions, verdicts
from ctfast.evaluate.report_worst import worst_cases
from ctfast.evaluate.result import Evaluation, FeatureInfo, Metric, SetOfVolumes
from ctfast.evaluate.run import evaluate

FEW = 20
# What may load something from elsewhere, or run it.
LOADS = ("script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "image", "use")


def going(stage: str, done: int, total: int) -> bool:
    return True


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    tiny_sets.write(folder / "real", range(1, 7))
    tiny_sets.write(folder / "made", range(1, 6), bone=900, noise=60)
    tiny_sets.write(folder / "train", range(41, 47))
    meta = {
        "synthetic": True,
        "steps": 30,
        "solver": "euler",
        "time_grid": "monai",
        "plan": {"name": "tiny", "variant": "tiny", "revision": "r1", "sha256": "5" * 64},
        "licence": {"class": "open", "text": "Weights: Apache-2.0."},
        "ctfast": "9.8.7",
    }
    for seed in range(1, 5):
        (folder / "made" / f"v{seed:02d}_ct.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def paired(sets: Path) -> Evaluation:
    return evaluate(sets / "made", sets / "real", train=sets / "train", paired=True, replicates=FEW)


@pytest.fixture(scope="module")
def text(paired: Evaluation) -> str:
    return report_page(paired, observer=going)


def made_up(**changes: Any) -> Evaluation:
    """A result of sets that are nowhere."""
    metric = Metric("psnr", "reconstruction", 31.5, "dB", "higher", (1, 1), True, "A method.")
    result = Evaluation(
        ctfast="0.1.0",
        date="2026-01-01T00:00:00+00:00",
        generated=SetOfVolumes("nowhere/made", 1),
        reference=SetOfVolumes("nowhere/real", 1),
        preset="native",
        features=FeatureInfo("random-2d", None, False),
        metrics=(metric,),
    )
    return replace(result, **changes)


def test_a_page_needs_nothing_from_elsewhere(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in LOADS
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert (value or "").startswith("data:image/jpeg;base64,")
    assert "@import" not in text
    assert not re.search(r"url\(", text)
    assert "http" not in page.text
    (policy,) = (each["content"] for each in page.all("meta") if each.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'")


def test_it_tells_every_metric_with_its_figures(text: str, paired: Evaluation) -> None:
    seen = Page(text).text
    assert len(paired.metrics) >= 19
    for metric in paired.metrics:
        assert metric.name in seen
        assert f"{metric.value:.4g}" in seen, metric.name
        if metric.low is not None:
            assert f"{metric.low:.4g} to {metric.high:.4g}" in seen, metric.name
        assert metric.method in seen
    for name, reason in paired.skipped.items():
        assert name in seen
        assert reason in seen
    assert "not comparable with figures in papers" in seen


def test_it_tells_what_was_compared_and_what_made_it(text: str, sets: Path) -> None:
    seen = Page(text).text
    for words in (str(sets / "made"), str(sets / "real"), str(sets / "train"), "native", "random-2d", "tiny r1"):
        assert words in seen
    for words in ("5" * 64, "30 steps of euler, monai time grid", "open: Weights: Apache-2.0.", "ctfast 9.8.7"):
        assert words in seen
    assert "1 of the generated volumes have no JSON beside them" in seen
    assert "Synthetic. Not for diagnostic use." in seen


def test_headings_tables_and_pictures_can_be_read_aloud(text: str) -> None:
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.all("th")
    assert all(each.get("scope") in ("row", "col") for each in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("axial" in (each["alt"] or "") and each["width"] and each["height"] for each in page.all("img"))
    assert page.all("svg")
    assert all(each["role"] == "img" and each["aria-label"] for each in page.all("svg"))


def test_worst_cases_are_those_of_each_figure(text: str, paired: Evaluation) -> None:
    cases = {case.name: case for case in worst_cases(paired)}
    rows = [row for row in paired.per_volume if row["set"] == "generated"]
    for key, worst in (("descriptor_z", max), ("psnr", min), ("nearest_training", min), ("mask_coherence", min)):
        row = worst(rows, key=lambda each: each[key])
        assert any(reason.startswith(f"{key} {row[key]:.4g}") for reason in cases[row["name"]].reasons), key
    nearest = min(rows, key=lambda each: each["nearest_training"])
    assert cases[nearest["name"]].beside["training"] == nearest["nearest"]
    seen = Page(text).text
    for case in cases.values():
        assert f"{case.name}, synthetic" in seen
        for reason in case.reasons:
            assert reason in seen
    assert f"{nearest['nearest']}, nearest training volume" in seen


def test_paired_volumes_are_shown_beside_their_namesakes(text: str, paired: Evaluation) -> None:
    captions = re.findall(r"<figcaption>(v\d+), (synthetic|reference)</figcaption>", text.split("Worst cases")[0])
    assert captions == [pair for name, _ in captions[::2] for pair in ((name, "synthetic"), (name, "reference"))]
    assert len(captions) == 8
    assert report_page(paired, observer=going) == text
    assert report_page(paired, seed=1, observer=going) != text


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = """<img src=x onerror="alert('1')">&amp;"""
    hu, labels = tiny_sets.volume(1)
    name = "a<b>&'quote' onload=x"
    for folder in ("made", "real"):
        tiny_sets.save(tmp_path / folder / f"{name}_ct.nii.gz", hu)
        tiny_sets.save(tmp_path / folder / f"{name}_seg.nii.gz", labels)
    (tmp_path / "made" / f"{name}_ct.json").write_text(json.dumps({"plan": {"name": evil}, "licence": {"text": evil}}))
    result = evaluate(tmp_path / "made", tmp_path / "real", paired=True, metrics=["psnr", "organ_hu"], replicates=0)
    parts = {evil: {"generated": 1.0, "reference": 2.0, "low": 0.0, "high": 3.0}}
    metrics = [replace(metric, parts=parts, method=evil, unit=evil) for metric in result.metrics]
    result = replace(result, metrics=tuple(metrics), skipped={evil: evil}, preset=evil, date=evil)
    page = Page(report_page(result, observer=going))
    assert len(page.all("img")) == len(page.pictures()) > 0
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "script"})
    assert f"{name}, synthetic" in page.text
    assert page.text.count(evil) >= 6
    assert all((each["alt"] or "").startswith(name) for each in page.all("img"))


def test_a_saved_result_without_its_volumes_has_a_page_without_pictures(
    paired: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(paired, generated=SetOfVolumes("gone/made", 5), training=None)
    (tmp_path / "saved.json").write_text(gone.to_json())
    arguments = ["evaluate", "--from", str(tmp_path / "saved.json"), "--report", str(tmp_path / "page.html")]
    assert main(arguments) == 0
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "No pictures of the generated set: 'gone/made'" in page.text.replace(str(tmp_path) + "/", "")
    assert "no picture" in page.text
    assert len(page.pictures()) == 4 + sum("reference" in case.beside for case in worst_cases(gone))
    assert "page.html" in capsys.readouterr().out


def test_relative_folders_are_also_looked_for_beside_the_saved_result(paired: Evaluation, sets: Path) -> None:
    moved = replace(paired, generated=SetOfVolumes("made", 5), reference=SetOfVolumes("real", 6))
    write_report(moved, sets / "moved.html", base=sets, pictures=1)
    assert "No pictures" not in (sets / "moved.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "result",
    [
        made_up(),
        made_up(metrics=()),
        made_up(per_volume=({"name": "a", "set": "generated", "psnr": 31.5},)),
        made_up(per_volume=({"name": "a"}, {"name": "b", "set": "generated", "psnr": None, "dice": "x"})),
        made_up(metrics=(Metric("psnr", "reconstruction", None, "dB", "higher", (1, 1), True, "A method."),)),
        made_up(metrics=(Metric("psnr", "reconstruction", float("inf"), "dB", "higher", (1, 1), True, "A."),)),
        made_up(
            metrics=(Metric("organ_hu", "organs", 1.0, "HU", None, (1, 1), True, "A.", parts={"1": {"low": None}}),)
        ),
    ],
)
def test_results_that_hold_little_have_a_page_too(result: Evaluation) -> None:
    page = Page(report_page(result, observer=going))
    assert "No pictures of the generated set" in page.text
    assert "NaN" not in page.text


def test_a_set_of_one_volume_without_labels(tmp_path: Path) -> None:
    tiny_sets.write(tmp_path / "made", [1], labels=False)
    tiny_sets.write(tmp_path / "real", [2], labels=False)
    result = evaluate(tmp_path / "made", tmp_path / "real", replicates=FEW)
    page = Page(report_page(result, windows=["brain"], observer=going))
    assert len(page.pictures()) == 2 + 1
    assert "brain W80 L40" in page.text
    assert "left out" in page.text.lower()


def test_a_page_of_many_volumes_stays_small(tmp_path: Path) -> None:
    tiny_sets.write(tmp_path / "made", range(24), size=(48, 48, 32), noise=200)
    tiny_sets.write(tmp_path / "real", range(24, 48), size=(48, 48, 32), noise=200)
    names = [f"v{seed:02d}" for seed in range(24)]
    keys = ("descriptor_z", "organ_outliers", "mask_coherence", "nearest_training", "dice", "psnr")
    rows = [
        {"name": name, "set": "generated", **{key: (index * 7 + 4 * row) % 24 + 1.0 for row, key in enumerate(keys)}}
        for index, name in enumerate(names)
    ]
    result = made_up(
        generated=SetOfVolumes(str(tmp_path / "made"), 24),
        reference=SetOfVolumes(str(tmp_path / "real"), 24),
        per_volume=tuple(rows),
    )
    text = report_page(result, observer=going)
    assert len(Page(text).pictures()) >= 8 + 8
    assert len(text) < 2.5e6


def metric(name: str, value: float, low: float | None, high: float | None, **parts: Any) -> Metric:
    return Metric(name, "organs", value, "", None, (9, 9), False, "A.", low, high, parts)


@pytest.mark.parametrize(
    ("given", "differs", "words"),
    [
        (metric("fid_2.5d", 3.0, 2.0, 4.0, reference=1.0), True, "farther"),
        (metric("fid_2.5d", 3.0, 0.5, 4.0, reference=1.0), False, "reaches"),
        (metric("kid_3d", 3.0, 2.0, 4.0), None, "too small"),
        (metric("kid_3d", 3.0, None, None, reference=1.0), None, "no interval"),
        (metric("ms_ssim", 0.9, 0.85, 0.95, reference=0.7, reference_low=0.6, reference_high=0.8), True, "above"),
        (metric("ms_ssim", 0.82, 0.75, 0.95, reference=0.7, reference_low=0.6, reference_high=0.8), False, "overlap"),
        (
            metric("mask_coherence", 0.7, 0.6, 0.8, reference=0.7, reference_low=0.6, reference_high=0.8),
            False,
            "inside",
        ),
        (metric("mask_coherence", 0.2, 0.1, 0.3, reference=0.7, reference_low=0.6, reference_high=0.8), True, "below"),
        (metric("descriptor_spread", 0.5, 0.3, 0.7), True, "less varied"),
        (metric("descriptor_spread", 0.9, 0.3, 1.7), False, "holds 1"),
        (metric("organ_outliers", 0.0, 0.0, 0.0), False, "every organ"),
        (metric("organ_outliers", 0.2, 0.1, 0.3), True, "20.0% (10.0% to 30.0%)"),
        (metric("organ_outliers", 0.05, 0.0, 0.15), False, "reaches 0: 5.0% (0.0% to 15.0%)"),
        (metric("memorised", 0.5, 0.3, 0.7), True, "nearer to the training set"),
        (metric("memorised", 0.1, 0.0, 0.3), False, "not clearly nearer"),
        (metric("psnr", 30.0, 29.0, 31.0), None, "no figure of its own"),
    ],
)
def test_verdicts_follow_their_rules(given: Metric, differs: bool | None, words: str) -> None:
    (verdict,) = verdicts(made_up(metrics=(given,)))
    assert verdict.differs is differs
    assert words in verdict.why


def test_cautions_tell_of_small_sets_and_random_features() -> None:
    few = made_up(metrics=(metric("fid_2.5d", 3.0, 2.0, 4.0),))
    assert any("1 and 1 volumes" in words for words in cautions(few))
    assert any("random-2d" in words for words in cautions(few))
    sets = SetOfVolumes("nowhere", 30)
    many = replace(few, generated=sets, reference=sets, features=FeatureInfo("inception", "5" * 64, True))
    assert len(cautions(many)) == 2
    assert len(cautions(replace(many, metrics=()))) == 1


def test_the_command_writes_result_and_page_together(sets: Path, tmp_path: Path) -> None:
    arguments = [str(sets / "made"), "--reference", str(sets / "real"), "--metrics", "descriptor_energy,organs"]
    options = ["--bootstrap", "5", "--windows", "bone,brain", "--pictures", "1", "--quiet"]
    targets = ["-o", str(tmp_path / "e.json"), "--report", str(tmp_path / "e.html")]
    assert main(["evaluate", *arguments, *options, *targets]) == 0
    page = Page((tmp_path / "e.html").read_text(encoding="utf-8"))
    result = Evaluation.load(tmp_path / "e.json")
    assert "bone W1800 L400; brain W80 L40" in page.text
    assert len(page.pictures()) == 2 + len(worst_cases(result))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.html", "e.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "e.json"], "expected the page to write with it: --report"),
        (["--from", "e.json", "--report", "p.pdf"], "ends in .html, found 'p.pdf'"),
        (["--from", "e.json", "--report", "p.html", "--windows", "soft,liver"], "found 'soft,liver'"),
        (["--from", "e.json", "--report", "p.html", "--pictures", "-1"], "found -1"),
        (["--from", "e.json", "--report", "p.html", "-o", "x.json"], "leave -o out"),
        (["--from", "none.json", "--report", "p.html"], "'none.json' cannot be read"),
        (["--from", "e.json", "--report", "p.html", "--train", "x"], "--train"),
        (["made", "--from", "e.json", "--report", "p.html"], "found 'made'"),
        (["--report", "p.html"], "--report: expected GENERATED"),
        (["made", "--reference", "real", "--pictures", "2"], "--pictures: expected --report"),
        (["--sweep", "steps=2", "--windows", "soft"], "--windows: expected --report"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.json").write_text(made_up().to_json())
    assert main(["evaluate", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_a_page_that_is_not_finished_leaves_nothing(paired: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        write_report(paired, tmp_path / "page.html", progress=lambda stage, done, total: stage != "worst cases")
    with pytest.raises(RequestError, match="windows"):
        write_report(paired, tmp_path / "page.html", windows=["x"])
    with pytest.raises(RequestError, match="pictures"):
        write_report(paired, tmp_path / "page.html", pictures=-1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="does not exist"):
        write_report(paired, tmp_path / "none" / "page.html")
