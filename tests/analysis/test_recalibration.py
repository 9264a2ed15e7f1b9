import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from histotransfer_pl.analysis.calibration import expected_calibration_error
from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.analysis.recalibration import Isotonic, Temperature
from histotransfer_pl.errors import AnalysisError


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
def test_temperature_has_the_least_log_loss(c: int) -> None:
    probabilities, labels = too_sure(400, 0, c)
    found = Temperature.fit(probabilities, labels)
    # where the derivative is zero: expected logit and logit of the true class balance
    logits = np.log(probabilities)
    after = found(probabilities)
    own = logits[np.arange(400), labels].sum()
    np.testing.assert_allclose((after * logits).sum(), own, rtol=1e-9)
    best = minimize_scalar(
        lambda t: log_loss(labels, Temperature(t)(probabilities)), bounds=(0.5, 10)
    ).x
    assert found.value == pytest.approx(best, rel=1e-4)
    np.testing.assert_allclose(after, softmax(logits / found.value, 1), rtol=1e-12)


def test_both_ways_bring_probabilities_near_to_shares() -> None:
    validation, test = too_sure(2000, 1), too_sure(4000, 2)
    before = ece(*test)
    heat = Temperature.fit(*validation)
    assert heat.value == pytest.approx(2.5, rel=0.1)
    assert ece(heat(test[0]), test[1]) < 0.025 < 0.1 < before
    assert ece(Isotonic.fit(*validation)(test[0]), test[1]) < 0.04
    np.testing.assert_array_equal(heat(test[0]).argmax(1), test[0].argmax(1))


def test_isotonic_of_two_classes_is_scikit_learns() -> None:
    (probabilities, labels), new = too_sure(300, 3, 2), too_sure(50, 4, 2)[0]
    expected = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    expected.fit(probabilities[:, 1], labels)
    found = Isotonic.fit(probabilities, labels)(new)
    np.testing.assert_allclose(found[:, 1], expected.predict(new[:, 1]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)


def test_a_model_without_doubt_or_without_sense_has_a_bounded_temperature() -> None:
    labels = np.array([0, 1, 0, 1])
    right = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    assert Temperature.fit(right, labels).value == 0.05
    assert Temperature.fit(right[:, ::-1], labels).value == 20
    certain = np.eye(2)[labels]  # probabilities of exactly 0 and 1
    assert np.isfinite(Temperature(2.0)(certain)).all()


def test_a_class_that_is_never_possible_leaves_all_alike() -> None:
    curves = Isotonic(((0.0, 1.0),) * 2, ((0.0, 0.0),) * 2)
    np.testing.assert_array_equal(curves(np.array([[0.3, 0.7]])), [[0.5, 0.5]])


def test_they_are_plain_numbers_for_the_model_file() -> None:
    probabilities, labels = too_sure(100, 5)
    for found in (Temperature.fit(probabilities, labels), Isotonic.fit(probabilities, labels)):
        fields = json.loads(json.dumps(dataclasses.asdict(found)))
        np.testing.assert_array_equal(type(found)(**fields)(probabilities), found(probabilities))


def test_what_cannot_be_calibrated_is_refused() -> None:
    probabilities, labels = too_sure(10, 6)
    with pytest.raises(AnalysisError, match="rows do not add up to 1"):
        Temperature.fit(np.log(probabilities), labels)
    with pytest.raises(AnalysisError, match="all 10 validation slides are of one class"):
        Isotonic.fit(probabilities, np.zeros(10, np.int64))
