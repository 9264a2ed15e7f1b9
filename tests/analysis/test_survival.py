"""Survival metrics against scikit-survival, one resample at a time."""

import warnings

import numpy as np
import pytest
from sksurv.metrics import (
    concordance_index_censored,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import kaplan_meier_estimator

from histotransfer_pl.analysis.bootstrap import bootstrap_interval
from histotransfer_pl.analysis.compare import paired_test
from histotransfer_pl.analysis.metrics import Metric
from histotransfer_pl.analysis.predictions import Floats, Predictions
from histotransfer_pl.analysis.survival import (
    c_index,
    censoring_survival,
    horizons,
    integrated_brier,
    time_dependent_auc,
)
from histotransfer_pl.errors import AnalysisError

S, B = 60, 6
NO_FOLDS = np.zeros(S, np.int64)
RNG = np.random.default_rng(3)
# resamples; the last slides are always there, so that every resample is followed to the end
WEIGHTS = RNG.integers(0, 3, (B, S)).astype(float)
WEIGHTS[:, -3:] = 1
WEIGHTS[0] = 1


def cohort(ties: bool) -> tuple[Floats, Floats]:
    """Targets with half of the slides censored, and risks that know something."""
    rng = np.random.default_rng(5)
    risk = rng.normal(size=S)
    event_time, censored = rng.exponential(np.exp(-2 * risk)), rng.exponential(1.0, S)
    time = np.minimum(event_time, censored)
    event = event_time <= censored
    time = np.ceil(time * 4) / 4 if ties else time
    time[-3:], event[-3:] = (time.max() + 1, time.max() + 2, time.max() + 3), (False, True, False)
    risk = (risk + rng.normal(size=S)).round(1 if ties else 9)
    return np.stack([time, event], 1).astype(float), risk


def repeated(labels: Floats, weights: Floats) -> tuple[np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(S), weights.astype(int))
    dtype = [("event", bool), ("time", float)]
    return rows, np.array([(bool(e), t) for t, e in labels[rows]], dtype=dtype)


def check(metric: Metric, scores: Floats, labels: Floats, expected: list[float]) -> None:
    found = metric(labels, scores, WEIGHTS, NO_FOLDS)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_concordance_is_that_of_scikit_survival(ties: bool) -> None:
    labels, risk = cohort(ties)
    expected = []
    for weights in WEIGHTS:
        rows, y = repeated(labels, weights)
        expected.append(concordance_index_censored(y["event"], y["time"], risk[rows])[0])
    check(c_index, risk, labels, expected)


def test_concordance_of_four_slides_by_hand() -> None:
    labels = np.array([[1.0, 1], [2, 0], [2, 1], [3, 1]])
    risk = np.array([4.0, 3, 1, 1])
    # 1 before 2, 3, 4: right; 3 before 2 (censored later): wrong; 3 before 4: equal risk
    found = c_index(labels, risk, np.ones((1, 4)), np.zeros(4, np.int64))
    np.testing.assert_allclose(found, [3.5 / 5], rtol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_time_dependent_auc_is_that_of_scikit_survival(ties: bool) -> None:
    labels, risk = cohort(ties)
    times = horizons(labels)
    expected = []
    for weights in WEIGHTS:
        rows, y = repeated(labels, weights)
        expected.append(cumulative_dynamic_auc(y, y, risk[rows], times)[1])
    check(time_dependent_auc(times), risk, labels, expected)


@pytest.mark.parametrize("ties", [False, True])
def test_integrated_brier_is_that_of_scikit_survival(ties: bool) -> None:
    labels, risk = cohort(ties)
    times = horizons(labels)
    survival = np.exp(-np.exp(risk / 4)[:, None] * np.array(times))
    expected = []
    for weights in WEIGHTS:
        rows, y = repeated(labels, weights)
        expected.append(integrated_brier_score(y, y, survival[rows], times))
    check(integrated_brier(times), survival, labels, expected)


@pytest.mark.parametrize("ties", [False, True])
def test_the_censoring_curve_is_kaplan_meiers(ties: bool) -> None:
    labels, _ = cohort(ties)
    for weights in WEIGHTS:
        _, y = repeated(labels, weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 once nobody is left
            times, expected = kaplan_meier_estimator(y["event"], y["time"], reverse=True)
        found = censoring_survival(labels, weights[None], times)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_pairs_are_made_within_folds() -> None:
    labels, risk = cohort(False)
    folds = np.arange(S) % 3
    shifted = risk + 50 * folds
    for metric in (c_index, time_dependent_auc(horizons(labels))):
        found = metric(labels, shifted, WEIGHTS, folds)
        np.testing.assert_allclose(found, metric(labels, risk, WEIGHTS, folds), rtol=1e-12)
        assert (abs(found - metric(labels, shifted, WEIGHTS, NO_FOLDS)) > 0.02).all()


def predictions(seed: int, noise: float = 1.0) -> Predictions:
    labels, risk = cohort(False)
    scores = risk + noise * np.random.default_rng(seed).normal(size=S)
    ids = [f"s{number}" for number in range(S)]
    patients = [f"p{number // 2}" for number in range(S)]
    return Predictions(ids, patients, labels, scores, task="survival")


def test_intervals_and_paired_tests() -> None:
    first, second = predictions(0, 0.1), predictions(1, 0.1)
    second = Predictions(second.slide_ids, second.patients, second.y, -second.s, task="survival")
    interval = bootstrap_interval(first, c_index, n_resamples=300)
    assert 0 < interval.low < interval.estimate < interval.high < 1
    assert interval.n_patients == S // 2
    metric = time_dependent_auc(horizons(first.y))
    for found in (c_index, metric):
        result = paired_test(first, second, found)
        assert result.p_value < 0.05
        assert 0 < result.difference.low < result.difference.high <= 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[1.0, 0]] * S), r"the event has 0 patient\(s\), an interval needs at least 3"),
        (np.array([[-1.0, 1]] * S), r"time of 's0', 's1', 's2' and 57 more is -1 or less"),
        (np.ones(S), r"survival targets \(60,\): give per slide the time"),
        (np.array([[1.0, np.nan]] * S), "targets of 's0'.* are not finite"),
    ],
)
def test_targets_that_are_no_survival_are_refused(labels: Floats, message: str) -> None:
    made = predictions(0)
    with pytest.raises(AnalysisError, match=message):
        bootstrap_interval(
            Predictions(made.slide_ids, made.patients, labels, made.s, task="survival"), c_index
        )


def test_times_to_look_at() -> None:
    assert horizons(np.array([[1.0, 1], [2, 1], [3, 1], [9, 0]]), 3) == (1.5, 2, 2.5)
    with pytest.raises(AnalysisError, match="none of 2 slides has an event"):
        horizons(np.array([[1.0, 0], [2, 0]]))
    with pytest.raises(AnalysisError, match=r"times \[3\]: give two or more that rise"):
        integrated_brier([3])
