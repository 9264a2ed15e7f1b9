"""How well each arm did, with intervals over patients."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.metrics import METRICS, evaluate
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.report.arms import Arm
from histotransfer_pl.report.table import Table

SHOWN = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "ECE",
}
"""Metrics of the page, best known first."""


@dataclass(frozen=True, eq=False)
class ArmResult:
    """An arm with its intervals.

    Attributes:
        arm: The arm.
        intervals: Metric name to interval; a metric without one is absent.
        points: Metric name to value, where there are too few patients for an interval.
        complete: Whether it was tested on all folds and seeds that most arms were.
        problem: Why there is no AUROC, or what is odd.
    """

    arm: Arm
    intervals: dict[str, Interval] = field(repr=False)
    complete: bool
    problem: str = ""
    points: dict[str, float] = field(default_factory=dict)

    @property
    def auroc(self) -> Interval | None:
        """The AUROC with its interval, if defined."""
        return self.intervals.get("auroc")


def evaluate_arms(arms: Sequence[Arm], *, n_resamples: int = 2000) -> list[ArmResult]:
    """Intervals of every arm of one task, in the order given.

    An arm that lacks folds or seeds is evaluated on those it has and marked incomplete.
    """
    if not arms:
        return []
    usual = Counter(frozenset(arm.cells) for arm in arms)
    # The set of folds that most arms share; of equally common ones the larger.
    full = max(usual, key=lambda cells: (usual[cells], len(cells)))
    return [_evaluate(arm, frozenset(arm.cells) >= full, n_resamples) for arm in arms]


def _evaluate(arm: Arm, complete: bool, n_resamples: int) -> ArmResult:
    intervals: dict[str, Interval] = {}
    points: dict[str, float] = {}
    problems: list[str] = []
    try:
        predictions = arm.predictions()
    except AnalysisError as error:
        return ArmResult(arm, {}, complete, str(error))
    for name in SHOWN:
        try:
            metric = METRICS[name]
            intervals[name] = bootstrap_interval(predictions, metric, n_resamples=n_resamples)
        except AnalysisError as error:
            problems.append(str(error))
            value = float(evaluate(METRICS[name], predictions)[0])
            if np.isfinite(value):
                points[name] = value
    problem = problems[0] if "auroc" not in intervals else ""
    return ArmResult(arm, intervals, complete, problem, points)


def best_result(results: Sequence[ArmResult]) -> ArmResult | None:
    """The complete arm with the highest AUROC; of equal ones the first."""
    able = [r for r in results if r.complete and r.auroc is not None]
    return max(able, key=_score, default=None)


def ranked(results: Sequence[ArmResult]) -> list[ArmResult]:
    """Arms from the highest AUROC down; behind them those tested on fewer folds or seeds."""
    return sorted(results, key=lambda r: (r.complete, _score(r)), reverse=True)


def _score(result: ArmResult) -> float:
    return -1.0 if result.auroc is None else result.auroc.estimate


def results_table(results: Sequence[ArmResult], name: str) -> Table:
    """One row an arm, best first: every metric with its interval."""
    raw, shown = [], []
    for result in ranked(results):
        arm, remark = result.arm, _remark(result)
        row: dict[str, object] = {**arm.key._asdict(), "trainings": len(arm.cells)}
        row |= {"n_slides": arm.n_slides(), "n_patients": arm.n_patients()}
        for metric in SHOWN:
            interval = result.intervals.get(metric)
            row[metric] = result.points.get(metric) if interval is None else interval.estimate
            row[f"{metric}_low"] = None if interval is None else interval.low
            row[f"{metric}_high"] = None if interval is None else interval.high
        raw.append({**row, "remark": remark})
        shown.append(
            {
                "Arm": arm.label,
                **{title: _cell(result, m) for m, title in SHOWN.items()},
                "Trainings": str(len(arm.cells)),
                "Remark": remark,
            }
        )
    page = pd.DataFrame(shown)
    if not (page["Remark"] != "").any():
        page = page.drop(columns="Remark")
    frame = pd.DataFrame(raw)
    if not (frame["settings"] != "").any():
        frame = frame.drop(columns="settings")
    return Table(name, "Every arm on its test slides, best AUROC first", frame, page)


def _remark(result: ArmResult) -> str:
    if result.problem:
        return result.problem
    return "" if result.complete else "fewer folds or seeds than the others"


def span(interval: Interval | None) -> str:
    """An estimate with its interval, as the tables show it."""
    if interval is None:
        return "–"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _cell(result: ArmResult, metric: str) -> str:
    """The interval below its estimate, so that the columns are narrow."""
    if metric in result.points:
        return f"{result.points[metric]:.3f}\nno interval"
    return span(result.intervals.get(metric)).replace(" [", "\n[")
