"""Kaplan-Meier curves and the log-rank test of groups of patients, by statsmodels."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import chi2
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from histotransfer_pl.analysis.targets import Floats, Ints
from histotransfer_pl.errors import AnalysisError


@dataclass(frozen=True, eq=False)
class SurvivalCurve:
    """Share of patients still without the event, a step at each time of an event.

    Attributes:
        times: (U,) times of events, rising.
        survival: (U,) from this time on.
        low: (U,) lower limit of its interval.
        high: (U,) upper limit.
        at_risk: (U,) patients under observation just before.
    """

    times: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: Ints


@dataclass(frozen=True)
class LogRank:
    """Test of equal survival in all groups."""

    statistic: float
    freedom: int
    p_value: float


def kaplan_meier(targets: Floats, *, level: float = 0.95) -> SurvivalCurve:
    """The curve of one group, with log-log limits (Kalbfleisch and Prentice 2002).

    Args:
        targets: (P, 2) time and event, one row per patient: slides are not independent.
        level: Confidence level at each time.

    Raises:
        AnalysisError: No event.
    """
    _require_events(targets)
    found = SurvfuncRight(targets[:, 0], targets[:, 1])
    survival, error = np.asarray(found.surv_prob), np.asarray(found.surv_prob_se)  # (U,) each
    inside = (survival > 0) & (survival < 1)  # (U,), where the logarithms exist
    log = np.log(survival, out=np.full_like(survival, -1.0), where=inside)
    width = np.divide(error, survival * log, out=np.zeros_like(error), where=inside)
    shift = np.exp(ndtri((1 + level) / 2) * np.abs(width))
    low = np.where(inside, survival**shift, np.where(survival == 0, 0, survival))
    high = np.where(inside, survival ** (1 / shift), survival)
    return SurvivalCurve(
        np.asarray(found.surv_times, np.float64),
        survival,
        low,
        high,
        np.asarray(found.n_risk, np.int64),
    )


def log_rank(targets: Floats, groups: Ints) -> LogRank:
    """Whether groups of patients differ in their survival.

    Args:
        targets: (P, 2) time and event, one row per patient.
        groups: (P,) number of the group of each patient.
    """
    _require_events(targets)
    count = len(np.unique(groups))
    if count < 2:
        raise AnalysisError(f"all {len(groups)} patients are in one group: nothing to compare")
    statistic = float(survdiff(targets[:, 0], targets[:, 1], groups)[0])
    return LogRank(statistic, count - 1, float(chi2.sf(statistic, count - 1)))


def _require_events(targets: Floats) -> None:
    if not (targets[:, 1] == 1).any():
        raise AnalysisError(f"none of {len(targets)} patients has the event: no curve, no test")
