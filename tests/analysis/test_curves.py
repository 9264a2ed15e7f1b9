"""Curves against scikit-learn, their areas against the tables, thresholds by enumeration."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from histotransfer_pl.analysis.bootstrap import bootstrap_interval
from histotransfer_pl.analysis.calibration import calibration_bins
from histotransfer_pl.analysis.curves import (
    GRID,
    pr_band,
    roc_band,
    sensitivity,
    specificity,
    youden_threshold,
)
from histotransfer_pl.analysis.metrics import auprc, auroc, evaluate
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.errors import AnalysisError


def predictions(n: int = 120, folds: int = 1, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    drawn = np.clip(rng.normal(0.35 + 0.3 * labels, 0.25), 0, 1)
    scores = np.asarray(drawn.round(2), np.float64)  # with ties
    patients = [f"p{i // 2}" for i in range(n)]
    return Predictions([f"s{i}" for i in range(n)], patients, labels, scores, np.arange(n) % folds)


def test_the_roc_curve_is_scikit_learns() -> None:
    data = predictions()
    x, y, _ = roc_curve(data.y, data.s, drop_intermediate=False)
    band = roc_band(data, 1, n_resamples=50)
    for place, value in zip(GRID, band.value, strict=True):
        upper = y[x <= place + 1e-12].max()  # the upper end of a step, or on the line behind it
        after = x > place + 1e-12
        if after.any():
            x0, x1, y1 = x[~after].max(), x[after].min(), y[after].min()
            upper += (y1 - upper) * (place - x0) / (x1 - x0)
        assert value == pytest.approx(upper, abs=1e-9)


def test_the_precision_recall_curve_is_scikit_learns() -> None:
    data = predictions()
    precision, recall, _ = precision_recall_curve(data.y, data.s)
    band = pr_band(data, 1, n_resamples=50)
    for place, value in zip(GRID[1:], band.value[1:], strict=True):
        reached = recall >= place - 1e-12
        nearest = recall[reached].min()
        # Several thresholds may have one recall; the highest of them has the best precision.
        assert value == pytest.approx(precision[np.isclose(recall, nearest)].max(), abs=1e-9)
    assert band.chance == data.y.mean()


@pytest.mark.parametrize("folds", [1, 3])
def test_areas_are_those_of_the_tables(folds: int) -> None:
    data = predictions(folds=folds)
    area = np.trapezoid(roc_band(data, 1, n_resamples=20).value, GRID)
    assert area == pytest.approx(float(evaluate(auroc, data)[0]), abs=0.006)
    steps = pr_band(data, 1, n_resamples=20).value[1:].mean()
    assert steps == pytest.approx(float(evaluate(auprc, data)[0]), abs=0.006)
    if folds == 1:
        assert steps == pytest.approx(average_precision_score(data.y, data.s), abs=0.006)


def test_bands_hold_the_curve_and_narrow_with_more_patients() -> None:
    widths = []
    for n in (60, 960):
        band = roc_band(predictions(n), 1)
        assert (band.low <= band.value + 1e-9).all()
        assert (band.value <= band.high + 1e-9).all()
        widths.append((band.high - band.low).mean())
    assert widths[1] < widths[0] / 2.5


def test_class_0_is_the_mirror_of_class_1() -> None:
    data = predictions()
    area = np.trapezoid(roc_band(data, 0, n_resamples=20).value, GRID)
    assert area == pytest.approx(float(evaluate(auroc, data)[0]), abs=0.006)


def test_a_curve_needs_both_classes() -> None:
    one = Predictions(["a", "b"], ["p", "q"], [1, 1], [0.2, 0.9])
    with pytest.raises(AnalysisError, match="2 of 2 slides are of the class"):
        roc_band(one, 1)


def test_the_threshold_has_the_highest_sum_of_rates() -> None:
    data = predictions(60, seed=3)
    chosen = youden_threshold(data.y, data.s)

    def total(threshold: float) -> float:
        found = data.s >= threshold
        return float(found[data.y == 1].mean() - found[data.y == 0].mean())

    assert total(chosen) == max(total(t) for t in np.unique(data.s))
    assert chosen not in data.s
    with pytest.raises(AnalysisError, match="a threshold needs both"):
        youden_threshold(np.ones(4, int), np.arange(4.0))


def test_rates_at_a_threshold_are_counts() -> None:
    data = predictions()
    decided = Predictions(data.slide_ids, data.patients, data.y, (data.s >= 0.4).astype(float))
    for metric, right in (
        (sensitivity, (data.s >= 0.4)[data.y == 1].mean()),
        (specificity, (data.s < 0.4)[data.y == 0].mean()),
    ):
        interval = bootstrap_interval(decided, metric, n_resamples=200)
        assert interval.estimate == pytest.approx(right, rel=1e-12)
        assert interval.low < right < interval.high


def test_bins_hold_equal_counts_and_their_shares() -> None:
    rng = np.random.default_rng(5)
    chances = rng.uniform(0, 1, 200)
    labels = (rng.uniform(0, 1, 200) < chances).astype(int)
    found = calibration_bins(labels, chances, np.arange(200), bins=8)
    assert found.counts.tolist() == [25] * 8
    order = np.argsort(chances).reshape(8, 25)
    np.testing.assert_allclose(found.predicted, chances[order].mean(1))
    np.testing.assert_allclose(found.observed, labels[order].mean(1))
    assert ((found.low <= found.observed) & (found.observed <= found.high)).all()
    # Wilson (1927), written out for the first bin.
    p, n, z = found.observed[0], 25, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found.low[0] == pytest.approx((middle - half) / (1 + z**2 / n), rel=1e-9)
    pairs = calibration_bins(labels, chances, np.arange(200) // 2, bins=8)
    assert (pairs.high - pairs.low >= found.high - found.low - 1e-12).all()
    assert len(calibration_bins(labels[:12], chances[:12], np.arange(12)).counts) == 2
