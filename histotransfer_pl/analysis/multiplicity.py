"""Many comparisons in one study: p-values that stay honest together."""

from collections.abc import Mapping

import numpy as np
from statsmodels.stats.multitest import multipletests

from histotransfer_pl.errors import AnalysisError


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values by Holm's method, which holds for dependent comparisons too.

    Args:
        p_values: Name of each comparison of the study and its p-value.

    Returns:
        Adjusted p-values under the same names; below 0.05 means that the chance of even one
        false finding in the whole study is below 5 %.

    Raises:
        AnalysisError: A value that is no p-value.
    """
    bad = [f"{name}: {value}" for name, value in p_values.items() if not 0 <= value <= 1]
    if bad:
        raise AnalysisError(f"not p-values: {', '.join(bad)}; leave failed comparisons out")
    if not p_values:
        return {}
    adjusted = multipletests(np.array(list(p_values.values())), method="holm")[1]
    return dict(zip(p_values, map(float, adjusted), strict=True))
