"""Probabilities one can use: fitted on the validation part, never on the test part."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from histotransfer_pl.analysis.targets import Floats, Ints, Names
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.calibration import Calibration

_SMALLEST = 1e-12
_RANGE = (0.05, 20.0)


def calibrate(probabilities: Floats, labels: Ints, patients: Names) -> Calibration:
    """What a model file keeps of the validation part.

    Args:
        probabilities: (S, C) of slides the model was not trained on.
        labels: (S,) true classes.
        patients: (S,) their patients.

    Raises:
        AnalysisError: As `fit_temperature`.
    """
    lacking = 1 - probabilities[np.arange(len(labels)), labels]  # (S,)
    order = np.argsort(lacking, kind="stable")
    number = np.unique(patients, return_inverse=True)[1]
    return Calibration(
        fit_temperature(probabilities, labels),
        tuple(lacking[order].tolist()),
        tuple(number[order].tolist()),
    )


def fit_temperature(probabilities: Floats, labels: Ints) -> float:
    """The number by which logits are divided for the least log loss, between 0.05 and 20.

    Above 1 it makes the model less sure; the order of the classes stays (Guo et al. 2017). Of n
    slides of a class (n + 1) / (n + 2) are taken to be of it (Platt 1999): a model that tells a
    handful of slides apart is not sure of the next one, and without this its temperature is 0.05.

    Args:
        probabilities: (S, C) of the validation part.
        labels: (S,) true classes.

    Raises:
        AnalysisError: Fewer than two classes, or what are no probabilities.
    """
    _check(probabilities, labels)
    logits = _logits(probabilities)  # (S, C)
    expected = (_smoothed(labels, logits.shape[1]) * logits).sum()

    def slope(sharpness: float) -> float:
        """Derivative of the log loss, which rises with 1 / temperature."""
        return float((softmax(sharpness * logits, 1) * logits).sum() - expected)

    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    if slope(low) >= 0:
        return _RANGE[1]
    if slope(high) <= 0:
        return _RANGE[0]
    return 1 / float(brentq(slope, low, high, xtol=1e-14, rtol=1e-14))


def at_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (S, C) of logits divided by a temperature."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def _smoothed(labels: Ints, n_classes: int) -> Floats:
    """Targets (S, C) that leave a share to the other classes, as if each class had two more slides.

    One of the two is of the class, the other of the others.
    """
    counts = np.bincount(labels, minlength=n_classes)[labels]  # (S,)
    others = 1 / (counts + 2) / (n_classes - 1)  # (S,)
    own = np.eye(n_classes)[labels] == 1  # (S, C)
    return np.where(own, ((counts + 1) / (counts + 2))[:, None], others[:, None])


def _logits(probabilities: Floats) -> Floats:
    return np.log(np.clip(probabilities, _SMALLEST, None))


def _check(probabilities: Floats, labels: Ints) -> None:
    if probabilities.ndim != 2 or not np.allclose(probabilities.sum(1), 1, atol=1e-4):
        raise AnalysisError(
            f"{probabilities.shape} scores whose rows do not add up to 1: give probabilities (S, C)"
        )
    if len(np.unique(labels)) < 2:
        raise AnalysisError(
            f"all {len(labels)} validation slides are of one class: calibration needs several"
        )
