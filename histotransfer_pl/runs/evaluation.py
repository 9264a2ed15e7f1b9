"""Every metric with its interval over patients, for `test`, `study` and `report` alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.metrics import Metric, evaluate
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.runs.predictions import PredictionTable

_OF_POSITIVE = frozenset({"auprc", "f1"})


@dataclass(frozen=True)
class MetricResult:
    """A metric of test slides.

    Attributes:
        name: Its name in the metrics of the outcome.
        title: How a page calls it.
        value: On all slides; None where they do not define it.
        interval: 95 % interval over patients; None where there can be none.
        problem: Why not.
    """

    name: str
    title: str
    value: float | None
    interval: Interval | None = None
    problem: str = ""

    def in_words(self, digits: int = 4) -> str:
        """Value and interval, or why there is none."""
        if self.value is None:
            return f"undefined ({self.problem})"
        if self.interval is None:
            return f"{self.value:.{digits}f} (no interval: {self.problem})"
        low, high = self.interval.low, self.interval.high
        return f"{self.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def evaluate_predictions(
    predictions: Predictions, outcome: Outcome, *, n_resamples: int = 2000
) -> list[MetricResult]:
    """Every metric that pages show, with its interval over patients; the watched one first."""
    metrics = outcome.metrics()
    return [
        _evaluate(name, title, metrics[name], predictions, n_resamples)
        for name, title in outcome.titles.items()
    ]


def evaluate_table(table: PredictionTable, *, n_resamples: int = 2000) -> list[MetricResult]:
    """The same of a table of predictions."""
    return evaluate_predictions(table.predictions(), table.outcome, n_resamples=n_resamples)


def describe_metrics(results: Sequence[MetricResult], table: PredictionTable) -> str:
    """How many slides and patients of which target, and each metric with its interval."""
    frame = table.frame
    each = table.outcome.balance(frame, table.outcome.spec)
    lines = [f"{len(frame)} slides of {frame['patient_id'].nunique()} patients ({each})"]
    width = max(len(result.title) for result in results)
    for result in results:
        about = f" (of {table.positive})" if result.name in _OF_POSITIVE and table.positive else ""
        lines.append(f"{result.title:<{width}}  {result.in_words()}{about}")
    return "\n".join(lines)


def metrics_json(results: Sequence[MetricResult], table: PredictionTable) -> dict[str, Any]:
    """The content of a metrics file: counts, the target, each metric and its limits."""
    limits = {
        f"{result.name}_{side}": value
        for result in results
        if result.interval is not None
        for side, value in (("low", result.interval.low), ("high", result.interval.high))
    }
    return {
        "n_slides": len(table.frame),
        "n_patients": int(table.frame["patient_id"].nunique()),
        "task": table.outcome.task,
        "classes": list(table.classes),
        "positive": table.positive,
        **{result.name: result.value for result in results},
        **limits,
    }


def _evaluate(
    name: str, title: str, metric: Metric, predictions: Predictions, n_resamples: int
) -> MetricResult:
    value = float(evaluate(metric, predictions)[0])
    point = value if np.isfinite(value) else None
    try:
        interval = bootstrap_interval(predictions, metric, n_resamples=n_resamples)
    except AnalysisError as error:
        return MetricResult(name, title, point, None, str(error))
    return MetricResult(name, title, point, interval)
