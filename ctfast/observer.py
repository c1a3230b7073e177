"""Progress and cancellation: what a caller gives, as the one observer that the runtime calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .errors import CancelledError, RequestError

# progress(stage, done, total); stages are "condition", "sample", "decode", "encode", "finish". False cancels.
Progress = Callable[[str, int, int], object]
Observer = Callable[[str, int, int], bool]


class CancelFlag(Protocol):
    """What ``cancel`` may be besides a function: a threading.Event, for instance."""

    def is_set(self) -> bool:
        """Whether to stop."""


Cancel = Callable[[], bool] | CancelFlag


def observer_of(progress: Progress | None, *cancels: Cancel | None) -> Observer:
    """One observer for a progress callback and any number of ways to cancel; it returns False to cancel."""
    asks = [_question(cancel) for cancel in cancels if cancel is not None]
    if progress is not None and not callable(progress):
        raise RequestError(f"progress: expected a function of (stage, done, total), found {type(progress).__name__}")

    def observe(stage: str, done: int, total: int) -> bool:
        wanted = progress is None or progress(stage, done, total) is not False
        return wanted and not any(ask() for ask in asks)

    return observe


def report(observer: Observer, stage: str, done: int, total: int) -> None:
    """Tell the observer; CancelledError if it wants to stop."""
    if not observer(stage, done, total):
        raise CancelledError(f"cancelled in stage '{stage}', {done} of {total} done")


def _question(cancel: Cancel) -> Callable[[], bool]:
    flag = getattr(cancel, "is_set", None)
    question = flag if callable(flag) else cancel
    if not callable(question):
        raise RequestError(f"cancel: expected a function or a threading.Event, found {type(cancel).__name__}")
    return question
