"""Figures of one arm: what they count, and what they refuse to draw."""

import numpy as np
import pytest

from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.report.evaluation import (
    ArmWords,
    calibration,
    confusion,
    decide_at,
    discrimination,
    rates_at,
)

ARM = ArmWords("toy", "n = 8 slides of 8 patients", ("normal", "tumour"))
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9]


@pytest.fixture
def predictions() -> Predictions:
    return Predictions([f"s{i}" for i in range(8)], [f"p{i}" for i in range(8)], LABELS, SCORES)


def test_the_confusion_matrix_counts_at_the_threshold(predictions: Predictions) -> None:
    at_half = confusion(decide_at(predictions, None), predictions.y, ARM, "c", "")
    assert at_half.alt.endswith("of 4 normal 3 are right; of 4 tumour 3 are right.")
    lower = decide_at(predictions, np.full(8, 0.35))
    assert "of 4 tumour 4 are right" in confusion(lower, predictions.y, ARM, "c", "").alt


def test_each_training_has_its_own_threshold(predictions: Predictions) -> None:
    rates = rates_at(predictions, np.array([0.35, 0.65] * 4))
    assert rates is not None
    # rows 1, 3, 5 and 7 are held against 0.65
    assert rates.specificity.estimate == 1.0
    assert rates.sensitivity.estimate == 1.0
    assert rates.threshold == "0.35 to 0.65"


def test_curves_and_calibration_are_drawn_and_say_what_they_show(
    predictions: Predictions,
) -> None:
    for drawn in (discrimination(predictions, ARM, "roc"), calibration(predictions, ARM, "cal")):
        assert drawn is not None
        assert drawn.png.startswith(b"\x89PNG")
        assert ARM.n in drawn.caption


def test_a_band_without_width_is_explained(predictions: Predictions) -> None:
    drawn = discrimination(predictions, ARM, "roc")
    assert drawn is not None
    assert "no width" not in drawn.caption
    ids, patients = [f"s{i}" for i in range(8)], [f"p{i}" for i in range(8)]
    perfect = discrimination(Predictions(ids, patients, LABELS, LABELS), ARM, "roc")
    assert perfect is not None
    assert "They have no width" in perfect.caption


def test_nothing_is_drawn_of_one_class_alone() -> None:
    one = Predictions(["a", "b"], ["p", "q"], [1, 1], [0.2, 0.9])
    assert discrimination(one, ARM, "roc") is None
    assert rates_at(one, np.full(2, 0.5)) is None
    logits = Predictions(["a", "b"], ["p", "q"], [0, 1], [-2.0, 9.0])
    assert calibration(logits, ARM, "cal") is None
