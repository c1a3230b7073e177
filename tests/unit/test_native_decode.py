"""Decoding whole and in windows, and encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctfast import _native
from ctfast.errors import CancelledError, PlanError, RequestError

LATENT = np.random.default_rng(0).standard_normal((4, 10, 12, 7)).astype(np.float32)


def upsample(latent: Any, factor: tuple[int, int, int]) -> Any:
    """A network whose output depends on where its window was cut: it has statistics, as group norms have."""
    image = np.tanh(latent).sum(axis=1, keepdims=True)
    image = (image - image.mean()) / (image.std() + 0.5)
    for axis, times in enumerate(factor):
        image = image.repeat(times, axis + 2)
    ramp = np.linspace(-1, 1, image.shape[-1], dtype=np.float32)
    return (image + 0.1 * ramp).astype(np.float32)


class Decoder:
    def __init__(self, factor: tuple[int, int, int] = (4, 4, 4)) -> None:
        self.calls: list[Any] = []
        self.factor = factor
        self.session = _native.CallableSession(["latent"], ["image"], self._run)

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(inputs["latent"])
        return {"image": upsample(inputs["latent"], self.factor)}


@pytest.mark.parametrize("window", [None, (10, 12, 7), (30, 30, 1), (20, 20, 20)])
def test_one_call_without_a_window_or_when_the_latent_has_no_more_voxels(window: Any) -> None:
    decoder = Decoder()
    image = _native.decode(decoder.session, LATENT, 2.0, window=window)
    assert [call.shape for call in decoder.calls] == [(1, 4, 10, 12, 7)]
    assert np.array_equal(decoder.calls[0][0], LATENT / np.float32(2.0))
    assert image.shape == (40, 48, 28)
    assert np.array_equal(image, upsample(LATENT[None] / np.float32(2.0), (4, 4, 4))[0, 0])


WINDOWS = [
    ((6, 6, 6), 0.4, (4, 4, 4)),
    ((4, 12, 9), 0.25, (4, 4, 4)),  # an axis smaller than the window
    ((8, 8, 7), 0.6666, (2, 2, 2)),
    ((5, 7, 3), 0.5, (4, 2, 1)),  # axes compressed differently
    ((3, 3, 3), 0.0, (1, 1, 1)),
]


@pytest.mark.parametrize(("window", "overlap", "factor"), WINDOWS)
def test_windows_equal_monais(window: Any, overlap: float, factor: Any) -> None:
    torch = pytest.importorskip("torch")
    inferers = pytest.importorskip("monai.inferers")
    roi = tuple(min(w, s) for w, s in zip(window, LATENT.shape[1:], strict=True))
    inferer = inferers.SlidingWindowInferer(roi_size=roi, sw_batch_size=1, overlap=overlap, mode="gaussian")
    calls = []

    def network(x: Any) -> Any:
        calls.append(x.numpy())
        return torch.from_numpy(upsample(x.numpy(), factor))

    expected = inferer(torch.from_numpy(LATENT)[None] / 1.25, network)[0, 0].numpy()
    decoder = Decoder(factor)
    image = _native.decode(decoder.session, LATENT, 1.25, factor, window, overlap)
    assert len(calls) == len(decoder.calls) > 1
    for theirs, ours in zip(calls, decoder.calls, strict=True):
        assert np.array_equal(theirs, ours)
    assert np.linalg.norm(image - expected) <= 1e-5 * np.linalg.norm(expected)
    assert abs(image - expected).max() <= 1e-5 * abs(expected).max()


def test_progress_counts_windows() -> None:
    events: list[Any] = []
    decoder = Decoder()
    _native.decode(decoder.session, LATENT, 1.0, window=(6, 6, 6), observer=lambda *event: events.append(event))
    total = len(decoder.calls)
    assert events == [("decode", i, total) for i in range(total + 1)]
    events.clear()
    _native.decode(decoder.session, LATENT, 1.0, observer=lambda *event: events.append(event))
    assert events == [("decode", 0, 1), ("decode", 1, 1)]


def test_cancel_between_windows() -> None:
    decoder = Decoder()
    with pytest.raises(CancelledError, match="decode"):
        _native.decode(decoder.session, LATENT, 1.0, window=(6, 6, 6), observer=lambda stage, done, total: done < 3)
    assert len(decoder.calls) == 3


def test_a_view_with_strides_is_read_in_its_own_order() -> None:
    moved = np.moveaxis(LATENT, 0, -1).copy()
    expected = _native.decode(Decoder().session, LATENT, 1.0)
    assert np.array_equal(_native.decode(Decoder().session, np.moveaxis(moved, -1, 0), 1.0), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_factor": 0.0}, "scale factor"),
        ({"scale_factor": float("nan")}, "scale factor"),
        ({"window": (4, 0, 4)}, "window"),
        ({"window": (4, 4, 4), "overlap": 1.0}, "overlap"),
        ({"window": (4, 4, 4), "overlap": -0.1}, "overlap"),
        ({"latent": LATENT[0]}, "channels, x, y, z"),
        ({"latent": LATENT[:, :0]}, "channels, x, y, z"),
        ({"latent": LATENT.astype(np.int64)}, "float32"),
    ],
)
def test_bad_requests(options: dict[str, Any], message: str) -> None:
    decoder = Decoder()
    with pytest.raises(RequestError, match=message):
        _native.decode(**({"session": decoder.session, "latent": LATENT, "scale_factor": 1.0} | options))
    assert decoder.calls == []


def test_a_decoder_of_another_compression_is_a_bad_plan() -> None:
    with pytest.raises(PlanError, match="compression"):
        _native.decode(Decoder((2, 4, 4)).session, LATENT, 1.0)


def encoder(inputs: dict[str, Any]) -> dict[str, Any]:
    pooled = inputs["image"].reshape(1, 1, 3, 4, 2, 4, 5, 2).mean(axis=(3, 5, 7))
    mean = np.concatenate([pooled, -pooled, 2 * pooled], axis=1)
    return {"mean": mean, "log_variance": mean - 1}


def test_encode() -> None:
    image = np.random.default_rng(1).random((12, 8, 10))
    events: list[Any] = []
    session = _native.CallableSession(["image"], ["mean", "log_variance"], encoder)
    mean, log_variance = _native.encode(session, image, (4, 4, 2), observer=lambda *event: events.append(event))
    expected = encoder({"image": image.astype(np.float32)[None, None]})
    assert mean.shape == log_variance.shape == (3, 3, 2, 5)
    assert np.array_equal(mean, expected["mean"][0])
    assert np.array_equal(log_variance, expected["log_variance"][0])
    assert events == [("encode", 0, 1), ("encode", 1, 1)]


def test_encode_refuses() -> None:
    session = _native.CallableSession(["image"], ["mean", "log_variance"], encoder)
    with pytest.raises(RequestError, match="multiple of 4, and one is 13"):
        _native.encode(session, np.zeros((13, 8, 10)), (4, 4, 2))
    with pytest.raises(RequestError, match="axes"):
        _native.encode(session, np.zeros((1, 12, 8, 10)), (4, 4, 2))
    with pytest.raises(PlanError, match="compression"):
        _native.encode(session, np.zeros((12, 8, 10)), (4, 4, 1))
    with pytest.raises(CancelledError):
        _native.encode(session, np.zeros((12, 8, 10)), (4, 4, 2), observer=lambda *event: False)
