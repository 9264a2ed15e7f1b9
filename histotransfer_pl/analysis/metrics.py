"""Metrics of slides for many resamples at once.

A bootstrap evaluates a metric thousands of times on the same slides, each time with other
weights (how often the slide's patient was drawn). scikit-learn would sort the scores anew each
time; here one sort serves all: 2,000 resamples of 400 slides take 0.03 s instead of 3.5 s.
The tests hold every metric against scikit-learn with `sample_weight`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.calibration import expected_calibration_error
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions


class Evaluation(Protocol):
    """A number per resample."""

    def __call__(
        self, labels: NDArray[Any], scores: Floats, weights: Floats, folds: Ints
    ) -> Floats:
        """Evaluate every resample.

        Args:
            labels: (S,) true class, or the targets of another task.
            scores: (S,) score of class 1, or (S, C) probabilities.
            weights: (B, S) how often each slide is in each resample.
            folds: (S,) number of the fold of each slide.

        Returns:
            (B,) values, NaN where a resample does not define the metric.
        """


@dataclass(frozen=True)
class Metric:
    """An evaluation and the range of its values, which no interval leaves."""

    evaluation: Evaluation
    lowest: float
    highest: float

    def __call__(
        self, labels: NDArray[Any], scores: Floats, weights: Floats, folds: Ints
    ) -> Floats:
        """The value of every resample, (B,)."""
        return self.evaluation(labels, scores, weights, folds)


def ranging(lowest: float, highest: float) -> Callable[[Evaluation], Metric]:
    """Make a metric of an evaluation whose values lie between two numbers."""

    def make(evaluation: Evaluation) -> Metric:
        return Metric(evaluation, lowest, highest)

    return make


@ranging(0, 1)
def auroc(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order.

    Pairs are made within folds only. With more than two classes: the mean over one-vs-rest.
    """
    areas = []
    for positive, score in _one_vs_rest(labels, scores):
        won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for rows in fold_rows(folds):
            hits, misses = _by_score(positive[rows], score[rows], weights[:, rows])  # (B, U) each
            below = np.cumsum(misses, 1) - misses / 2  # (B, U), a tie is half a win
            won += (hits * below).sum(1)
            pairs += hits.sum(1) * misses.sum(1)
        areas.append(ratio(won, pairs))
    return np.asarray(np.mean(areas, axis=0))


@ranging(0, 1)
def auprc(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Average precision, within folds; with more than two classes the mean over one-vs-rest."""
    areas = []
    for positive, score in _one_vs_rest(labels, scores):
        area, mass = np.zeros(len(weights)), np.zeros(len(weights))
        for rows in fold_rows(folds):
            hits, misses = _by_score(positive[rows], score[rows], weights[:, rows])  # (B, U) each
            found = np.cumsum(hits[:, ::-1], 1)  # (B, U), from the highest score down
            called = found + np.cumsum(misses[:, ::-1], 1)
            precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
            area += (hits[:, ::-1] * precision).sum(1)
            mass += hits.sum(1)
        areas.append(ratio(area, mass))
    return np.asarray(np.mean(areas, axis=0))


@ranging(0, 1)
def balanced_accuracy(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Mean over the classes present of the share of their slides that is recognised."""
    del folds
    right = decide(scores) == labels  # (S,)
    recalls = [
        ratio(weights @ (right & (labels == label)), weights @ (labels == label))
        for label in np.unique(labels)
    ]
    return np.asarray(np.mean(recalls, axis=0))


@ranging(0, 1)
def f1(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """F1 of class 1; with more than two classes the mean over the classes."""
    del folds
    decided = decide(scores)  # (S,)
    classes = [1] if scores.ndim == 1 or scores.shape[1] == 2 else range(scores.shape[1])
    values = []
    for label in classes:
        both = weights @ ((decided == label) & (labels == label))  # (B,)
        either = weights @ (decided == label) + weights @ (labels == label)  # (B,)
        values.append(np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0))
    return np.asarray(np.mean(values, axis=0))


@ranging(0, 1)
def accuracy(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Share of slides recognised."""
    del folds
    return ratio(weights @ (decide(scores) == labels), weights.sum(1))


@ranging(0, 1)
def brier(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Mean squared error of the probabilities, halved over the classes: 0 is best, 1 worst."""
    del folds
    if scores.ndim == 1:
        error = (scores - labels) ** 2  # (S,)
    else:
        error = ((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(1) / 2  # (S,)
    return ratio(weights @ error, weights.sum(1))


def decide(scores: Floats) -> Ints:
    """Class (S,) that scores (S,) or (S, C) name: the largest, or 1 from 0.5 on."""
    if scores.ndim == 1:
        return (scores >= 0.5).astype(np.int64)
    return np.asarray(scores.argmax(1), np.int64)


def evaluate(metric: Metric, predictions: Predictions, weights: Floats | None = None) -> Floats:
    """A metric of predictions, for each row of `weights` (B, S); plain if there are none."""
    if weights is None:
        weights = np.ones((1, predictions.n_slides))
    return metric(predictions.y, predictions.s, weights, predictions.fold_index)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "auroc": auroc,
        "auprc": auprc,
        "balanced_accuracy": balanced_accuracy,
        "f1": f1,
        "accuracy": accuracy,
        "brier": brier,
        "ece": Metric(expected_calibration_error, 0, 1),
    }
)
"""Every metric of slides by its name in tables and configs."""


def _one_vs_rest(labels: Ints, scores: Floats) -> Iterator[tuple[NDArray[np.bool_], Floats]]:
    if scores.ndim == 1 or scores.shape[1] == 2:
        yield labels == 1, _positive(scores)
    else:
        for label in range(scores.shape[1]):
            yield labels == label, scores[:, label]


def _by_score(
    positive: NDArray[np.bool_], scores: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives (B, U) at each distinct score, rising."""
    order = np.argsort(scores, kind="stable")
    first_of_score = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    weights, positive = weights[:, order], positive[order]
    hits = np.add.reduceat(weights * positive, first_of_score, axis=1)
    misses = np.add.reduceat(weights * ~positive, first_of_score, axis=1)
    return hits, misses


def fold_rows(folds: Ints) -> list[Ints]:
    """The rows of each fold."""
    return [np.flatnonzero(folds == fold) for fold in np.unique(folds)]


def _positive(scores: Floats) -> Floats:
    return scores if scores.ndim == 1 else scores[:, 1]


def ratio(above: Floats, below: Floats) -> Floats:
    """Above by below, NaN where below is not above 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
