"""Probabilities one can use: fitted on the validation part, never on the test part."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.isotonic import IsotonicRegression

from histotransfer_pl.analysis.targets import Floats, Ints
from histotransfer_pl.errors import AnalysisError

_SMALLEST = 1e-12
_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class Temperature:
    """Logits divided by one number (Guo et al. 2017): the ranking of slides stays.

    Attributes:
        value: Above 1 makes the model less sure.
    """

    value: float
    kind: Literal["temperature"] = "temperature"

    @classmethod
    def fit(cls, probabilities: Floats, labels: Ints) -> Self:
        """The temperature with the least log loss, between 0.05 and 20.

        Args:
            probabilities: (S, C) of the validation part.
            labels: (S,) true classes.

        Raises:
            AnalysisError: Fewer than two classes, or what are no probabilities.
        """
        logits = _logits(_check(probabilities, labels))  # (S, C)
        own = logits[np.arange(len(labels)), labels]  # (S,)

        def slope(sharpness: float) -> float:
            """Derivative of the log loss, which rises with 1 / temperature."""
            return float((softmax(sharpness * logits, 1) * logits).sum() - own.sum())

        low, high = 1 / _RANGE[1], 1 / _RANGE[0]
        if slope(low) >= 0:
            return cls(_RANGE[1])
        if slope(high) <= 0:
            return cls(_RANGE[0])
        return cls(1 / float(brentq(slope, low, high, xtol=1e-14, rtol=1e-14)))

    def __call__(self, probabilities: Floats) -> Floats:
        """Probabilities (S, C) at this temperature."""
        return softmax(_logits(probabilities) / self.value, axis=1)


@dataclass(frozen=True)
class Isotonic:
    """A rising step curve per class, one against the rest (Zadrozny and Elkan 2002).

    Attributes:
        given: Per class the probabilities at which the curve has its points.
        meant: Per class its values there.
    """

    given: tuple[tuple[float, ...], ...]
    meant: tuple[tuple[float, ...], ...]
    kind: Literal["isotonic"] = "isotonic"

    @classmethod
    def fit(cls, probabilities: Floats, labels: Ints) -> Self:
        """Curves of the validation part; arguments and errors as `Temperature.fit`."""
        _check(probabilities, labels)
        given, meant = [], []
        for label in range(probabilities.shape[1]):
            curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            curve.fit(probabilities[:, label], labels == label)
            given.append(tuple(curve.X_thresholds_.tolist()))
            meant.append(tuple(curve.y_thresholds_.tolist()))
        return cls(tuple(given), tuple(meant))

    def __call__(self, probabilities: Floats) -> Floats:
        """Probabilities (S, C) through the curves, made to add up to 1."""
        columns = [
            np.interp(probabilities[:, label], *points)
            for label, points in enumerate(zip(self.given, self.meant, strict=True))
        ]
        raised = np.stack(columns, 1)  # (S, C)
        whole = raised.sum(1, keepdims=True)  # (S, 1)
        even = np.full_like(raised, 1 / raised.shape[1])  # no class is possible: all alike
        return np.asarray(np.divide(raised, whole, out=even, where=whole > 0))


def _logits(probabilities: Floats) -> Floats:
    return np.log(np.clip(probabilities, _SMALLEST, None))


def _check(probabilities: Floats, labels: Ints) -> Floats:
    if probabilities.ndim != 2 or not np.allclose(probabilities.sum(1), 1, atol=1e-4):
        raise AnalysisError(
            f"{probabilities.shape} scores whose rows do not add up to 1: give probabilities (S, C)"
        )
    if len(np.unique(labels)) < 2:
        raise AnalysisError(
            f"all {len(labels)} validation slides are of one class: calibration needs several"
        )
    return probabilities
