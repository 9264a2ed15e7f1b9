"""Intervals from resampling patients.

Patients are drawn, not slides: slides of one patient resemble each other, and slide-wise
intervals are too narrow. The interval is the bias-corrected and accelerated one (BCa, Efron
1987), because the plain percentile interval of an AUROC is too short: in 600 simulated cohorts
of 20 to 100 patients with 1 to 3 slides each it held the truth in 90 to 92 % at AUROC 0.9, BCa
in 93 to 95 %.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from statsmodels.stats.proportion import proportion_confint
from typing_extensions import override

from histotransfer_pl.analysis.metrics import Metric, evaluate
from histotransfer_pl.analysis.predictions import Floats, Predictions, check_enough
from histotransfer_pl.errors import AnalysisError

Statistic = Callable[[Floats], Floats]
"""From how often each patient was drawn, (B, patients), to a number per resample, (B,)."""

# weights of one block of resamples: 16 MB
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval and the data behind it."""

    estimate: float
    low: float
    high: float
    level: float
    n_patients: int
    n_slides: int
    method: str = "BCa"

    @override
    def __str__(self) -> str:
        percent = f"{100 * self.level:g}"
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}] ({percent} %)"


def bootstrap_interval(
    predictions: Predictions,
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Patient-level BCa interval of any metric of `histotransfer_pl.analysis.metrics`.

    A resample that lacks a class defines no AUROC; it is drawn again, which is to say that the
    interval is for cohorts with all classes. When no resample differs from a perfect (or
    perfectly wrong) estimate, BCa would claim certainty; the Wilson interval for as many trials
    as the rarest class has patients takes its place.

    Raises:
        AnalysisError: One class, constant scores, too few patients, or an undefined metric.
    """
    check_enough(predictions)
    statistic = by_patient(predictions, metric)
    estimate = float(evaluate(metric, predictions)[0])
    values = resample(statistic, predictions.n_patients, n_resamples, seed)  # (B,)
    left_out = jackknife(statistic, predictions.n_patients)  # (patients,)
    if np.ptp(values) == 0 or np.ptp(left_out) == 0:
        low, high, method = *_wilson(predictions, estimate, level), "Wilson"
    else:
        low, high, method = *bca(values, left_out, estimate, level), "BCa"
    n_patients, n_slides = predictions.n_patients, predictions.n_slides
    return Interval(estimate, low, high, level, n_patients, n_slides, method)


def by_patient(predictions: Predictions, metric: Metric) -> Statistic:
    """A metric as a function of how often each patient was drawn."""
    step = max(1, _BLOCK // predictions.n_slides)

    def statistic(counts: Floats) -> Floats:
        values = [
            evaluate(metric, predictions, counts[start : start + step, predictions.patient_index])
            for start in range(0, len(counts), step)
        ]
        return np.concatenate(values)

    return statistic


def resample(statistic: Statistic, n_patients: int, n_resamples: int, seed: int) -> Floats:
    """The statistic on patients drawn with replacement, (n_resamples,).

    Raises:
        AnalysisError: More than half of the resamples leave the statistic undefined.
    """
    generator = np.random.default_rng(seed)
    kept: list[Floats] = []
    n_kept = n_drawn = 0
    chances = np.full(n_patients, 1 / n_patients)
    while n_kept < n_resamples:
        counts = generator.multinomial(n_patients, chances, size=n_resamples)  # (B, patients)
        values = statistic(counts.astype(np.float64))  # (B,)
        kept.append(values[np.isfinite(values)])
        n_kept, n_drawn = n_kept + len(kept[-1]), n_drawn + n_resamples
        if n_kept < n_drawn / 2:
            raise AnalysisError(
                f"{n_drawn - n_kept} of {n_drawn} resamples of {n_patients} patients lack a "
                "class: too few patients for an interval; pool the folds or use a larger cohort"
            )
    return np.concatenate(kept)[:n_resamples]


def jackknife(statistic: Statistic, n_patients: int) -> Floats:
    """The statistic with each patient left out once, (patients,)."""
    return statistic(1 - np.eye(n_patients))


def bca(values: Floats, left_out: Floats, estimate: float, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated limits (Efron 1987), ties counted half.

    Args:
        values: (B,) bootstrap values.
        left_out: (patients,) jackknife values.
        estimate: Value on the data themselves.
        level: Confidence level, such as 0.95.
    """
    below = (values < estimate).mean() + (values == estimate).mean() / 2
    edge = 1 / (2 * len(values))
    bias = ndtri(np.clip(below, edge, 1 - edge))
    pull = left_out.mean() - left_out  # (patients,)
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    shifted = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))  # (2,)
    low, high = np.quantile(values, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def _wilson(predictions: Predictions, estimate: float, level: float) -> tuple[float, float]:
    if estimate not in (0.0, 1.0):
        raise AnalysisError(
            f"every resample gives {estimate:.4g}: the metric does not depend on the patients, "
            "so it has no interval"
        )
    rarest = min(
        len(np.unique(predictions.patient_index[predictions.y == label]))
        for label in np.unique(predictions.y)
    )
    low, high = proportion_confint(estimate * rarest, rarest, alpha=1 - level, method="wilson")
    return float(low), float(high)
