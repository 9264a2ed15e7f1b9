"""How well a standard error is itself known: degrees of freedom for Student's t."""

import numpy as np
from scipy.stats import t as student

from histotransfer_pl.analysis.predictions import Floats, Ints


def satterthwaite(pulls: Floats, groups: Ints) -> float:
    """Degrees of freedom of a variance that groups of unequal size and spread add up to.

    A group's share rests on its own size less one (Satterthwaite 1946; Welch's test is the case
    of two groups). A group of one patient counts as one.

    Args:
        pulls: (patients,) influence of each patient, mean 0.
        groups: (patients,) number of its group, from 0.
    """
    variances = np.bincount(groups, pulls**2)  # (groups,)
    freedom = np.maximum(np.bincount(groups) - 1, 1)  # (groups,)
    mixed = (variances**2 / freedom).sum()
    return float(variances.sum() ** 2 / mixed) if mixed > 0 else float(freedom.min())


def reach(left_out: Floats, groups: Ints, level: float) -> float:
    """Half width of an interval in bootstrap standard errors.

    A bootstrap of n patients finds (n - 1) / n of the variance and knows it no better than the
    patients' influences allow, so 1.96 is too short for few of them (Hesterberg 2015, The
    American Statistician 69:371, gives both corrections).

    Args:
        left_out: (patients,) values with each patient left out.
        groups: (patients,) group of each patient.
        level: Confidence level, such as 0.95.
    """
    n = len(left_out)
    freedom = satterthwaite(left_out.mean() - left_out, groups)
    return float(np.sqrt(n / (n - 1)) * student.ppf((1 + level) / 2, freedom))
