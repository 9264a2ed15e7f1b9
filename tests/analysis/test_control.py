"""A model against the mean of several controls."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from histotransfer_pl.analysis.bootstrap import bootstrap_interval
from histotransfer_pl.analysis.control import gap_to_controls
from histotransfer_pl.analysis.metrics import auroc
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.errors import AnalysisError

N = 60


def predictions(signal: float, seed: int, order: int | None = None) -> Predictions:
    labels = np.arange(N) % 2
    scores = signal * labels + np.random.default_rng(seed).normal(size=N)
    rows = np.arange(N) if order is None else np.random.default_rng(order).permutation(N)
    return Predictions(
        [f"s{i}" for i in rows], [f"p{i // 2}" for i in rows], labels[rows], scores[rows]
    )


def test_the_gap_is_to_the_mean_of_the_controls_whatever_their_order() -> None:
    own, controls = predictions(2.0, 0), [predictions(0.5, 1), predictions(0.2, 2, order=3)]

    gap = gap_to_controls(own, controls, n_resamples=200)

    areas = [roc_auc_score(p.y, p.s) for p in (own, *controls)]
    assert gap.estimate == pytest.approx(areas[0] - np.mean(areas[1:]), rel=1e-9)
    assert gap.low < gap.estimate < gap.high


def test_a_control_that_is_constant_over_patients_leaves_the_interval_of_the_model() -> None:
    own = predictions(1.0, 0)
    perfect = Predictions(own.slide_ids, own.patients, own.y, own.y.astype(float))

    gap = gap_to_controls(own, [perfect], n_resamples=300, seed=4)

    alone = bootstrap_interval(own, auroc, n_resamples=300, seed=4)
    assert (gap.low, gap.high) == pytest.approx((alone.low - 1, alone.high - 1), rel=1e-9)


def test_no_gap_between_equals_and_refusals() -> None:
    own = predictions(1.0, 0)
    with pytest.raises(AnalysisError, match="in every resample"):
        gap_to_controls(own, [own, own], n_resamples=50)
    with pytest.raises(AnalysisError, match="no controls"):
        gap_to_controls(own, [])
