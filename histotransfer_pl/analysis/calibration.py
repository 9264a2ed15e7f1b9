"""Calibration: whether a slide called tumour with 80 % is one in 80 % of such cases."""

from dataclasses import dataclass

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.errors import AnalysisError


def expected_calibration_error(
    labels: Ints, scores: Floats, weights: Floats, folds: Ints, *, bins: int = 15
) -> Floats:
    """Mean gap between the confidence in the chosen class and how often it is right.

    Top-label error over equally wide bins (Guo et al. 2017), as torchmetrics'
    `multiclass_calibration_error`. It is biased upwards on few slides: read it beside its
    interval and the reliability plot.

    Args:
        labels: (S,) true class.
        scores: (S, C) probabilities, or (S,) probability of class 1.
        weights: (B, S) weight of each slide in each resample.
        folds: (S,), not used; every metric takes them.
        bins: Number of equal bins of [0, 1].

    Raises:
        AnalysisError: Scores that are not probabilities.
    """
    del folds
    _check_probabilities(scores)
    columns = np.stack([1 - scores, scores], 1) if scores.ndim == 1 else scores  # (S, C)
    chosen, confidence = columns.argmax(1), columns.max(1)  # (S,), a tie goes to the first
    gap = confidence - (chosen == labels)  # (S,)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (S,)
    in_bin = np.eye(bins)[place] * gap[:, None]  # (S, bins)
    return np.asarray(np.abs(weights @ in_bin).sum(1) / weights.sum(1))


def _check_probabilities(scores: Floats) -> None:
    if scores.min() < 0 or scores.max() > 1 + 1e-6:
        raise AnalysisError(
            f"scores from {scores.min():.3g} to {scores.max():.3g} are no probabilities: "
            "apply softmax or sigmoid before asking for calibration"
        )


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """Bins of (nearly) equal numbers of slides, with an interval each."""

    predicted: Floats  # (bins,), mean probability in the bin
    observed: Floats  # (bins,), share of slides that are of the class
    low: Floats  # (bins,), lower end of the interval of the share
    high: Floats  # (bins,), upper end
    counts: Ints  # (bins,), slides in the bin


def calibration_bins(
    labels: Ints, probabilities: Floats, patients: Ints, *, bins: int = 8, level: float = 0.95
) -> CalibrationBins:
    """Observed against predicted share in bins of equal counts, with Wilson intervals.

    Slides of one patient resemble each other, so an interval counts patients, not slides. Equal
    probabilities are never torn apart, so counts may differ a little.

    Args:
        labels: (S,) one where the slide is of the class, zero elsewhere.
        probabilities: (S,) predicted probability of the class.
        patients: (S,) number of the patient.
        bins: Number of bins; fewer where that many would hold less than five slides each.
        level: Confidence level of the intervals.

    Raises:
        AnalysisError: Scores that are not probabilities.
    """
    _check_probabilities(probabilities)
    bins = max(1, min(bins, len(labels) // 5))
    inner = np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1])  # (bins - 1,)
    place = np.searchsorted(inner, probabilities, side="left")  # (S,)
    points = []
    for number in np.unique(place):
        inside = place == number
        share = float(labels[inside].mean())
        trials = len(np.unique(patients[inside]))
        low, high = proportion_confint(share * trials, trials, alpha=1 - level, method="wilson")
        # Rounding puts the end of an interval of none or all a hair inside the share.
        low, high = min(low, share), max(high, share)
        points.append((probabilities[inside].mean(), share, low, high, inside.sum()))
    predicted, observed, lows, highs, counts = np.array(points).T  # (bins,) each
    return CalibrationBins(predicted, observed, lows, highs, counts.astype(np.int64))
