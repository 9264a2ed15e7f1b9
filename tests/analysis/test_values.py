"""Values, ordered classes and several labels against scikit-learn and scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from histotransfer_pl.analysis.bootstrap import bootstrap_interval
from histotransfer_pl.analysis.compare import delong, paired_test
from histotransfer_pl.analysis.metrics import Metric, auroc
from histotransfer_pl.analysis.predictions import Floats, Predictions, Task
from histotransfer_pl.analysis.values import (
    class_distance,
    macro_auprc,
    macro_auroc,
    mean_absolute_error,
    of_label,
    quadratic_kappa,
    r2,
    spearman,
    target_scale,
)
from histotransfer_pl.errors import AnalysisError

S, B = 80, 6
RNG = np.random.default_rng(4)
NO_FOLDS = np.zeros(S, np.int64)
WEIGHTS = RNG.integers(0, 4, (B, S)).astype(float)
VALUES = RNG.normal(3, 2, S).round(1)
GUESSES = (VALUES + RNG.normal(size=S)).round(1)
ORDERED = RNG.integers(0, 4, S)
CHANCES = RNG.dirichlet(np.ones(4), S) + 0.4 * np.eye(4)[ORDERED]
LABELS = np.where(RNG.random((S, 3)) < 0.25, np.nan, RNG.integers(0, 2, (S, 3)))
LABELS[:, 2] = np.where(np.isnan(LABELS[:, 2]), np.nan, 1)  # one value only: no AUROC
SCORES = (RNG.random((S, 3)) + 0.5 * np.nan_to_num(LABELS)).round(1)

Oracle = Callable[[Any, Any], float]


def resamples() -> list[Any]:
    return [np.repeat(np.arange(S), weights.astype(int)) for weights in WEIGHTS]


@pytest.mark.parametrize(
    ("metric", "truth", "scores", "expected"),
    [
        (r2, VALUES, GUESSES, oracle.r2_score),
        (mean_absolute_error, VALUES, GUESSES, oracle.mean_absolute_error),
        (spearman, VALUES, GUESSES, lambda y, s: stats.spearmanr(y, s).statistic),
        (
            quadratic_kappa,
            ORDERED,
            CHANCES,
            lambda y, s: oracle.cohen_kappa_score(y, s.argmax(1), weights="quadratic"),
        ),
        (class_distance, ORDERED, CHANCES, lambda y, s: abs(y - s.argmax(1)).mean()),
    ],
)
def test_equals_the_library_on_every_resample(
    metric: Metric, truth: Any, scores: Floats, expected: Oracle
) -> None:
    found = metric(truth, scores, WEIGHTS, NO_FOLDS)
    reference = [expected(truth[rows], scores[rows]) for rows in resamples()]
    np.testing.assert_allclose(found, reference, rtol=1e-9)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(macro_auroc, oracle.roc_auc_score), (macro_auprc, oracle.average_precision_score)],
)
def test_labels_that_are_missing_are_left_out(metric: Metric, expected: Oracle) -> None:
    reference = []
    for rows in resamples():
        known = [rows[np.isfinite(LABELS[rows, n])] for n in (0, 1)]
        each = [expected(LABELS[own, n], SCORES[own, n]) for n, own in enumerate(known)]
        reference.append(np.mean(each))
    np.testing.assert_allclose(metric(LABELS, SCORES, WEIGHTS, NO_FOLDS), reference, rtol=1e-9)
    one = np.isfinite(LABELS[:, 1])
    np.testing.assert_allclose(
        of_label(auroc, 1)(LABELS, SCORES, np.ones((1, S)), NO_FOLDS),
        oracle.roc_auc_score(LABELS[one, 1], SCORES[one, 1]),
        rtol=1e-9,
    )


def test_r2_and_ranks_of_equal_targets_are_undefined() -> None:
    same = np.full(S, 0.1)
    for metric in (r2, spearman):
        assert np.isnan(metric(same, GUESSES, WEIGHTS, NO_FOLDS)).all()


def predictions(task: Task, truth: Any, scores: Floats) -> Predictions:
    ids = [f"s{number}" for number in range(S)]
    return Predictions(ids, [f"p{n // 2}" for n in range(S)], truth, scores, task=task)


@pytest.mark.parametrize(
    ("task", "metric", "truth", "scores"),
    [
        ("regression", r2, VALUES, GUESSES),
        ("regression", spearman, VALUES, GUESSES),
        ("ordinal", quadratic_kappa, ORDERED, CHANCES),
        ("multilabel", macro_auroc, LABELS, SCORES),
    ],
)
def test_intervals_and_paired_tests(task: Task, metric: Metric, truth: Any, scores: Floats) -> None:
    good = predictions(task, truth, scores)
    noise = np.random.default_rng(0).permutation(scores)
    chance = predictions(task, truth, noise)
    interval = bootstrap_interval(good, metric, n_resamples=300)
    assert metric.lowest < interval.low < interval.estimate < interval.high < metric.highest
    result = paired_test(good, chance, metric)
    assert result.difference.low > 0
    assert result.p_value < 0.05
    swapped = paired_test(chance, good.rows(np.arange(S)[::-1]), metric)
    assert swapped.difference.low == pytest.approx(-result.difference.high)


@pytest.mark.parametrize(
    ("task", "truth", "scores", "message"),
    [
        ("regression", ["high"] * S, GUESSES, "targets such as 'high' for regression: give numb"),
        ("regression", VALUES, CHANCES, r"targets \(80,\) and scores \(80, 4\): give one per"),
        ("multilabel", LABELS + 1, SCORES, r"labels \(80, 3\) of values \[1.0, 2.0\]"),
        ("multilabel", LABELS * np.nan, SCORES, "no label has slides of both values"),
        ("ordinal", ORDERED + 1, CHANCES, r"labels \[1, 2, 3, 4\] for 4 classes"),
    ],
)
def test_targets_of_another_task_are_refused(
    task: Task, truth: Any, scores: Floats, message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        bootstrap_interval(predictions(task, truth, scores), r2)


def test_one_task_is_not_compared_with_another_nor_by_delong() -> None:
    values = predictions("regression", VALUES, GUESSES)
    classes = predictions("ordinal", ORDERED, CHANCES)
    with pytest.raises(AnalysisError, match="differ in their label"):
        paired_test(values, classes, r2)
    with pytest.raises(AnalysisError, match=r"for two classes, here are 2 \(regression\)"):
        delong(values, values)


def test_targets_are_scaled_by_the_training_part() -> None:
    assert target_scale(VALUES) == pytest.approx((VALUES.mean(), VALUES.std()))
    with pytest.raises(AnalysisError, match="the 3 training targets have deviation 0"):
        target_scale(np.full(3, 2.0))
