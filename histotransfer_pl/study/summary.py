"""The table of results of a study: one row an encoder, depth, head and variant."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotransfer_pl.analysis.bootstrap import bootstrap_interval
from histotransfer_pl.analysis.metrics import METRICS, evaluate
from histotransfer_pl.analysis.predictions import Predictions, align
from histotransfer_pl.data.cohort import shorten
from histotransfer_pl.errors import AnalysisError, CohortError
from histotransfer_pl.study.steps import Plan, Step

KEYS = ("encoder", "weights", "depth", "head", "variant")
"""What makes a row; folds are pooled and seeds averaged."""

_ALSO = ("auprc", "accuracy", "balanced_accuracy", "ece")


@dataclass(frozen=True)
class Group:
    """The test steps of one row.

    Attributes:
        key: Encoder, weights, depth, head and variant.
        steps: Its test steps.
    """

    key: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def seeds(self) -> list[int]:
        """Seeds that were planned."""
        return sorted({step.factors["seed"] for step in self.steps})

    def of_seed(self, seed: int) -> list[Step]:
        """The steps of a seed, one a fold."""
        return [step for step in self.steps if step.factors["seed"] == seed]


def group_tests(plan: Plan) -> list[Group]:
    """The test steps of a plan by row, in the order of the plan."""
    groups: dict[tuple[str, ...], list[Step]] = {}
    for step in plan.of_kind("test"):
        key = tuple(str(step.factors[name]) for name in KEYS)
        groups.setdefault(key, []).append(step)
    return [Group(key, tuple(steps)) for key, steps in groups.items()]


def summarise(plan: Plan, finished: Iterable[str], metric: str = "auroc") -> pd.DataFrame:
    """Collect the test predictions of the finished runs.

    Args:
        plan: The plan.
        finished: Names of the steps that are done.
        metric: What to rank by; AUROC pairs slides of the same fold only, because the scores of
            different fits have no common scale.

    Returns:
        One row a group: seeds and runs that are there, patients, slides, the mean of the metric
        over seeds, its spread over seeds (`sd_seeds`), its patient-level 95 % interval, further
        metrics, and a note where a number is missing. Seeds whose folds are not all done do not
        count.
    """
    done = set(finished)
    return pd.DataFrame([_row(group, done, metric) for group in group_tests(plan)])


def read_predictions(steps: Sequence[Step]) -> Predictions:
    """Test predictions of the folds of one seed, pooled.

    Raises:
        CohortError: The folds share slides or patients, or have different classes.
        AnalysisError: The predictions cannot be used.
    """
    tables = [
        pd.read_csv(table_of(step), dtype={"slide_id": str, "patient_id": str, "label": str})
        for step in steps
    ]
    for step, table in zip(steps, tables, strict=True):
        table["fold"] = step.factors["fold"]
    columns = _class_columns(tables[0])
    if any(_class_columns(table) != columns for table in tables):
        raise CohortError(f"the folds of {steps[0].name} have different classes: fit them again")
    pooled = pd.concat(tables, ignore_index=True)
    folds = pooled.groupby("patient_id")["fold"].nunique()
    shared = folds.index[folds > 1].tolist()
    if shared:
        raise CohortError(
            f"patients {shorten(shared)} are in several test folds of {steps[0].name}: the cohort "
            "changed between the folds; fit them again"
        )
    classes = [name.removeprefix("p_") for name in columns]
    # A bag of all slides of a patient has the name of the patient only.
    names = pooled["slide_id"] if "slide_id" in pooled else pooled["patient_id"]
    return Predictions(
        slide_ids=names.to_numpy(str),
        patients=pooled["patient_id"].to_numpy(str),
        labels=np.array([classes.index(label) for label in pooled["label"]]),
        scores=pooled[columns].to_numpy(np.float64),
        folds=pooled["fold"].to_numpy(np.int64),
    )


def table_of(step: Step) -> Path:
    """The table of predictions of a test step."""
    return next(Path(name) for name in step.outputs if name.endswith("test_predictions.csv"))


def format_table(results: pd.DataFrame, metric: str = "auroc") -> str:
    """The results as text."""
    shown = results[[*KEYS, "n_seeds", "n_patients", "n_slides"]].copy()
    shown[metric] = [
        "-" if pd.isna(row[metric]) else f"{row[metric]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for _, row in results.iterrows()
    ]
    for name in ("n_patients", "n_slides"):
        shown[name] = shown[name].map(lambda n: "-" if pd.isna(n) else f"{n:.0f}")
    shown["sd over seeds"] = results["sd_seeds"].map(lambda x: "-" if pd.isna(x) else f"{x:.3f}")
    if results["note"].any():
        shown["note"] = results["note"]
    # A column that says the same of all rows is not worth its width.
    kept = [name for name in shown if shown[name].nunique() > 1 or name not in KEYS]
    return shown[kept].to_string(index=False)


def _row(group: Group, done: set[str], metric: str) -> dict[str, Any]:
    complete = [
        seed for seed in group.seeds if all(step.name in done for step in group.of_seed(seed))
    ]
    runs = sum(step.name in done for step in group.steps)
    row: dict[str, Any] = dict(zip(KEYS, group.key, strict=True))
    row |= {"n_seeds": len(complete), "n_runs": runs, "n_planned": len(group.steps)}
    notes = [] if runs == len(group.steps) else [f"{len(group.steps) - runs} runs missing"]
    numbers: Mapping[str, Any] = {}
    if complete:
        try:
            numbers = _numbers([read_predictions(group.of_seed(s)) for s in complete], metric)
        except (AnalysisError, CohortError) as error:
            notes.append(str(error))
    empty = dict.fromkeys(
        ("n_patients", "n_slides", metric, "sd_seeds", "low", "high", *_ALSO), float("nan")
    )
    return row | empty | dict(numbers) | {"note": "; ".join(notes)}


def pool_seeds(seeds: Sequence[Predictions]) -> Predictions:
    """Predictions of the same slides by fits with several seeds, as one.

    Every slide counts once a seed, and each fit is a fold of its own: a metric of the result is
    the mean of the metric over seeds, and its interval draws the same patients for all seeds.

    Raises:
        AnalysisError: The seeds saw other slides.
    """
    first = seeds[0]
    fits = [first, *(align(first, other) for other in seeds[1:])]
    ids = np.asarray(first.slide_ids, str)
    n_folds = int(first.fold_index.max()) + 1
    return Predictions(
        slide_ids=np.concatenate([np.char.add(ids, f" (fit {i})") for i in range(len(fits))]),
        patients=np.tile(np.asarray(first.patients, str), len(fits)),
        labels=np.tile(first.y, len(fits)),
        scores=np.concatenate([fit.s for fit in fits]),
        folds=np.concatenate([first.fold_index + i * n_folds for i in range(len(fits))]),
    )


def _class_columns(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).startswith("p_")]


def _numbers(seeds: list[Predictions], metric: str) -> dict[str, Any]:
    interval = bootstrap_interval(pool_seeds(seeds), METRICS[metric])
    values = [float(evaluate(METRICS[metric], seed)[0]) for seed in seeds]
    return {
        "n_patients": seeds[0].n_patients,
        "n_slides": seeds[0].n_slides,
        metric: interval.estimate,
        "sd_seeds": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        "low": interval.low,
        "high": interval.high,
        "by_seed": " ".join(f"{value:.4f}" for value in values),
        **{
            name: float(np.mean([evaluate(METRICS[name], seed)[0] for seed in seeds]))
            for name in _ALSO
        },
    }
