"""``evaluate`` and its command: which metrics sets allow, extremes, marks, errors, caches and cancellation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_plan, tiny_sets

import ctfast
from ctfast.cli.main import main
from ctfast.errors import CancelledError, CheckpointError, RequestError
from ctfast.evaluate import metrics_distribution
from ctfast.evaluate.bootstrap import halves
from ctfast.evaluate.result import Evaluation
from ctfast.evaluate.run import METRICS, evaluate

FEW = 20


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    tiny_sets.write(folder / "real", range(1, 7))
    tiny_sets.write(folder / "more", range(21, 27))
    tiny_sets.write(folder / "wrong", range(31, 36), bone=100, noise=120)
    tiny_sets.write(folder / "train", range(41, 51))
    tiny_sets.write(folder / "bare", range(51, 54), labels=False)
    return folder


@pytest.fixture(scope="module")
def everything(sets: Path) -> Evaluation:
    return evaluate(sets / "more", sets / "real", train=sets / "train", replicates=FEW)


def test_everything_that_the_sets_allow_is_computed(everything: Evaluation) -> None:
    left_out = {"psnr", "ssim", "psnr_vae", "ssim_vae", "dice", "iou", "hd95", "asd", "nsd"}
    assert [metric.name for metric in everything.metrics] == [name for name in METRICS if name not in left_out]
    assert set(everything.skipped) == left_out
    assert (everything.generated.volumes, everything.reference.volumes) == (6, 6)
    assert everything.preset == "native"
    for metric in everything.metrics:
        assert metric.group == METRICS[metric.name]
        assert metric.value is not None, metric.name
        assert metric.low is not None, metric.name
        assert metric.high is not None, metric.name
        assert metric.low <= metric.value <= metric.high or metric.name in ("organ_hu", "descriptor_spread"), (
            metric.name
        )
        assert metric.method.endswith("."), metric.name
    assert Evaluation.from_json(everything.to_json()).to_json() == everything.to_json()


def test_figures_of_random_features_are_not_comparable(everything: Evaluation) -> None:
    assert everything.features.network == "random-2d"
    comparable = {metric.name for metric in everything.metrics if metric.comparable}
    assert comparable == set()


def test_the_planes_are_averaged(everything: Evaluation) -> None:
    metric = everything.metric("fid_2.5d")
    planes = [metric.parts[f"full/{plane}"] for plane in ("xy", "yz", "zx")]
    assert metric.value == pytest.approx(np.mean(planes))


def test_beside_a_distance_stands_that_of_halves_of_the_reference_set(
    sets: Path, tmp_path: Path, everything: Evaluation
) -> None:
    first, _ = halves(6, 0) or pytest.fail("six volumes have halves")
    for seed in range(1, 7):
        hu, _ = tiny_sets.volume(seed)
        tiny_sets.save(tmp_path / ("a" if first[seed - 1] else "b") / f"v{seed:02d}_ct.nii.gz", hu)
    split = evaluate(tmp_path / "a", tmp_path / "b", metrics=["distribution"], replicates=0)
    for metric in split.metrics:
        found = everything.metric(metric.name).parts["reference"]
        if metric.name == "descriptor_energy":  # which is standardised by the whole set there
            assert found < metric.value
        else:
            assert found == pytest.approx(metric.value, rel=1e-6), metric.name
        assert metric.parts["reference"] is None


def test_volumes_have_one_row_each(everything: Evaluation) -> None:
    rows = {
        which: [row for row in everything.per_volume if row["set"] == which] for which in ("generated", "reference")
    }
    assert [row["name"] for row in rows["generated"]] == [f"v{seed}" for seed in range(21, 27)]
    assert [row["name"] for row in rows["reference"]] == [f"v{seed:02d}" for seed in range(1, 7)]
    for row in everything.per_volume:
        assert 41 <= int(row["nearest"][1:]) <= 50
        assert {"descriptor_z", "organ_outliers", "mask_coherence", "nearest_training"} < set(row)
    coherence = everything.metric("mask_coherence")
    assert coherence.value == pytest.approx(np.mean([row["mask_coherence"] for row in rows["generated"]]))
    # In standard deviations of the reference set itself.
    assert np.mean([row["descriptor_z"] ** 2 for row in rows["reference"]]) == pytest.approx(1, abs=0.2)


def test_the_same_set_is_at_no_distance(sets: Path) -> None:
    result = evaluate(sets / "real", sets / "real", paired=True, train=sets / "real", replicates=FEW)
    for name in ("fid_2.5d", "fid_3d", "organ_hu", "organ_outliers", "hd95", "asd"):
        assert result.metric(name).value == pytest.approx(0, abs=1e-4), name
    for name in ("ssim", "dice", "iou", "nsd"):
        assert result.metric(name).value == pytest.approx(1), name
    for name in ("kid_2.5d", "kid_3d", "descriptor_energy"):
        value = result.metric(name).value
        assert value is not None
        assert value < 0, name
    assert result.metric("descriptor_spread").value == 1
    assert result.metric("psnr").value == float("inf")
    assert result.metric("nearest_training").value == 0


def test_a_wrong_set_is_further_away_in_everything(sets: Path, everything: Evaluation) -> None:
    wrong = evaluate(sets / "wrong", sets / "real", replicates=0)
    # Not kid_3d, to which six volumes say too little.
    for name in ("fid_2.5d", "kid_2.5d", "fid_3d", "descriptor_energy", "organ_hu", "organ_outliers"):
        far, near = wrong.metric(name).value, everything.metric(name).value
        assert far is not None
        assert near is not None
        assert far > near, name
    assert wrong.metric("organ_hu").value == pytest.approx(250, abs=20)
    coherence = wrong.metric("mask_coherence")
    assert coherence.value is not None
    assert coherence.value < coherence.parts["reference"]
    assert all(metric.low is None and metric.high is None for metric in wrong.metrics)


def test_copies_of_training_volumes_are_told(sets: Path) -> None:
    result = evaluate(sets / "train", sets / "real", train=sets / "train", metrics=["memorisation"])
    assert result.metric("memorised").value == 1
    assert result.metric("nearest_training").parts["smallest"] == 0
    assert result.metric("nearest_training").parts["reference"] > 0
    assert {row["nearest"] for row in result.per_volume if row["set"] == "generated"} == {
        f"v{n}" for n in range(41, 51)
    }


def test_one_volume(sets: Path) -> None:
    result = evaluate(sets / "more", sets / "real", limit=1, replicates=0)
    assert {"fid_2.5d", "kid_2.5d", "descriptor_energy", "organ_hu"} <= {metric.name for metric in result.metrics}
    assert {"fid_3d", "kid_3d", "ms_ssim"} <= set(result.skipped)
    assert result.generated.volumes == 1
    with pytest.raises(RequestError, match=r"'ms_ssim'.*at least two are needed"):
        evaluate(sets / "more", sets / "real", limit=1, metrics=["ms_ssim"])


def test_sets_without_labels_or_of_several_sizes(sets: Path, tmp_path: Path) -> None:
    bare = evaluate(sets / "bare", sets / "real", metrics=["diversity"], replicates=0)
    assert [metric.name for metric in bare.metrics] == ["descriptor_spread", "ms_ssim"]
    with pytest.raises(RequestError, match=r"metrics: 'organs'.*bare' has no label maps"):
        evaluate(sets / "bare", sets / "real", metrics=["organs"])
    mixed = tiny_sets.write(tmp_path / "mixed", [1])
    tiny_sets.write(mixed, [2], size=(26, 20, 16))
    result = evaluate(mixed, sets / "real", replicates=0)
    assert "one size" in result.skipped["ms_ssim"]
    with pytest.raises(RequestError, match="one size"):
        evaluate(mixed, sets / "real", metrics=["ms_ssim"], replicates=0)


def test_pairs_are_compared_one_by_one(sets: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for seed in (2, 3):
        hu, labels = tiny_sets.volume(seed)
        tiny_sets.save(made / f"v{seed:02d}_ct.nii.gz", np.where(labels > 0, hu + 20, hu).astype(np.int16))
        labels[labels == tiny_sets.BONE] = tiny_sets.BODY
        tiny_sets.save(made / f"v{seed:02d}_seg.nii.gz", labels)
    result = evaluate(made, sets / "real", paired=True, metrics=["psnr", "masks"], replicates=FEW)
    assert result.metric("psnr").parts["body"] == pytest.approx(40, abs=1e-6)
    dice = result.metric("dice")
    assert dice.parts[str(tiny_sets.BONE)] == 0
    assert 0.8 < dice.parts[str(tiny_sets.BODY)] < 1
    assert [row["name"] for row in result.per_volume] == ["v02", "v03"]
    assert dice.value == pytest.approx(np.mean([row["dice"] for row in result.per_volume]))
    tiny_sets.write(made, [9])
    with pytest.raises(RequestError, match="v09 without a partner"):
        evaluate(made, sets / "real", paired=True, metrics=["psnr"])
    tiny_sets.save(made / "v09_ct.nii.gz", np.zeros((5, 5, 5), np.int16))
    (made / "v09_ct.nii.gz").rename(made / "v04_ct.nii.gz")
    (made / "v09_seg.nii.gz").unlink()
    with pytest.raises(RequestError, match=r"v04_ct.nii.gz': expected the size of"):
        evaluate(made, sets / "real", paired=True, metrics=["psnr"])


def test_a_plans_reconstructions(tmp_path: Path) -> None:
    real = tiny_sets.write(tmp_path / "real", [1, 2], size=tiny_plan.SIZE)
    engine = ctfast.load(tiny_plan.write(tmp_path / "tiny.plan"), threads=1)
    result = evaluate(real, real, engine=engine, metrics=["psnr_vae", "ssim_vae"], replicates=FEW)
    assert result.metric("psnr_vae").count == (0, 2)
    assert result.metric("psnr_vae").comparable
    assert result.features.network == "none"
    assert {row["set"] for row in result.per_volume} == {"reference"}
    values = [row["psnr_vae"] for row in result.per_volume]
    assert result.metric("psnr_vae").value == pytest.approx(np.mean(values))


def test_features_are_kept_and_a_broken_off_run_goes_on(sets: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> bool:
        return not (stage == "reference" and done == 2)

    arguments: dict[str, Any] = {"metrics": ["fid_2.5d"], "cache": tmp_path / "cache", "replicates": 0}
    with pytest.raises(CancelledError, match="reference"):
        evaluate(sets / "more", sets / "real", progress=stop, **arguments)
    kept = sorted((tmp_path / "cache").iterdir())
    assert len(kept) == 8
    times = [path.stat().st_mtime_ns for path in kept]
    first = evaluate(sets / "more", sets / "real", **arguments)
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert len(list((tmp_path / "cache").iterdir())) == 12
    assert (
        first.metric("fid_2.5d").value == evaluate(sets / "more", sets / "real", **arguments).metric("fid_2.5d").value
    )


def test_wide_features_are_added_up_from_disk_to_the_same_figures(
    sets: Path, everything: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_distribution, "_NARROW", 10)
    monkeypatch.setattr(metrics_distribution, "_WIDE_REPLICATES", 3)
    wide = evaluate(sets / "more", sets / "real", metrics=["fid_2.5d"], replicates=FEW).metric("fid_2.5d")
    narrow = everything.metric("fid_2.5d")
    assert wide.value == pytest.approx(narrow.value, rel=1e-6)
    for plane in ("full/xy", "full/yz", "full/zx"):
        assert wide.parts[plane] == pytest.approx(narrow.parts[plane], rel=1e-6)
    assert wide.high != narrow.high
    assert wide.high is not None


def test_progress_tells_stages(sets: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(
        sets / "bare", sets / "more", replicates=0, metrics=["diversity"], progress=lambda *each: seen.append(each)
    )
    assert {"generated", "reference", "ms_ssim generated", "ms_ssim reference"} == {stage for stage, _, _ in seen}
    assert ("generated", 3, 3) in seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["fid"]}, "expected of fid_2.5d.*found 'fid'"),
        ({"metrics": ["psnr"]}, "'psnr': only for sets whose volumes belong together"),
        ({"metrics": ["psnr_vae"]}, "only with a plan"),
        ({"metrics": ["memorised"]}, "trained on"),
        ({"preset": "maisi"}, "preset: expected one of"),
        ({"replicates": -1}, "replicates"),
        ({"train": "gone"}, "'gone' is not a folder"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is(sets: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate(sets / "more", sets / "real", progress=lambda *_: pytest.fail("work was done"), **options)


def test_weights_of_no_known_network(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"weights.pth cannot be read"):
        evaluate(sets / "more", sets / "real", features=[tmp_path / "weights.pth"])


def test_files_among_the_volumes_are_named(tmp_path: Path, sets: Path) -> None:
    folder = tiny_sets.write(tmp_path / "set", [1, 2])
    (folder / "slide.tif").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"set': left out what is no volume: slide.tif"):
        evaluate(folder, sets / "real", metrics=["descriptor_energy"], replicates=0)


def test_the_command_writes_a_result_and_prints_a_table(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "result.json"
    words = [
        "evaluate",
        str(sets / "more"),
        "--reference",
        str(sets / "real"),
        "--metrics",
        "organs, descriptor_energy",
    ]
    assert main([*words, "--bootstrap", "20", "-o", str(output)]) == 0
    table = capsys.readouterr().out
    result = Evaluation.load(output)
    assert "descriptor_energy*" in table
    assert "not comparable" in table
    assert f"{result.metric('organ_hu').value:.4g} HU" in table
    assert main([*words, "--bootstrap", "20", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"] == json.loads(output.read_text())["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "GENERATED --reference REAL"),
        (("{sets}/more",), "--reference FOLDER"),
        (("{sets}/gone", "--reference", "{sets}/real"), "is not a folder"),
        (("{sets}/more", "--reference", "{sets}/real", "--preset", "x"), "expected one of native"),
        (("{sets}/more", "--reference", "{sets}/real", "-o", "{sets}/none/r.json"), "does not exist"),
        (("{sets}/more", "--reference", "{sets}/real", "--sweep", "steps=2"), "found both"),
        (("--reference", "{sets}/real"), "expected a folder of volumes in front"),
        (("--paired",), "--paired: expected a folder"),
    ],
)
def test_bad_input_is_one_message(
    words: tuple[str, ...], message: str, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["evaluate", *(word.format(sets=sets) for word in words)])
    captured = capsys.readouterr()
    assert code in (2, 4)
    assert captured.err.startswith("ctfast: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
