"""Charts of a report: values where their axis says, and every set that has them."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from ctfast.evaluate.charts import Dot, Row, Series, dots, histogram, spark, strip
from ctfast.evaluate.report_charts import REFERENCE, Run, charts_of
from ctfast.evaluate.result import Evaluation, FeatureInfo, Metric, SetOfVolumes
from ctfast.evaluate.svg import LinearAxis, LogAxis

MADE = Series("generated", 1)


def marks(picture: str, series: Series) -> list[tuple[float, float]]:
    """Where a series' marks are."""
    found = []
    for path in ElementTree.fromstring(picture).iter("path"):
        place = re.fullmatch(r"translate\((\S+) (\S+)\)", path.get("transform") or "")
        if place and path.get("fill") == series.colour:
            found.append((float(place[1]), float(place[2])))
    return found


def words(picture: str) -> list[str | None]:
    return [text.text for text in ElementTree.fromstring(picture).iter("text")]


@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1e-4, 0.1, 1.0, 1000.0, 1e12])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.0, 7.0), (5.0, 5.0), (0.0, 0.0), (0.9999, 5.0001)])
def test_linear_axes_have_round_ticks_inside(scale: float, ends: tuple[float, float]) -> None:
    axis = LinearAxis([end * scale for end in ends], 100, 500)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert len(set(ticks)) == len(ticks)
    assert all(len(f"{tick:g}") < 9 for tick in ticks)
    assert all(100 <= axis.at(tick) <= 500 for tick in ticks)
    assert axis.at(axis.low) == pytest.approx(100)
    assert axis.at(axis.high) == pytest.approx(500)


def test_axes_of_nothing() -> None:
    assert LinearAxis([], 0, 1).ticks()
    assert LogAxis([], 0, 1).ticks()


def test_strips_show_a_point_for_every_volume_in_proportion() -> None:
    picture = strip("psnr", "dB", [(MADE, [1.0, 2.0, 4.0]), (REFERENCE, [2.0, 2.0])])
    made, real = sorted(marks(picture, MADE)), marks(picture, REFERENCE)
    assert (made[2][0] - made[1][0]) == pytest.approx(2 * (made[1][0] - made[0][0]), abs=0.3)
    assert real[0][0] == real[1][0] == made[1][0]
    assert real[0][1] != real[1][1]  # equal values do not hide each other
    assert {"generated (3)", "reference (2)", "psnr (dB)"} <= set(words(picture))


def test_dots_lie_on_their_bounds_and_intervals() -> None:
    rows = [Row("a", [Dot(MADE, 3.0, 1.0, 5.0)], (0.0, 10.0)), Row("b", [Dot(MADE, 0.0), Dot(REFERENCE, 10.0)])]
    picture = dots("HU", "", rows, at=5.0)
    band = next(iter(ElementTree.fromstring(picture).iter("rect")))
    left, width = float(band.get("x") or 0), float(band.get("width") or 0)
    (three, nought), (ten,) = marks(picture, MADE)[:2], marks(picture, REFERENCE)[:1]
    assert nought[0] == pytest.approx(left, abs=0.2)
    assert ten[0] == pytest.approx(left + width, abs=0.2)
    assert three[0] == pytest.approx(left + 0.3 * width, abs=0.2)
    assert "stroke-dasharray" in picture


def test_histograms_are_parts_of_each_set() -> None:
    picture = histogram("d", "HU", [(MADE, [1.0] * 3 + [9.0]), (REFERENCE, [1.0])])
    heights = {
        colour: sorted(float(box.get("height") or 0) for box in ElementTree.fromstring(picture).iter("rect")
                       if box.get("fill") == colour)
        for colour in (MADE.colour, REFERENCE.colour)
    }  # fmt: skip
    full = heights[REFERENCE.colour][-1]
    assert heights[MADE.colour][-2:] == pytest.approx([0.25 * full, 0.75 * full], abs=0.3)
    assert sum(heights[REFERENCE.colour]) == pytest.approx(full)


def test_words_in_pictures_are_escaped() -> None:
    evil = "<script>&\"'"
    pictures = [
        strip(evil, evil, [(Series(evil, 0), [1.0])]),
        dots(evil, evil, [Row(evil, [Dot(Series(evil, 0), 1.0)])]),
        histogram(evil, evil, [(Series(evil, 0), [1.0])]),
        spark(evil, [Dot(MADE, 1.0, 0.0, 2.0)]),
    ]
    for picture in pictures:
        assert evil in (ElementTree.fromstring(picture).get("aria-label") or "")
        assert "<script" not in picture


def evaluation(metrics: list[Metric], per_volume: list[dict[str, Any]]) -> Evaluation:
    sets = SetOfVolumes("nowhere", 2)
    info = FeatureInfo("random-2d", None, False)
    return Evaluation("0.1.0", "now", sets, sets, "native", info, tuple(metrics), tuple(per_volume))


def metric(name: str, **parts: Any) -> Metric:
    return Metric(name, "organs", 1.0, "", "lower", (2, 2), False, "A.", parts=parts)


def test_every_chart_that_there_are_figures_for() -> None:
    gap = {"generated": 1.0, "real": 3.0, "z": 2.0}
    organ = {"generated": 1.0, "reference": 2.0, "low": 0.0, "high": 4.0}
    metrics = [
        metric("descriptor_energy", reference=0.1, hu_p5=gap),
        metric("organ_hu", **{"10": organ, "9": organ}),
        metric("fid_2.5d", **{"full/xy": 1.0, "full/yz": 2.0, "reference": 0.5, "network": "n"}),
        metric("dice", **{"9": 0.5, "body": 1.0}),
    ]
    keys = ("descriptor_z", "nearest_training", "psnr_vae")
    rows = [{"name": "v", "set": which, **dict.fromkeys(keys, 1.0)} for which in ("generated", "reference")]
    result = evaluation(metrics, rows)
    shown = "\n".join(charts_of([Run(MADE, result)]))
    labels = re.findall(r'aria-label="([^"]+)"', shown)
    assert labels == [
        "descriptor_z (standard deviations)",
        "psnr_vae (dB)",
        "deviation (standard deviations of the reference set)",
        "median HU of organs (HU)",
        "nearest_training (RMS HU)",
        "fid_2.5d",
        "dice per label",
    ]
    assert shown.index("label 9<") < shown.index("label 10<")
    two = "\n".join(charts_of([Run(Series("old", 2), result), Run(Series("new", 1), result)]))
    assert all(f"{name} (1)" in two for name in ("old", "new", "reference"))
    vae = two.split('aria-label="psnr_vae (dB)"')[1].split("</svg>")[0]
    assert "old (1)" in vae
    assert "reference (1)" not in vae
    assert charts_of([Run(MADE, evaluation([], []))]) == []


def test_deviations_have_the_sign_of_the_difference() -> None:
    gaps = {"a": {"generated": 1.0, "real": 3.0, "z": 2.0}, "b": {"generated": 3.0, "real": 1.0, "z": 2.0}}
    (picture,) = charts_of([Run(MADE, evaluation([metric("descriptor_energy", **gaps)], []))])
    svg = picture[picture.index("<svg") : picture.index("</svg>") + 6]
    first, second = sorted(marks(svg, MADE), key=lambda place: place[1])[-2:]
    assert first[0] < second[0]
