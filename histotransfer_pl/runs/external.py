"""Another cohort: every training of an arm tested on it, and the ensemble of its folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.metrics import evaluate
from histotransfer_pl.analysis.predictions import align
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.predictions import PredictionTable, read_predictions
from histotransfer_pl.runs.results import limits
from histotransfer_pl.runs.run import PREDICTIONS, Run, refuse_outdated

EXTERNAL = "external"
"""Folder, in that of a run, of what `test` wrote for the other cohort."""


@dataclass(frozen=True, eq=False)
class ExternalResult:
    """An arm on the slides of another cohort.

    Attributes:
        arm: The arm, as evaluated on the other cohort: one cell per seed, the ensemble.
        single: The watched metric of each training alone.
        slides: That of the ensemble, the mean of its folds' scores.
        patients: The same with the slides of a patient as one; None where that is no other number.
        problem: Why something is missing.
    """

    arm: Arm
    single: tuple[float, ...]
    slides: Interval | None
    patients: Interval | None
    problem: str = ""


def read_external(arms: Sequence[Arm], *, n_resamples: int = 2000) -> list[ExternalResult]:
    """Results of the arms that were tested on another cohort, best first."""
    results = [
        _evaluate(arm, folders, n_resamples)
        for arm in arms
        if (folders := [run for run in arm.runs if (run.folder / EXTERNAL).is_dir()])
    ]
    return sorted(results, key=lambda r: 1.0 if r.slides is None else -r.slides.estimate)


def ensemble(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Mean scores of several models for the same slides."""
    first = tables[0]
    if any(table.outcome.columns != first.outcome.columns for table in tables):
        raise AnalysisError(
            "the models have other classes or times: test all of them on the same table"
        )
    reference = first.predictions()
    each = [align(reference, table.predictions()).s for table in tables]  # (S,) or (S, K)
    mean = first.outcome.to_columns(np.mean(each, axis=0))  # (S, K)
    cells = pd.DataFrame([first.outcome.cells(row) for row in mean], index=first.frame.index)
    return replace(first, frame=first.frame.assign(**{str(c): cells[c] for c in cells}))


def _evaluate(arm: Arm, runs: Sequence[Run], n_resamples: int) -> ExternalResult:
    tested: list[tuple[Run, PredictionTable]] = []
    problem = ""
    for run in runs:
        folder = run.folder / EXTERNAL
        try:
            table = read_predictions(folder / PREDICTIONS, run.record.target)
            refuse_outdated(run.source, folder)
            tested.append((run, table))
        except AnalysisError as error:
            problem = f"{run.name}: {error}"
    if not tested:
        return ExternalResult(arm, (), None, None, problem)
    single = tuple(float(evaluate(arm.watched, t.predictions())[0]) for _, t in tested)
    by_seed: dict[int, list[tuple[Run, PredictionTable]]] = {}
    for run, table in tested:
        by_seed.setdefault(run.cell.seed, []).append((run, table))
    try:
        cells = {
            own[0][0].cell: replace(own[0][0], tested=ensemble([table for _, table in own]))
            for own in by_seed.values()
        }
    except AnalysisError as error:
        return ExternalResult(arm, single, None, None, str(error))
    whole = replace(arm, cells=cells)
    found: dict[bool, Interval | None] = {True: None, False: None}
    for patients in (False, True) if whole.n_patients() != whole.n_slides() else (False,):
        try:
            predictions = whole.predictions(patients=patients)
            found[patients] = bootstrap_interval(predictions, arm.watched, n_resamples=n_resamples)
        except AnalysisError as error:
            problem = problem or str(error)
    return ExternalResult(whole, single, found[False], found[True], problem)


def external_frame(results: Sequence[ExternalResult]) -> pd.DataFrame:
    """One row per arm."""
    return pd.DataFrame([_row(result) for result in results])


def _row(result: ExternalResult) -> dict[str, object]:
    row: dict[str, object] = {**result.arm.key.words(), "trainings": len(result.single)}
    row |= {"n_slides": result.arm.n_slides(), "n_patients": result.arm.n_patients()}
    name = result.arm.outcome.watched
    row |= {
        f"single_{name}_mean": float(np.mean(result.single)) if result.single else None,
        f"single_{name}_min": min(result.single, default=None),
        f"single_{name}_max": max(result.single, default=None),
    }
    for column, interval in ((name, result.slides), (f"patient_{name}", result.patients)):
        row |= limits(column, interval)
    return {**row, "remark": result.problem}
