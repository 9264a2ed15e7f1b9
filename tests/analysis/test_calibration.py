import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from histotransfer_pl.analysis.calibration import expected_calibration_error
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


def test_logits_are_refused() -> None:
    labels = RNG.integers(0, 2, S)
    logits = RNG.normal(size=S)
    with pytest.raises(AnalysisError, match="no probabilities: apply softmax"):
        expected_calibration_error(labels, logits, np.ones((1, S)), NO_FOLDS)
