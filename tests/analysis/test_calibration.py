import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from histotransfer_pl.analysis.calibration import expected_calibration_error, reliability
from histotransfer_pl.errors import AnalysisError

RNG = np.random.default_rng(11)
S = 200
NO_FOLDS = np.zeros(S, np.int64)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("bins", [5, 15])
def test_ece_equals_torchmetrics(n_classes: int, bins: int) -> None:
    scores = RNG.dirichlet(np.ones(n_classes), S)
    labels = RNG.integers(0, n_classes, S)
    expected = multiclass_calibration_error(
        torch.tensor(scores), torch.tensor(labels), num_classes=n_classes, n_bins=bins
    )
    value = expected_calibration_error(labels, scores, np.ones((1, S)), NO_FOLDS, bins=bins)
    np.testing.assert_allclose(value, [expected.item()], rtol=1e-6)


def test_ece_weights_are_repetitions() -> None:
    scores, labels = RNG.random(S), RNG.integers(0, 2, S)
    counts = RNG.integers(0, 4, S)
    repeated = np.repeat(np.arange(S), counts)
    value = expected_calibration_error(labels, scores, counts[None].astype(float), NO_FOLDS)
    ones = np.ones((1, len(repeated)))
    expected = expected_calibration_error(labels[repeated], scores[repeated], ones, NO_FOLDS)
    np.testing.assert_allclose(value, expected)


def test_ece_is_zero_for_perfect_and_half_for_wrong_confidence() -> None:
    labels = np.array([0, 1] * (S // 2))
    ones = np.ones((1, S))
    perfect = np.eye(2)[labels]
    assert expected_calibration_error(labels, perfect, ones, NO_FOLDS)[0] == 0
    certain = np.tile([1.0, 0.0], (S, 1))
    assert expected_calibration_error(labels, certain, ones, NO_FOLDS)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("quantile", [False, True])
def test_reliability_counts_every_slide_once(quantile: bool) -> None:
    probabilities = RNG.beta(0.5, 2, S)
    labels = (RNG.random(S) < probabilities).astype(np.int64)
    plot = reliability(labels, probabilities, bins=8, quantile=quantile)
    assert plot.counts.sum() == S
    assert len(plot.counts) == len(plot.observed) == len(plot.predicted)
    # bins weighted by their counts give back the plain means, if the counts are of these bins
    assert np.average(plot.observed, weights=plot.counts) == pytest.approx(labels.mean())
    assert np.average(plot.predicted, weights=plot.counts) == pytest.approx(probabilities.mean())


def test_reliability_is_scikit_learns_curve() -> None:
    probabilities, labels = RNG.random(S), RNG.integers(0, 2, S)
    plot = reliability(labels, probabilities, bins=6)
    observed, predicted = calibration_curve(labels, probabilities, n_bins=6)
    np.testing.assert_array_equal(plot.observed, observed)
    np.testing.assert_array_equal(plot.predicted, predicted)


def test_logits_are_refused() -> None:
    labels = RNG.integers(0, 2, S)
    logits = RNG.normal(size=S)
    with pytest.raises(AnalysisError, match="no probabilities: apply softmax"):
        expected_calibration_error(labels, logits, np.ones((1, S)), NO_FOLDS)
    with pytest.raises(AnalysisError, match="no probabilities: apply softmax"):
        reliability(labels, logits)


def test_reliability_is_for_one_class() -> None:
    with pytest.raises(AnalysisError, match=r"labels \[0, 1, 2\]: give 1 for the class"):
        reliability(np.array([0, 1, 2]), np.array([0.1, 0.5, 0.9]))
