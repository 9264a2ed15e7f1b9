"""Metrics of values, ordered classes and several labels, for many resamples at once."""

import numpy as np

from histotransfer_pl.analysis.metrics import Metric, auprc, auroc, ranging, ratio
from histotransfer_pl.analysis.targets import Floats, Ints, usable_labels
from histotransfer_pl.errors import AnalysisError


def target_scale(targets: Floats) -> tuple[float, float]:
    """Mean and deviation of training targets (S,), on which regression learns."""
    deviation = float(np.std(targets))
    if not np.isfinite(deviation) or deviation == 0:
        raise AnalysisError(
            f"the {len(targets)} training targets have deviation {deviation:g}: "
            "a regression needs finite targets that differ"
        )
    return float(np.mean(targets)), deviation


@ranging(-np.inf, 1)
def r2(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Share of the variance explained; 0 for the mean of the targets, below for worse."""
    del folds
    whole = weights.sum(1)  # (B,)
    squares = weights @ (labels - labels.mean()) ** 2  # (B,)
    spread = squares - (weights @ (labels - labels.mean())) ** 2 / whole  # (B,)
    spread[spread <= 1e-12 * squares] = 0  # rounding of equal targets
    return 1 - ratio(weights @ (labels - scores) ** 2, spread)


@ranging(0, np.inf)
def mean_absolute_error(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Mean distance of prediction and target, in the target's unit."""
    del folds
    return ratio(weights @ np.abs(labels - scores), weights.sum(1))


@ranging(-1, 1)
def spearman(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Correlation of ranks; ties share their mean rank, in each resample anew."""
    del folds
    ranks = _ranks(labels, weights), _ranks(scores, weights)  # (B, S) each
    whole = weights.sum(1, keepdims=True)  # (B, 1)
    first, second = (rank - (weights * rank).sum(1, keepdims=True) / whole for rank in ranks)
    spread = (weights * first**2).sum(1) * (weights * second**2).sum(1)  # (B,)
    return ratio((weights * first * second).sum(1), np.sqrt(spread))


@ranging(-1, 1)
def quadratic_kappa(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Cohen's kappa with squared distances of ordered classes; scores (S, C)."""
    del folds
    chosen = scores.argmax(1)  # (S,)
    apart = weights @ (chosen - labels) ** 2.0  # (B,)
    means = (weights @ chosen) * (weights @ labels) / weights.sum(1)  # (B,)
    expected = weights @ (chosen**2.0 + labels**2.0) - 2 * means  # (B,)
    return 1 - ratio(apart, expected)


@ranging(0, np.inf)
def class_distance(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Mean number of classes between the chosen and the true one; scores (S, C)."""
    del folds
    return ratio(weights @ np.abs(scores.argmax(1) - labels), weights.sum(1))


@ranging(0, 1)
def macro_auroc(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Mean AUROC over the labels that have slides of both values; missing labels left out."""
    return _macro(auroc, labels, scores, weights, folds)


@ranging(0, 1)
def macro_auprc(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Mean average precision over the labels, as `macro_auroc`."""
    return _macro(auprc, labels, scores, weights, folds)


def of_label(metric: Metric, label: int) -> Metric:
    """A metric of two classes for one label of several, on the slides that have it."""

    @ranging(metric.lowest, metric.highest)
    def of_one(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
        rows = np.flatnonzero(np.isfinite(labels[:, label]))
        truth = labels[rows, label].astype(np.int64)
        return metric(truth, scores[rows, label], weights[:, rows], folds[rows])

    return of_one


def _macro(metric: Metric, labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    each = [of_label(metric, n)(labels, scores, weights, folds) for n in usable_labels(labels)]
    return np.asarray(np.mean(each, axis=0))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Rank of each slide among the drawn ones, (B, S)."""
    unique, place = np.unique(values, return_inverse=True)
    mass = weights @ np.eye(len(unique))[place]  # (B, U)
    middle = mass.cumsum(1) - (mass - 1) / 2  # (B, U)
    return middle[:, place]
