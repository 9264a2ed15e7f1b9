"""Intervals from resampling patients.

Patients are drawn, not slides: slides of one patient resemble each other, and slide-wise
intervals are too narrow. The interval is the bias-corrected and accelerated one (BCa, Efron
1987) with the reach of Student's t, because the plain percentile interval is too short for few
patients. `python -m benchmarks.coverage` counts how often it holds the truth; the table is in
docs/results/coverage.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from statsmodels.stats.proportion import proportion_confint
from typing_extensions import override

from histotransfer_pl.analysis.freedom import reach
from histotransfer_pl.analysis.metrics import Metric, evaluate
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions, check_enough
from histotransfer_pl.errors import AnalysisError

Statistic = Callable[[Floats], Floats]
"""From how often each patient was drawn, (B, patients), to a number per resample, (B,)."""

# weights of one block of resamples: 16 MB
_BLOCK = 2_000_000
# with fewer patients of a class resampling shows too little of what another cohort could bring
_FEW = 10


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
    as the rarest class has patients takes its place. With fewer than ten patients of a class the
    interval is nowhere narrower than that: three patients that are all right do not prove that
    every patient will be. The limits stay within the range of the metric.

    Raises:
        AnalysisError: One class, constant scores, too few patients, or an undefined metric.
    """
    check_enough(predictions)
    statistic = by_patient(predictions, metric)
    estimate = float(evaluate(metric, predictions)[0])
    values = resample(statistic, predictions.n_patients, n_resamples, seed)  # (B,)
    left_out = jackknife(statistic, predictions.n_patients)  # (patients,)
    rarest = min(predictions.patients_of_kinds().values())
    if np.ptp(values) == 0 or np.ptp(left_out) == 0:
        if estimate not in (metric.lowest, metric.highest):
            raise AnalysisError(
                f"every resample gives {estimate:.4g}: the metric does not depend on the "
                "patients, so it has no interval"
            )
        limits, method = wilson(estimate, rarest, metric, level), "Wilson"
    else:
        width = reach(left_out, predictions.patient_groups, level)
        limits, method = bca(values, left_out, estimate, width), "BCa"
        if rarest < _FEW and np.isfinite(metric.highest - metric.lowest):
            wide = wilson(estimate, rarest, metric, level)
            limits, method = (min(limits[0], wide[0]), max(limits[1], wide[1])), "BCa and Wilson"
    n_patients, n_slides = predictions.n_patients, predictions.n_slides
    return Interval(estimate, *limits, level, n_patients, n_slides, method)


def interval_of(
    statistic: Statistic,
    groups: Ints,
    n_slides: int,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """BCa interval of any number that follows from how often each patient was drawn.

    Args:
        statistic: The number.
        groups: (patients,) kind of each patient, as of `Predictions.patient_groups`.
        n_slides: Slides behind it.
        level: Confidence level.
        n_resamples: Number of resamples.
        seed: Seed of the draw.

    Raises:
        AnalysisError: It is the same whatever the patients.
    """
    n = len(groups)
    estimate = float(statistic(np.ones((1, n)))[0])
    values, left_out = resample(statistic, n, n_resamples, seed), jackknife(statistic, n)
    if np.ptp(values) == 0 or np.ptp(left_out) == 0:
        raise AnalysisError(
            f"it is {estimate:.3f} in every resample of patients: it has no interval"
        )
    low, high = bca(values, left_out, estimate, reach(left_out, groups, level))
    return Interval(estimate, low, high, level, n, n_slides)


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


def bca(values: Floats, left_out: Floats, estimate: float, width: float) -> tuple[float, float]:
    """Bias-corrected and accelerated limits (Efron 1987), ties counted half.

    Args:
        values: (B,) bootstrap values.
        left_out: (patients,) jackknife values.
        estimate: Value on the data themselves.
        width: Half width in standard errors, such as 1.96.
    """
    below = (values < estimate).mean() + (values == estimate).mean() / 2
    edge = 1 / (2 * len(values))
    bias = ndtri(np.clip(below, edge, 1 - edge))
    pull = left_out.mean() - left_out  # (patients,)
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    shifted = bias + np.array([-width, width])  # (2,)
    # a limit goes to the end of the values as this falls to 0; below, its sign would turn
    room = np.maximum(1 - acceleration * shifted, 1e-9)  # (2,)
    low, high = np.quantile(values, ndtr(bias + shifted / room))
    return float(low), float(high)


def wilson(estimate: float, trials: int, metric: Metric, level: float) -> tuple[float, float]:
    """Limits of a share of successes in so many trials, on the scale of the metric."""
    scale = metric.highest - metric.lowest
    share = (estimate - metric.lowest) / scale
    limits = proportion_confint(share * trials, trials, alpha=1 - level, method="wilson")
    low, high = (metric.lowest + scale * float(limit) for limit in limits)
    return low, high
