"""One training and its judgement, kept on disk under a key of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...io.atomic import OutputFiles
from ...io.files import make_folder
from ...observer import Observer
from .cases import Case, Store
from .folds import Arm
from .training import Settings, judge, order_of, train

# Part of every key; counts up when the same settings come to mean something else.
_VERSION = 1
#: Dice by label.
Figures = Mapping[int, float]


@dataclass(frozen=True)
class Run:
    """What a run found: real and synthetic volumes in its pools, patches drawn of each, Dice by label for each held-out
    case, seconds of training.
    """

    volumes: tuple[int, int]
    drawn: tuple[int, int]
    figures: tuple[Figures, ...]
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What all runs share: settings, labels, held-out cases, the volumes in memory, and the folder of runs."""

    settings: Settings
    labels: tuple[int, ...]
    held_out: tuple[Case, ...]
    store: Store
    folder: Path

    def run(
        self, arm: Arm, pools: tuple[Sequence[Case], Sequence[Case]], fold: int, observer: Observer, stage: str
    ) -> Run:
        """Train and judge a network, or read what an earlier call with the same sets and settings found.

        A training that was broken off goes on from its last checkpoint.
        """
        folder = self.folder / self._key(arm, pools, fold)
        kept = _kept(folder / "run.json")
        if kept is not None:
            return kept
        make_folder(folder)
        start = time.monotonic()
        classes = len(self.labels) + 1
        network = train(pools, arm.share, self.settings, fold, classes, self.store, folder, observer, stage)
        seconds = time.monotonic() - start
        order = order_of(arm.share, (len(pools[0]), len(pools[1])), self.settings, fold)
        synthetic = int(order[:, 0].sum())
        run = Run(
            volumes=(len(pools[0]) if arm.share < 1 else 0, len(pools[1]) if arm.share > 0 else 0),
            drawn=(len(order) - synthetic, synthetic),
            figures=tuple(judge(network, self.held_out, self.labels, self.store, self.settings)),
            seconds=seconds,
        )
        _keep(folder / "run.json", run)
        return run

    def _key(self, arm: Arm, pools: tuple[Sequence[Case], Sequence[Case]], fold: int) -> str:
        used = (pools[0] if arm.share < 1 else (), pools[1] if arm.share > 0 else ())
        content = {
            "version": _VERSION,
            "torch": torch.__version__,
            "share": arm.share,
            "fold": fold,
            "labels": self.labels,
            "settings": self.settings.as_dict(),
            "training": [[case.content for case in cases] for cases in used],
            "held_out": [case.content for case in self.held_out],
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _keep(path: Path, run: Run) -> None:
    figures = [{str(label): value for label, value in each.items()} for each in run.figures]
    content = {"volumes": run.volumes, "drawn": run.drawn, "figures": figures, "seconds": round(run.seconds, 1)}
    with OutputFiles() as files:
        files.add_text(path, json.dumps(content))


def _kept(path: Path) -> Run | None:
    """What ``_keep`` wrote; None if it is not there, or was spoilt by a disk."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        figures = tuple({int(label): float(value) for label, value in each.items()} for each in content["figures"])
        return Run(tuple(content["volumes"]), tuple(content["drawn"]), figures, float(content["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
