"""Metrics of predicted risk and survival under censoring, for many resamples at once.

Targets are (S, 2): time, and 1 where the event was seen. What is not seen is made up for by the
probability of not being censored (inverse weights), estimated from the same slides in each
resample. Names and formulas are those of scikit-survival, which the tests use as the reference.
"""

from collections.abc import Sequence

import numpy as np

from histotransfer_pl.analysis.metrics import Metric, fold_rows, ranging, ratio
from histotransfer_pl.analysis.targets import Floats, Ints
from histotransfer_pl.errors import AnalysisError


@ranging(0, 1)
def c_index(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Concordance: how often of two slides the one with the higher risk has the event first.

    Harrell's estimate (1996) over the pairs whose order is known: the earlier of the two had the
    event, or both times are equal and one only had it. Equal risks count half. Pairs are made
    within folds only.

    Args:
        labels: (S, 2) time and event.
        scores: (S,) risk.
        weights: (B, S) weight of each slide in each resample.
        folds: (S,) fold of each slide.
    """
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for rows in fold_rows(folds):
        time, event = labels[rows, 0], labels[rows, 1] == 1
        later = time[:, None] < time
        level = (time[:, None] == time) & ~event
        known = event[:, None] & (later | level)  # (S, S), i before j
        right = known * _order(scores[rows], scores[rows])  # (S, S)
        drawn = weights[:, rows]  # (B, S)
        won += ((drawn @ right) * drawn).sum(1)
        pairs += ((drawn @ known.astype(np.float64)) * drawn).sum(1)
    return ratio(won, pairs)


def time_dependent_auc(times: Sequence[float]) -> Metric:
    """Mean over times of the AUROC of who has had the event by then (cumulative, dynamic).

    Slides with an event by that time are held against those still without; the mean over times
    is weighted by how many have the event between them (Lambert and Chevret 2016; Uno 2007).
    """
    looks = np.sort(np.asarray(times, np.float64))

    @ranging(0, 1)
    def metric(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
        areas = areas_at(looks, labels, scores, weights, folds)  # (T, B)
        left = _survival_at(labels, weights, looks)  # (B, T)
        drops = -np.diff(left, axis=1, prepend=1.0)  # (B, T)
        # a time at which nobody has the event for the first time has no weight and may be NaN
        used = np.where(drops.T > 0, drops.T * areas, 0)  # (T, B)
        return ratio(used.sum(0), 1 - left[:, -1])

    return metric


def areas_at(times: Floats, labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """The AUROC at each time, (T, B); arguments as those of every metric."""
    time, event = labels[:, 0], labels[:, 1] == 1
    uncensored = censoring_survival(labels, weights, time)  # (B, S)
    shares = np.divide(weights, uncensored, out=np.zeros_like(weights), where=uncensored > 0)
    won, pairs = np.zeros((2, len(times), len(weights)))
    for rows in fold_rows(folds):
        better = _order(scores[rows], scores[rows])  # (S, S)
        for place, look in enumerate(times):
            cases = shares[:, rows] * ((time[rows] <= look) & event[rows])  # (B, S)
            controls = weights[:, rows] * (time[rows] > look)  # (B, S)
            won[place] += ((cases @ better) * controls).sum(1)
            pairs[place] += cases.sum(1) * controls.sum(1)
    return ratio(won, pairs)


def integrated_brier(times: Sequence[float]) -> Metric:
    """Squared error of predicted survival, averaged over time (Graf 1999): 0 is best.

    Args:
        times: (T,) rising times that the columns of the scores, (S, T) survival, belong to.
    """
    looks = np.asarray(times, np.float64)
    if len(looks) < 2 or (np.diff(looks) <= 0).any():
        raise AnalysisError(f"times {list(times)}: give two or more that rise")

    @ranging(0, 1)
    def metric(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
        del folds
        time, event = labels[:, 0], labels[:, 1] == 1
        shares = _inverse(censoring_survival(labels, weights, time)) * weights  # (B, S)
        by_look = _inverse(censoring_survival(labels, weights, looks))  # (B, T)
        dead = (time[:, None] <= looks) & event[:, None]  # (S, T)
        alive = time[:, None] > looks  # (S, T)
        missed = shares @ (dead * scores**2)  # (B, T)
        doubted = by_look * (weights @ (alive * (1 - scores) ** 2))  # (B, T)
        errors = ratio(missed + doubted, np.broadcast_to(weights.sum(1)[:, None], missed.shape))
        return np.asarray(np.trapezoid(errors, looks, axis=1) / (looks[-1] - looks[0]))

    return metric


def of_survival(metric: Metric) -> Metric:
    """A metric of risk for scores that are survival at several times, (S, T)."""

    @ranging(metric.lowest, metric.highest)
    def of_curves(labels: Floats, scores: Floats, weights: Floats, folds: Ints) -> Floats:
        return metric(labels, -scores.sum(1), weights, folds)

    return of_curves


def horizons(labels: Floats, n: int = 5) -> tuple[float, ...]:
    """Times to look at: quantiles of the times at which events were seen."""
    seen = labels[labels[:, 1] == 1, 0]
    if not len(seen):
        raise AnalysisError(f"none of {len(labels)} slides has an event: nothing to look at")
    return tuple(np.unique(np.quantile(seen, np.arange(1, n + 1) / (n + 1))).tolist())


def censoring_survival(labels: Floats, weights: Floats, at: Floats) -> Floats:
    """Kaplan-Meier probability of not being censored up to and with each time, (B, len(at)).

    At equal times events come before censorings.
    """
    return _product_limit(labels, weights, at, censoring=True)


def _survival_at(labels: Floats, weights: Floats, at: Floats) -> Floats:
    return _product_limit(labels, weights, at, censoring=False)


def _product_limit(labels: Floats, weights: Floats, at: Floats, *, censoring: bool) -> Floats:
    time, event = labels[:, 0], labels[:, 1] == 1
    unique, place = np.unique(time, return_inverse=True)
    member = np.eye(len(unique))[place]  # (S, U)
    leaving = weights @ member  # (B, U)
    at_risk = leaving[:, ::-1].cumsum(1)[:, ::-1]  # (B, U)
    events = weights @ (member * event[:, None])  # (B, U)
    lost = leaving - events if censoring else events
    if censoring:
        at_risk = at_risk - events
    step = 1 - np.divide(lost, at_risk, out=np.zeros_like(lost), where=at_risk > 0)  # (B, U)
    curve = np.concatenate([np.ones((len(weights), 1)), step.cumprod(1)], 1)  # (B, 1 + U)
    return np.asarray(curve[:, np.searchsorted(unique, at, side="right")])


def _order(cases: Floats, others: Floats) -> Floats:
    """1 where the case scores higher, one half where equal, (S, S)."""
    return np.asarray((cases[:, None] > others) + 0.5 * (cases[:, None] == others))


def _inverse(values: Floats) -> Floats:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
