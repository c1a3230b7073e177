"""``ctfast evaluate GENERATED --reference REAL``: every metric that two sets of volumes allow."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..errors import RequestError
from ..observer import Cancel, Observer, Progress, observer_of, report
from .features.cache import FeatureCache
from .features.networks import FeatureNetwork, load_network, random_network
from .masks import NAMES as MASKS
from .measure import Measured, Wants, measure
from .metrics_distribution import Draws, descriptor_metrics, frechet, kernel
from .metrics_pairs import PairFigures, compare_pairs, likeness, pair_metrics, round_trips
from .metrics_volumes import memorisation_metrics, organ_metrics, organ_rows
from .presets import Preset, preset_of
from .result import GROUPS, Evaluation, FeatureInfo, Metric, SetOfVolumes
from .volumes import VolumeSet, find_set, pairs_of, some

if TYPE_CHECKING:
    from ..engine import Engine

# Every metric by name, in the order of the result, with its group.
METRICS = {
    **dict.fromkeys(("fid_2.5d", "kid_2.5d", "fid_3d", "kid_3d", "descriptor_energy"), "distribution"),
    **dict.fromkeys(("descriptor_spread", "ms_ssim", "ms_ssim_masks"), "diversity"),
    **dict.fromkeys(("psnr", "ssim", "psnr_vae", "ssim_vae"), "reconstruction"),
    **dict.fromkeys(MASKS, "masks"),
    **dict.fromkeys(("organ_hu", "organ_outliers", "mask_coherence"), "organs"),
    **dict.fromkeys(("nearest_training", "memorised"), "memorisation"),
}
_SLICES, _WHOLE = frozenset({"fid_2.5d", "kid_2.5d"}), frozenset({"fid_3d", "kid_3d"})
_DESCRIPTORS = frozenset({"descriptor_energy", "descriptor_spread"})
_ALIKE = frozenset({"ms_ssim", "ms_ssim_masks"})
_ROUND_TRIP = frozenset({"psnr_vae", "ssim_vae"})
_PAIRED = frozenset({"psnr", "ssim", *MASKS})
_ORGANS = frozenset({"organ_hu", "organ_outliers", "mask_coherence"})
_NEAREST = frozenset({"nearest_training", "memorised"})

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Sets:
    """The sets of an evaluation, and whether volumes of the first two belong together by name."""

    generated: VolumeSet
    reference: VolumeSet
    training: VolumeSet | None
    paired: bool


def evaluate(
    generated: PathLike,
    reference: PathLike,
    *,
    train: PathLike | None = None,
    preset: str | None = None,
    features: Sequence[PathLike] = (),
    metrics: Sequence[str] | None = None,
    paired: bool = False,
    engine: Engine | None = None,
    cache: PathLike | None = None,
    limit: int | None = None,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Evaluation:
    """Compare a folder of generated volumes with one of real ones.

    Args:
        generated: Folder of volumes, see ``volumes.find_set``.
        reference: Folder of real volumes that no network was trained on.
        train: Folder of the volumes that the model was trained on, for the metrics of memorisation.
        preset: How volumes are shown to the feature network; "maisi-v2" with ``features``, else "native".
        features: Files of feature networks' weights: one for slices, one for volumes, or both. A network of fixed
            random weights stands in for a missing one; its figures are marked as not comparable.
        metrics: Names of metrics or of groups; all that the sets allow unless given.
        paired: Volumes of the same name belong together, so that they, and their label maps, are compared one by one.
        engine: Also encode and decode the reference volumes with this plan.
        cache: Folder that keeps features for the next time; None for a temporary one.
        limit: Use the first so many volumes of the generated and the reference set.
        replicates: Of the bootstrap behind the intervals; 0 for none.
        seed: Of the bootstrap, and of which pairs are compared for diversity.
        progress: Called as progress(stage, done, total); returning False cancels.
        cancel: Function or threading.Event that says whether to stop.

    Raises:
        RequestError: A folder or volume cannot be used, or a metric that was asked for is not possible with the sets.
        CheckpointError: A file of weights is of no known feature network.
        OutputError: Features cannot be written.
        CancelledError: ``progress`` or ``cancel`` asked to stop.
    """
    if replicates < 0:
        raise RequestError(f"replicates: expected a whole number from 0 on, found {replicates}")
    shown = preset_of(preset or ("maisi-v2" if features else "native"))
    sets = Sets(
        find_set(generated, limit),
        # In pairs it is the generated volumes that say which of the reference are needed.
        find_set(reference, None if paired else limit),
        find_set(train) if train else None,
        paired,
    )
    _warn_of_others(sets)
    wanted, skipped = _chosen(sets, metrics, engine is not None)
    networks = _networks(features, wanted)
    with ExitStack() as stack:
        folder = cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="ctfast-features-"))
        run = _Run(
            sets=sets,
            wanted=wanted,
            named=metrics is not None,
            networks={network.dimensions: network for network in networks},
            preset=shown,
            cache=FeatureCache(Path(folder)),
            draws=Draws(replicates, seed),
            observer=observer_of(progress, cancel),
            skipped=skipped,
        )
        found, rows = run.all(engine)
    order = list(METRICS)
    network = run.networks.get(2) or run.networks.get(3)
    return Evaluation(
        ctfast=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        generated=SetOfVolumes(str(sets.generated.path), len(sets.generated.items)),
        reference=SetOfVolumes(str(sets.reference.path), len(sets.reference.items)),
        preset=shown.name,
        features=FeatureInfo("none", None, comparable=False) if network is None else network.info,
        metrics=tuple(sorted(found, key=lambda metric: order.index(metric.name))),
        per_volume=tuple(rows),
        skipped=skipped,
        training=None if sets.training is None else SetOfVolumes(str(sets.training.path), len(sets.training.items)),
        paired=paired,
    )


@dataclass
class _Run:
    sets: Sets
    wanted: frozenset[str]
    named: bool
    networks: dict[int, FeatureNetwork]
    preset: Preset
    cache: FeatureCache
    draws: Draws
    observer: Observer
    skipped: dict[str, str]

    def all(self, engine: Engine | None) -> tuple[list[Metric], list[dict[str, Any]]]:
        """Every metric wanted, and the figures per volume."""
        generated, reference, training = self._measured()
        found: list[Metric] = []
        rows: list[dict[str, Any]] = []
        for dimensions, names in ((2, _SLICES), (3, _WHOLE)):
            if names & self.wanted:
                found += self._feature_metrics(generated, reference, self.networks[dimensions])
        if _DESCRIPTORS & self.wanted:
            metrics, rows = descriptor_metrics(generated, reference, self.draws)
            found += metrics
        for name in sorted(_ALIKE & self.wanted):
            alike = partial(likeness, generated, reference, name == "ms_ssim_masks", self.draws, self.observer)
            found += self._unless_impossible({name}, alike)
        if _ORGANS & self.wanted:
            metrics = self._unless_impossible(_ORGANS, partial(organ_metrics, generated, reference, self.draws))
            found += metrics
            rows += organ_rows(generated, reference) if metrics else []
        metrics, more = self._pair_metrics(engine)
        found += metrics
        rows += more
        if training is not None and _NEAREST & self.wanted:
            metrics, more = memorisation_metrics(generated, reference, training, self.draws)
            found += metrics
            rows += more
        return [metric for metric in found if metric.name in self.wanted], _merged(rows)

    def _measured(self) -> tuple[Measured, Measured, Measured | None]:
        nearest = bool(_NEAREST & self.wanted)
        wants = Wants(
            descriptors=bool(_DESCRIPTORS & self.wanted),
            organs=bool((_ORGANS | {"ms_ssim_masks"}) & self.wanted),
            coarse=nearest,
            networks=tuple(self.networks.values()),
        )
        generated = measure(self.sets.generated, wants, self.cache, self.preset, self.observer, "generated")
        reference = measure(self.sets.reference, wants, self.cache, self.preset, self.observer, "reference")
        training = None
        if self.sets.training is not None and nearest:
            only = Wants(coarse=True)
            training = measure(self.sets.training, only, self.cache, self.preset, self.observer, "training")
        return generated, reference, training

    def _feature_metrics(self, generated: Measured, reference: Measured, network: FeatureNetwork) -> list[Metric]:
        kinds = {"fid": frechet, "kid": kernel}
        end = "_2.5d" if network.dimensions == 2 else "_3d"
        found = []
        for kind, compute in kinds.items():
            if kind + end in self.wanted:
                report(self.observer, kind + end, 0, 1)
                found.append(compute(generated, reference, network, self.preset, self.draws))
        return found

    def _pair_metrics(self, engine: Engine | None) -> tuple[list[Metric], list[dict[str, Any]]]:
        found: list[Metric] = []
        rows: list[dict[str, Any]] = []
        done: list[tuple[str, frozenset[str], PairFigures]] = []
        if _PAIRED & self.wanted:
            pairs = pairs_of(self.sets.generated, self.sets.reference)
            done.append(("generated", _PAIRED, compare_pairs(pairs, self.wanted, self.observer, "pairs")))
        if engine is not None and _ROUND_TRIP & self.wanted:
            done.append(
                ("reference", _ROUND_TRIP, round_trips(self.sets.reference, engine, self.wanted, self.observer))
            )
        for which, names, figures in done:
            count = (len(figures.names) if names is _PAIRED else 0, len(figures.names))
            found += pair_metrics(figures, names & self.wanted, count, self.draws)
            rows += [{**row, "set": which} for row in figures.rows()]
        return found, rows

    def _unless_impossible(self, names: Iterable[str], compute: Callable[[], list[Metric]]) -> list[Metric]:
        """What ``compute`` gives; where sizes or labels do not allow it, a note, or an error if it was asked for."""
        try:
            return compute()
        except RequestError as error:
            if self.named:
                raise
            self.skipped.update(dict.fromkeys(sorted(set(names) & self.wanted), str(error)))
            return []


def _warn_of_others(sets: Sets) -> None:
    """Name files that lie among the volumes and are none."""
    for each in (sets.generated, sets.reference, sets.training):
        if each is not None and each.ignored:
            warnings.warn(f"'{each.path}': left out what is no volume: {some(each.ignored)}", stacklevel=3)


def _chosen(sets: Sets, asked: Sequence[str] | None, round_trip: bool) -> tuple[frozenset[str], dict[str, str]]:
    """The metrics to compute, and why others are left out; RequestError if one that was asked for is impossible."""
    impossible = _impossible(sets, round_trip)
    if asked is None:
        return frozenset(METRICS) - set(impossible), impossible
    wanted: set[str] = set()
    for name in asked:
        if name in GROUPS:
            members = {metric for metric, group in METRICS.items() if group == name} - set(impossible)
            if not members:
                raise RequestError(f"metrics: '{name}': {next(impossible[m] for m, g in METRICS.items() if g == name)}")
            wanted |= members
        elif name not in METRICS:
            raise RequestError(f"metrics: expected of {', '.join(METRICS)}, or {', '.join(GROUPS)}; found '{name}'")
        elif name in impossible:
            raise RequestError(f"metrics: '{name}': {impossible[name]}")
        else:
            wanted.add(name)
    return frozenset(wanted), {}


def _impossible(sets: Sets, round_trip: bool) -> dict[str, str]:
    """Why which metrics cannot be had of the sets."""
    both = (sets.generated, sets.reference)
    reasons: dict[str, str] = {}
    lone = [each for each in both if len(each.items) < 2]
    if lone:
        reasons.update(dict.fromkeys([*_WHOLE, *_ALIKE], f"'{lone[0].path}' has one volume; at least two are needed"))
    without = [each for each in both if not any(item.labels for item in each.items)]
    if without:
        needs = f"'{without[0].path}' has no label maps (NAME_seg or NAME_labels beside volumes)"
        reasons.update(dict.fromkeys([*_ORGANS, "ms_ssim_masks", *MASKS], needs))
    if not sets.paired:
        reasons.update(dict.fromkeys(_PAIRED, "only for sets whose volumes belong together by name (paired)"))
    if not round_trip:
        reasons.update(dict.fromkeys(_ROUND_TRIP, "only with a plan to encode and decode with (round trip)"))
    if sets.training is None:
        reasons.update(dict.fromkeys(_NEAREST, "needs the volumes that the model was trained on (train)"))
    return {name: reasons[name] for name in METRICS if name in reasons}


def _networks(files: Sequence[PathLike], wanted: frozenset[str]) -> list[FeatureNetwork]:
    """The networks that the metrics need: those of the files, and random ones for what none of them is for."""
    given: dict[int, FeatureNetwork] = {}
    for file in files:
        network = load_network(Path(file))
        if network.dimensions in given:
            other = given[network.dimensions].info.network
            raise RequestError(f"features: '{file}' is for the same metrics as {other}; give one of them")
        given[network.dimensions] = network
    needed = [dimensions for dimensions, names in ((2, _SLICES), (3, _WHOLE)) if names & wanted]
    return [given.get(dimensions) or random_network(dimensions) for dimensions in needed]


def _merged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows about the same volume as one."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        merged.setdefault((row["set"], row["name"]), {}).update(row)
    return list(merged.values())
