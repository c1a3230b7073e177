"""Progress of many samplings, told in network calls."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..observer import Observer
from .subject import Setting, Subject


class Metered:
    """A subject that adds up network calls and tells an observer of them as one stage of ``total`` calls."""

    def __init__(self, subject: Subject, observer: Observer, stage: str, total: int) -> None:
        """``observer`` hears of ``stage``; its answer is passed on to what runs."""
        self._subject = subject
        self._observer = observer
        self.restart(stage, total)

    def restart(self, stage: str, total: int) -> None:
        """Begin another stage."""
        self._stage = stage
        self._total = total
        self._done = 0

    def observe(self, stage: str, done: int, total: int) -> bool:
        """The observer of what runs: its own stages only ask whether to go on."""
        return self._observer(self._stage, self._done, self._total)

    def sample(self, seed: int, setting: Setting, observer: Observer) -> NDArray[np.float32]:
        """The subject's latent; its calls are added up."""

        def inner(stage: str, done: int, total: int) -> bool:
            calls = setting.calls * done // max(total, 1) if stage == "sample" else 0
            return self._observer(self._stage, min(self._done + calls, self._total), self._total)

        latent = self._subject.sample(seed, setting, inner)
        self._done = min(self._done + setting.calls, self._total)
        return latent

    def image(self, latent: NDArray[np.float32], observer: Observer) -> NDArray[Any]:
        """The subject's image."""
        return self._subject.image(latent, observer)

    def limits(self) -> tuple[float | None, float | None]:
        """The subject's."""
        return self._subject.limits()

    def train_steps(self) -> int:
        """The subject's."""
        return self._subject.train_steps()

    def about(self) -> dict[str, Any]:
        """The subject's."""
        return self._subject.about()
