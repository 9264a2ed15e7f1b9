"""Whether one encoder beats another on the same patients.

Two tests of the same difference: DeLong's, which needs no resampling but knows the AUROC only,
and the infinitesimal jackknife for any metric. Both take the patient as the unit. With 1 to 3
slides per patient and no true difference, DeLong's test by slides rejected in up to 14 % of
cohorts instead of 5 %; by patients (Obuchowski 1997) with Student's t in about 5 %
(`python -m benchmarks.coverage`, docs/results/coverage.md).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from histotransfer_pl.analysis.bootstrap import Interval, by_patient
from histotransfer_pl.analysis.freedom import satterthwaite
from histotransfer_pl.analysis.metrics import Metric, auroc, evaluate
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions, align, check_enough
from histotransfer_pl.errors import AnalysisError

# differences and errors below this are rounding
_ZERO = 1e-10
# change of a patient's weight: its square and its rounding both leave nine digits
_NUDGE = 5e-5
# a study holds each arm against every other, and what a patient pulls does not depend on the other
_PULLS: WeakKeyDictionary[Predictions, dict[str, Floats]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Comparison:
    """Two models on the same slides: their values, the difference first - second, its test."""

    first: float
    second: float
    difference: Interval
    p_value: float
    degrees_of_freedom: float


class _Error(NamedTuple):
    """Standard error of a difference and how well it is known."""

    spread: float
    freedom: float

    def reach(self, level: float) -> float:
        """Half width of the interval."""
        return self.spread * float(student.ppf((1 + level) / 2, self.freedom))


def paired_test(
    first: Predictions, second: Predictions, metric: Metric = auroc, *, level: float = 0.95
) -> Comparison:
    """Compare any metric by the influence of each patient on the difference.

    The influence is the derivative with respect to the patient's weight (infinitesimal jackknife,
    Efron 1982), its squares add up to the variance. Of a mean over patients with one slide each
    this is the paired t-test, of an AUROC it is DeLong's idea. With few patients the variance is
    uncertain itself, so Student's t judges it, with the degrees of freedom that the influences
    give (Satterthwaite). A bootstrap of the difference rejected too seldom (in 1.6 to 3.5 % for
    C-index, R2 and Spearman's correlation of 60 patients), for it draws patients twice.

    Raises:
        AnalysisError: Other slides, labels, patients or folds; one class; constant predictions;
            too few patients.
    """
    second = _same_slides(first, second)
    n = first.n_patients
    nudge = _NUDGE * np.eye(n)
    weights = np.concatenate([1 + nudge, 1 - nudge])  # (2 patients, patients)
    differences = by_patient(first, metric)(weights) - by_patient(second, metric)(weights)
    pulls = (differences[:n] - differences[n:]) / (2 * _NUDGE)  # (patients,)
    error = _Error(
        spread=float(np.sqrt(n / (n - 1) * (pulls**2).sum())),
        freedom=satterthwaite(pulls, first.patient_groups),
    )
    values = (float(evaluate(metric, first)[0]), float(evaluate(metric, second)[0]))
    return _judge(first, values, error, metric, level, "paired by patient")


def delong(
    first: Predictions,
    second: Predictions,
    *,
    unit: Literal["patient", "slide"] = "patient",
    level: float = 0.95,
) -> Comparison:
    """Compare two AUROC by DeLong's test (1988), extended to patients by Obuchowski (1997).

    Args:
        first: Predictions of one model, two classes.
        second: Predictions of the other for the same slides, in any order.
        unit: "patient" takes the slides of a patient as one draw; "slide" is the classical test,
            right only when every slide is another patient's.
        level: Confidence level of the interval.

    Raises:
        AnalysisError: As `paired_test`, or more than two classes.
    """
    second = _same_slides(first, second)
    if first.task != "classification" or first.n_classes != 2:
        raise AnalysisError(
            f"DeLong's test is for two classes, here are {first.n_classes} ({first.task}): "
            "use paired_test"
        )
    units = _units(first, unit)
    pulls = _known_influence(first, unit) - _known_influence(second, unit)  # (2, units)
    carries = np.zeros(pulls.shape, dtype=bool)  # (2, units)
    carries[1 - first.y, units] = True
    carriers = carries.sum(1)  # (2,), units with positives and with negatives
    variances = (pulls**2).sum(1) * carriers / (carriers - 1)  # (2,)
    n = len(pulls.T)
    shared = (pulls[0] * pulls[1]).sum() * n / (n - 1)  # of units that carry both classes
    spread = float(np.sqrt(variances.sum() + 2 * shared))
    pulls *= np.sqrt(carriers / (carriers - 1))[:, None]
    error = _Error(spread, satterthwaite(pulls[carries], carries.nonzero()[0]))
    values = (float(evaluate(auroc, first)[0]), float(evaluate(auroc, second)[0]))
    return _judge(first, values, error, auroc, level, f"DeLong by {unit}")


def _same_slides(first: Predictions, second: Predictions) -> Predictions:
    second = align(first, second)
    check_enough(first)
    check_enough(second)
    return second


def _units(predictions: Predictions, unit: str) -> Ints:
    """The unit of each slide, (S,)."""
    return predictions.patient_index if unit == "patient" else np.arange(predictions.n_slides)


def _known_influence(predictions: Predictions, unit: str) -> Floats:
    known = _PULLS.setdefault(predictions, {})
    if unit not in known:
        known[unit] = _influence(predictions, _units(predictions, unit))
    return known[unit]


def _influence(predictions: Predictions, units: Ints) -> Floats:
    """Pull of each unit on the AUROC, (2, units): through its positives, its negatives."""
    pulls = np.zeros((2, int(units.max()) + 1))
    scores = predictions.s if predictions.s.ndim == 1 else predictions.s[:, 1]
    area = evaluate(auroc, predictions)[0]
    pairs = 0
    for fold in np.unique(predictions.fold_index):
        rows = predictions.fold_index == fold
        positive, negative = rows & (predictions.y == 1), rows & (predictions.y == 0)
        n_positive, n_negative = int(positive.sum()), int(negative.sum())
        ranks = np.zeros(len(scores))
        ranks[rows] = rankdata(scores[rows])
        # how many of the other class each slide is rightly above or below
        above = ranks[positive] - rankdata(scores[positive])
        below = n_positive - (ranks[negative] - rankdata(scores[negative]))
        np.add.at(pulls[0], units[positive], above - area * n_negative)
        np.add.at(pulls[1], units[negative], below - area * n_positive)
        pairs += n_positive * n_negative
    return pulls / pairs


def _judge(
    predictions: Predictions,
    values: tuple[float, float],
    error: _Error,
    metric: Metric,
    level: float,
    method: str,
) -> Comparison:
    difference = values[0] - values[1]
    if error.spread < _ZERO and abs(difference) > _ZERO:
        raise AnalysisError(
            f"the models differ by {difference:.4g} on every resample alike: "
            "too few patients to judge a difference"
        )
    # without any spread the two rank alike, which is no evidence of a difference
    ratio = abs(difference) / error.spread if error.spread >= _ZERO else 0.0
    largest = metric.highest - metric.lowest  # no difference can be larger
    interval = Interval(
        difference,
        max(difference - error.reach(level), -largest),
        min(difference + error.reach(level), largest),
        level,
        predictions.n_patients,
        predictions.n_slides,
        method,
    )
    p_value = float(2 * student.sf(ratio, error.freedom))
    return Comparison(*values, interval, p_value, error.freedom)
