"""``ctfast evaluate GENERATED --downstream segmentation``: every arm, every fold, and what comes of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..._version import __version__
from ...errors import RequestError
from ...io.files import make_folder
from ...observer import Cancel, Observer, Progress, observer_of, report
from ..volumes import VolumeSet, find_set
from .cases import Case, Store, check_spacings, labels_of, read_cases
from .folds import RATIOS, REAL, SYNTHETIC, arms_of, check_apart, deal, grouped
from .result import Downstream, SetInfo
from .runs import Bench, Run
from .summary import arm_result, by_patient, comparisons, rows
from .synthesis import about_set, make_set
from .training import Settings, bf16_is_fast

if TYPE_CHECKING:
    from ...engine import Engine

PathLike = str | os.PathLike[str]
FOLDS = 3
HELD_OUT = "held-out"


def default_settings(seed: int = 0, **given: Any) -> Settings:
    """Settings with some of them given; mixed precision where that is fast."""
    return Settings(seed=seed, mixed_precision=bf16_is_fast(), **given)


def downstream(
    train: PathLike,
    reference: PathLike,
    generated: PathLike | None = None,
    *,
    engine: Engine | None = None,
    copies: int = 1,
    ratios: Sequence[str] = RATIOS,
    folds: int = FOLDS,
    real: int | None = None,
    labels: Sequence[int] | None = None,
    patient: str | None = None,
    settings: Settings | None = None,
    work: PathLike | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Downstream:
    """Train the same segmenter on real volumes, on synthetic ones, and on both, and judge all on held-out real ones.

    Args:
        train: Folder of real volumes with label maps, see ``volumes.find_set``.
        reference: Folder of real volumes with label maps, of patients that are not in ``train``.
        generated: Folder of synthetic volumes with label maps; None makes them with ``engine``.
        engine: The plan that makes the synthetic set from the label maps of ``train``.
        copies: Volumes that it makes of each.
        ratios: Mixtures real:synthetic, as probabilities of drawing from either set.
        folds: Into how many the patients are dealt; run i trains without fold i.
        real: Use the real volumes of so many patients only.
        labels: What to segment; what all sets have, but the body, unless given.
        patient: Regular expression that finds the patient in a real volume's name; the name unless given.
        settings: Of the training, the same for every arm. ``Settings()`` unless given, in bf16 where that is fast.
        work: Folder that keeps generated volumes and runs, so that a run that was broken off goes on.
        threads: Of the training; torch's own number unless given.
        progress: Called as progress(stage, done, total); returning False cancels.
        cancel: Function or threading.Event that says whether to stop.

    Raises:
        RequestError: Sets that cannot be used: no labels in common, fewer patients than folds, a held-out patient
            among those trained on.
        OutputError: Something cannot be written.
        CancelledError: ``progress`` or ``cancel`` asked to stop.
    """
    start = time.monotonic()
    observer = observer_of(progress, cancel)
    arms = arms_of(ratios)
    settings = settings or default_settings()
    sets = {REAL: find_set(train), HELD_OUT: find_set(reference)}
    if (generated is None) == (engine is None):
        raise RequestError("expected either a folder of generated volumes or a plan to make them with")
    with ExitStack() as stack:
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        folder = Path(work or stack.enter_context(tempfile.TemporaryDirectory(prefix="ctfast-downstream-")))
        make_folder(folder)
        cases = {what: _read(volumes, what, observer, patient) for what, volumes in sets.items()}
        check_apart(cases[HELD_OUT], cases[REAL], REAL)
        making = None
        if engine is not None:
            making = about_set(engine, copies, settings.seed)
            into = folder / f"synthetic-{engine.identity[:12]}-{settings.seed}"
            sets[SYNTHETIC] = make_set(engine, sets[REAL], into, copies=copies, seed=settings.seed, observer=observer)
        else:
            assert generated is not None
            sets[SYNTHETIC] = find_set(generated)
        cases[SYNTHETIC] = _read(sets[SYNTHETIC], SYNTHETIC, observer)
        check_apart(cases[HELD_OUT], cases[SYNTHETIC], SYNTHETIC)
        check_spacings(cases)
        segmented = labels_of(cases, labels)
        pools = deal(cases[REAL], cases[SYNTHETIC], folds, settings.seed, real)
        bench = Bench(settings, segmented, tuple(cases[HELD_OUT]), Store(segmented), folder / "runs")
        runs: dict[str, list[Run]] = {arm.name: [] for arm in arms}
        for fold in range(folds):
            for arm in arms:
                stage = f"{arm.name}, run {fold + 1} of {folds}"
                runs[arm.name].append(bench.run(arm, pools.without(fold), fold, observer, stage))
    patients = grouped([case.keys for case in bench.held_out])
    scores = {name: by_patient(found, patients) for name, found in runs.items()}
    return Downstream(
        ctfast=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        real=SetInfo(str(sets[REAL].path), len(pools.real), pools.patients[0]),
        synthetic=SetInfo(str(sets[SYNTHETIC].path), len(pools.synthetic), pools.patients[1]),
        held_out=SetInfo(str(sets[HELD_OUT].path), len(patients), len(set(patients))),
        labels=segmented,
        runs=folds,
        settings=settings.as_dict(),
        arms=tuple(arm_result(arm, runs[arm.name], patients, segmented) for arm in arms),
        comparisons=comparisons(scores),
        per_patient=rows(scores, {number: bench.held_out[number].name for number in patients}),
        generation=making,
        seconds=round(time.monotonic() - start, 1),
    )


def _read(volumes: VolumeSet, what: str, observer: Observer, patient: str | None = None) -> list[Case]:
    def observe(done: int, total: int) -> None:
        report(observer, f"read {what}", done, total)

    return read_cases(volumes, observe, named=what != SYNTHETIC, patient=patient)
