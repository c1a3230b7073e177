"""The interpreter lock, Ctrl-C, and sessions shared between threads."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support import tiny_networks

from ctfast import _native
from ctfast.errors import CancelledError


@pytest.fixture(scope="module")
def session() -> Any:
    """A network of some tens of milliseconds on a latent of 24^3."""
    return _native.OpenVINOSession.from_bytes(*tiny_networks.to_ir(tiny_networks.stack(32, 8)), threads=1)


SHAPE = (4, 24, 24, 24)


def long_run(session: Any, steps: int, **options: Any) -> Any:
    grid = [1000 * (1 - i / steps) for i in range(steps)], [1 / steps] * steps
    return _native.sample(session, None, shape=SHAPE, seed=0, t=grid[0], dt=grid[1], **options)


@contextmanager
def ticks() -> Iterator[list[float]]:
    """Times at which another Python thread got to run."""
    times: list[float] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            times.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield times
    finally:
        stop.set()
        thread.join()


def longest_gap(times: list[float], start: float, end: float) -> float:
    inside = [start, *(t for t in times if start < t < end), end]
    return max(b - a for a, b in pairwise(inside))


def test_other_threads_run_while_a_network_does(session: Any) -> None:
    latent = np.zeros((1, 4, 64, 64, 64), np.float32)
    session.run({"latent": latent})  # compiled
    with ticks() as times:
        start = time.perf_counter()
        session.run({"latent": latent})
        end = time.perf_counter()
    assert end - start > 0.05, "the network is too fast for this test"
    assert longest_gap(times, start, end) < (end - start) / 2


def test_other_threads_run_during_compilation_and_sampling(session: Any) -> None:
    with ticks() as times:
        start = time.perf_counter()
        long_run(session, 20)
        end = time.perf_counter()
    assert longest_gap(times, start, end) < (end - start) / 2


@pytest.mark.parametrize("observer", [None, lambda *event: None])
def test_ctrl_c_surfaces_between_network_calls(session: Any, observer: Any) -> None:
    long_run(session, 1)
    timer = threading.Timer(0.2, _thread.interrupt_main)
    # A shell starts what runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        start = time.perf_counter()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            long_run(session, 20_000, observer=observer)
        assert time.perf_counter() - start < 5
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    long_run(session, 1)  # the session is usable again


def test_an_observer_cancels_a_real_network(session: Any) -> None:
    seen: list[int] = []
    with pytest.raises(CancelledError):
        long_run(session, 20_000, observer=lambda stage, done, total: seen.append(done) or done < 2)
    assert seen == [0, 1, 2]


def test_threads_sharing_a_session_get_their_own_results(session: Any) -> None:
    sizes = [(4, 8, 8, 8), (4, 8, 8, 12), (4, 12, 8, 8), (4, 8, 12, 8)]

    def work(index: int) -> Any:
        t, dt = _native.rflow_time_grid(4, 512)
        return _native.sample(session, None, shape=sizes[index % 4], seed=index, t=t, dt=dt)

    expected = [work(index) for index in range(8)]
    results: list[Any] = [None] * 8
    threads = [threading.Thread(target=lambda i=i: results.__setitem__(i, work(i))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)
