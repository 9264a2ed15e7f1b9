"""ROC and precision-recall curves with bands over patients, and the rates at a threshold.

Scores of different trainings have no common scale, so a curve is drawn within each fold and the
folds' curves are averaged: at each false positive rate (ROC) with the number of pairs of the
fold as weight, at each recall (PR) with its number of positives. The areas under these averages
are `metrics.auroc` and `metrics.auprc`, so figure and table say the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from histotransfer_pl.analysis.metrics import decide, ranging
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions
from histotransfer_pl.errors import AnalysisError

GRID: Floats = np.linspace(0, 1, 201)
"""Where curves are evaluated: false positive rates, or recalls."""
_FoldCurve = Callable[[Floats, Floats], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Band:
    """A curve on ``GRID`` with a pointwise band.

    Attributes:
        value: (G,) the curve on the data themselves.
        low: (G,) lower edge.
        high: (G,) upper edge.
        chance: Height of the curve of a score that knows nothing; None where that is a diagonal.
    """

    value: Floats
    low: Floats
    high: Floats
    chance: float | None = None


def roc_band(
    predictions: Predictions,
    label: int,
    *,
    level: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
) -> Band:
    """Sensitivity against the false positive rate for one class against the rest.

    Args:
        predictions: Test predictions.
        label: The class that counts as positive.
        level: Share of the resampled curves inside the band at each point.
        n_resamples: Resamples of patients.
        seed: Of the resamples.

    Raises:
        AnalysisError: No slide of the class, or none of the others.
    """
    return _band(predictions, label, _roc, level, n_resamples, seed)


def pr_band(
    predictions: Predictions,
    label: int,
    *,
    level: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
) -> Band:
    """Precision against recall for one class against the rest; arguments as ``roc_band``.

    Between two recalls precision is that of the higher one, as in average precision.

    Raises:
        AnalysisError: No slide of the class, or none of the others.
    """
    band = _band(predictions, label, _pr, level, n_resamples, seed)
    chance = float((predictions.y == label).mean())
    return Band(band.value, band.low, band.high, chance)


def youden_threshold(labels: Ints, scores: Floats) -> float:
    """The threshold with the highest sensitivity + specificity (Youden 1950).

    Between two equally good thresholds the higher one. Choose it on validation slides: chosen on
    the test slides it promises more than it keeps.

    Args:
        labels: (S,) one where the slide is of the class, zero elsewhere.
        scores: (S,) score of the class.

    Raises:
        AnalysisError: Only one class.
    """
    if len(np.unique(labels)) < 2:
        raise AnalysisError(
            f"all {len(labels)} validation slides are of one class: a threshold needs both"
        )
    wrong, right, thresholds = roc_curve(labels, scores)
    best = int((right - wrong).argmax())
    # Half way to the next lower score, so that rounding does not turn a slide over.
    lower = scores[scores < thresholds[best]]
    return float((thresholds[best] + lower.max()) / 2) if len(lower) else float(thresholds[best])


@ranging(0, 1)
def sensitivity(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Share of class 1 that is found, (B,); a metric of decisions (S,), 1 or 0."""
    del folds
    return _share(decide(scores) == 1, labels == 1, weights)


@ranging(0, 1)
def specificity(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
    """Share of class 0 that is left alone, (B,); a metric of decisions (S,), 1 or 0."""
    del folds
    return _share(decide(scores) == 0, labels == 0, weights)


def _share(right: np.ndarray, among: np.ndarray, weights: Floats) -> Floats:
    found, whole = weights @ (right & among), weights @ among  # (B,) each
    return np.asarray(np.divide(found, whole, out=np.full_like(whole, np.nan), where=whole > 0))


def _band(
    predictions: Predictions,
    label: int,
    curve: _FoldCurve,
    level: float,
    n_resamples: int,
    seed: int,
) -> Band:
    positive = predictions.y == label
    if positive.all() or not positive.any():
        raise AnalysisError(f"{positive.sum()} of {len(positive)} slides are of the class")
    n = predictions.n_patients
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    counts = np.concatenate([np.ones((1, n), counts.dtype), counts])  # (1 + B, patients)
    weights = counts[:, predictions.patient_index].astype(np.float64)  # (1 + B, S)
    scores = predictions.s if predictions.s.ndim == 1 else predictions.s[:, label]
    if predictions.s.ndim == 1 and label == 0:
        scores = -scores
    total, mass = np.zeros((len(weights), len(GRID))), np.zeros((len(weights), 1))
    for fold in np.unique(predictions.fold_index):
        rows = np.flatnonzero(predictions.fold_index == fold)
        hits, misses = _falling(positive[rows], scores[rows], weights[:, rows])  # (1 + B, U)
        height, share = curve(hits, misses)  # (1 + B, G), (1 + B,)
        total += np.where(share[:, None] > 0, height * share[:, None], 0)
        mass += share[:, None]
    curves = np.divide(total, mass, out=np.full_like(total, np.nan), where=mass > 0)
    edges = np.nanquantile(curves[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)  # (2, G)
    return Band(curves[0], edges[0], edges[1])


def _falling(positive: np.ndarray, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Positives and negatives (B, U) found when the threshold falls to each distinct score."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(-scores[order], append=np.inf) > 0)
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last]
    misses = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, last]
    return hits, misses


def _roc(hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
    pairs = hits[:, -1] * misses[:, -1]  # (B,)
    height = np.full((len(hits), len(GRID)), np.nan)
    for row in np.flatnonzero(pairs > 0):
        x = np.r_[0.0, misses[row] / misses[row, -1]]
        y = np.r_[0.0, hits[row] / hits[row, -1]]
        height[row] = np.interp(GRID, x, y)  # of equal x the last counts: the upper end of a step
    return height, pairs


def _pr(hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
    mass = hits[:, -1]  # (B,)
    height = np.full((len(hits), len(GRID)), np.nan)
    for row in np.flatnonzero(mass > 0):
        found = hits[row] + misses[row]
        precision = np.divide(hits[row], found, out=np.zeros_like(found), where=found > 0)
        place = np.searchsorted(hits[row] / mass[row], GRID - 1e-12)
        height[row] = precision[np.minimum(place, len(precision) - 1)]
    return height, mass
