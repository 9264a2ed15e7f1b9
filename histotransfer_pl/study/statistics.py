"""One number for several fits of the same slides, with its interval."""

from collections.abc import Sequence

import numpy as np

from histotransfer_pl.analysis.bootstrap import Interval, bca, by_patient, jackknife, resample
from histotransfer_pl.analysis.metrics import Metric, evaluate
from histotransfer_pl.analysis.predictions import Floats, Predictions, align, check_enough


def mean_interval(
    seeds: Sequence[Predictions],
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Patient-level interval of the mean of a metric over fits with several seeds.

    The same patients are drawn for all seeds, so the interval is that of the cohort; how much the
    seeds differ is a number of its own.

    Args:
        seeds: Predictions of the same slides by fits with different seeds.
        metric: What to measure.
        level: Confidence level.
        n_resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        AnalysisError: The seeds saw other slides; one class, constant scores, too few patients.
    """
    first = seeds[0]
    fits = [first, *(align(first, other) for other in seeds[1:])]
    for fit in fits:
        check_enough(fit)
    statistics = [by_patient(fit, metric) for fit in fits]

    def mean(counts: Floats) -> Floats:
        return np.asarray(np.mean([statistic(counts) for statistic in statistics], axis=0))

    estimate = float(np.mean([evaluate(metric, fit)[0] for fit in fits]))
    values = resample(mean, first.n_patients, n_resamples, seed)  # (B,)
    left_out = jackknife(mean, first.n_patients)  # (patients,)
    if np.ptp(values) == 0 or np.ptp(left_out) == 0:
        # Perfect (or perfectly wrong) whoever is drawn: resampling knows no uncertainty then.
        return Interval(estimate, float("nan"), float("nan"), level, first.n_patients,
                        first.n_slides, "none")  # fmt: skip
    low, high = bca(values, left_out, estimate, level)
    return Interval(estimate, low, high, level, first.n_patients, first.n_slides)
