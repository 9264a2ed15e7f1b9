import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from histotransfer_pl.analysis.calibration import expected_calibration_error
from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.analysis.recalibration import at_temperature, calibrate, fit_temperature
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.calibration import Calibration


def too_sure(n: int, seed: int, c: int = 3) -> tuple[Floats, Ints]:
    """Probabilities that would be right at temperature 2.5."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, c)) * 1.5
    labels = (softmax(logits, 1).cumsum(1) < rng.random((n, 1))).sum(1)
    return softmax(2.5 * logits, 1), np.minimum(labels, c - 1)


def ece(probabilities: Floats, labels: Ints) -> float:
    n = len(labels)
    return float(
        expected_calibration_error(labels, probabilities, np.ones((1, n)), np.zeros(n, int))[0]
    )


@pytest.mark.parametrize("c", [2, 3])
def test_temperature_has_the_least_log_loss_of_smoothed_labels(c: int) -> None:
    probabilities, labels = too_sure(400, 0, c)
    found = fit_temperature(probabilities, labels)
    # each slide counts for its class, and a little for the others
    rows, classes = np.repeat(np.arange(400), c), np.tile(np.arange(c), 400)
    n = np.bincount(labels)[labels[rows]]
    weights = np.where(classes == labels[rows], (n + 1) / (n + 2), 1 / (n + 2) / (c - 1))

    def loss(t: float) -> float:
        after = at_temperature(probabilities, t)[rows]
        return float(log_loss(classes, after, sample_weight=weights))

    best = minimize_scalar(loss, bounds=(0.5, 10), method="bounded", options={"xatol": 1e-6}).x
    assert found == pytest.approx(best, rel=1e-4)
    after = at_temperature(probabilities, found)
    np.testing.assert_allclose(after, softmax(np.log(probabilities) / found, 1), rtol=1e-12)


def test_a_handful_of_slides_makes_no_model_certain() -> None:
    """Of 3 and 3 slides told apart, the next one is right in 4 of 5 cases and not always."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    apart = np.where(np.eye(2)[labels] == 1, 0.99, 0.01)
    calibrated = at_temperature(apart, fit_temperature(apart, labels))
    np.testing.assert_allclose(calibrated.max(1), 0.8, rtol=1e-9)
    # a good model, calibrated on six slides, again and again: no worse than as it was
    losses = []
    test = too_sure(2000, 2, 2)
    good = at_temperature(test[0], 2.5)
    for seed in range(200):
        probabilities, labels = too_sure(6, 100 + seed, 2)
        if len(np.unique(labels)) == 2:
            found = fit_temperature(at_temperature(probabilities, 2.5), labels)
            losses.append(log_loss(test[1], at_temperature(good, found)))
    assert len(losses) > 150
    assert np.mean(losses) < log_loss(test[1], good) + 0.1


def test_it_brings_probabilities_near_to_shares() -> None:
    validation, test = too_sure(2000, 1), too_sure(4000, 2)
    found = fit_temperature(*validation)
    assert found == pytest.approx(2.5, rel=0.1)
    after = at_temperature(test[0], found)
    assert ece(after, test[1]) < 0.025 < 0.1 < ece(*test)
    np.testing.assert_array_equal(after.argmax(1), test[0].argmax(1))


def test_a_model_without_doubt_or_without_sense_has_a_bounded_temperature() -> None:
    labels = np.array([0, 1] * 1000)
    right = np.where(np.eye(2)[labels] == 1, 0.5001, 0.4999)
    assert fit_temperature(right, labels) == 0.05
    assert fit_temperature(right[:, ::-1], labels) == 20
    certain = np.eye(2)[labels]  # probabilities of exactly 0 and 1
    assert np.isfinite(at_temperature(certain, 2.0)).all()


def test_what_a_model_file_keeps_names_nobody() -> None:
    probabilities, labels = too_sure(20, 5)
    names = np.array([f"patient {i // 2}" for i in range(20)])
    kept = calibrate(probabilities, labels, names)
    expected = 1 - probabilities[np.arange(20), labels]
    np.testing.assert_allclose(kept.lacking, np.sort(expected), rtol=1e-12)
    # the two slides of a patient stay one patient's
    pairs = {tuple(np.flatnonzero(np.array(kept.patients) == p)) for p in range(10)}
    order = np.argsort(expected)
    assert pairs == {
        tuple(sorted(np.flatnonzero(np.isin(order, (i, i + 1))))) for i in range(0, 20, 2)
    }
    text = json.dumps(kept.to_json())
    assert "patient 3" not in text
    assert Calibration.from_json(json.loads(text)) == kept
    assert kept.in_words() == "20 validation slides of 10 patients"


def test_what_cannot_be_calibrated_is_refused() -> None:
    probabilities, labels = too_sure(10, 6)
    with pytest.raises(AnalysisError, match="rows do not add up to 1"):
        fit_temperature(np.log(probabilities), labels)
    with pytest.raises(AnalysisError, match="all 10 validation slides are of one class"):
        fit_temperature(probabilities, np.zeros(10, np.int64))
