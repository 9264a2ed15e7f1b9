"""A study compared: every arm of every task evaluated, once, before anything is shown."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histotransfer_pl.errors import StoreError
from histotransfer_pl.runs.arms import (
    Arm,
    MissingRun,
    group_arms,
    other_settings,
    read_runs,
    tasks_of,
)
from histotransfer_pl.runs.contrasts import Contrast, planned_contrasts, ranking_contrasts
from histotransfer_pl.runs.costs import (
    DepthCurve,
    colour_alone,
    depth_curves,
    depth_order,
    networks_of,
    read_costs,
)
from histotransfer_pl.runs.external import ExternalResult, read_external
from histotransfer_pl.runs.results import ArmResult, best_result, evaluate_arms
from histotransfer_pl.runs.study import Study
from histotransfer_pl.store.feature_store import FeatureStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TaskResults:
    """The arms of one task, compared.

    Attributes:
        arms: The arms.
        results: Each with its metrics.
        best: The best of them, if one can be ranked.
        planned: Pairs that differ in one thing only.
        ranking: The best against every other.
        curves: Encoders that were cut at several depths.
        colour: Arms whose encoder sees colours and nothing else.
        costs: What each depth costs, by encoder and depth.
        costs_note: What is missing of the costs.
        external: The arms on another cohort.
        store: The store that they read, if it is there.
        cohort: Their table, if it is there.
    """

    arms: Sequence[Arm]
    results: Sequence[ArmResult]
    best: ArmResult | None
    planned: Sequence[Contrast]
    ranking: Sequence[Contrast]
    curves: Sequence[DepthCurve]
    colour: Sequence[ArmResult]
    costs: pd.DataFrame
    costs_note: str
    external: Sequence[ExternalResult]
    store: FeatureStore | None
    cohort: Path | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a study found.

    Attributes:
        study: The study, or plain run folders.
        arms: All arms.
        tasks: The arms of each task, compared.
        missing: Runs without predictions.
        twice: Runs that were left out because another is the same training.
        apart: Which runs are arms of their own for their settings only, in words.
    """

    study: Study
    arms: Sequence[Arm]
    tasks: Sequence[TaskResults]
    missing: Sequence[MissingRun]
    twice: Sequence[MissingRun]
    apart: Sequence[str]

    @property
    def store(self) -> FeatureStore | None:
        """The store of the first task that has one."""
        return next((task.store for task in self.tasks if task.store is not None), None)

    @property
    def cohort(self) -> Path | None:
        """The table of the first task that has one."""
        return next((task.cohort for task in self.tasks if task.cohort is not None), None)


def compare_study(study: Study, *, n_resamples: int = 2000) -> Comparison:
    """Read the runs of a study and compare them; what cannot be read is named."""
    runs, missing = read_runs(study.runs)
    arms, twice = group_arms(runs)
    tasks = [_compare_task(study, own, n_resamples) for own in tasks_of(arms)]
    return Comparison(study, arms, tasks, missing, twice, other_settings(runs))


def _compare_task(study: Study, arms: Sequence[Arm], n_resamples: int) -> TaskResults:
    results = evaluate_arms(arms, n_resamples=n_resamples)
    store = _find_store(study, arms)
    networks = networks_of(study, arms, store)
    costs, note = read_costs(study.folder, networks)
    order: Mapping[str, Sequence[str]] = depth_order(arms, costs)
    best = best_result(results)
    return TaskResults(
        arms=arms,
        results=results,
        best=best,
        planned=planned_contrasts(results, order, networks),
        ranking=[] if best is None else ranking_contrasts(results, best.arm),
        curves=depth_curves(results, order, costs, networks),
        colour=colour_alone(results, networks),
        costs=costs,
        costs_note=note,
        external=read_external(arms, n_resamples=n_resamples),
        store=store,
        cohort=_find_cohort(study, arms),
    )


def _find_store(study: Study, arms: Sequence[Arm]) -> FeatureStore | None:
    """The store that the runs read, wherever the study is now."""
    for location in _places(study, arms, "store"):
        try:
            return FeatureStore.open(location)
        except StoreError as error:
            _log.warning("the report goes without slides: %s", error)
    return None


def _find_cohort(study: Study, arms: Sequence[Arm]) -> Path | None:
    return next((path for path in _places(study, arms, "cohort") if path.is_file()), None)


def _places(study: Study, arms: Sequence[Arm], setting: str) -> Iterator[Path]:
    """Where a file of the runs may lie; each place once."""
    for name in dict.fromkeys(str(run.data[setting]) for arm in arms for run in arm.runs[:1]):
        yield study.places.find(name)
