"""Sets of classes that hold the true one with a chosen probability, and when to abstain.

Split conformal prediction: the validation part says how small the probability of the true class
can be; every class that is not less probable belongs to the set.
"""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.targets import Floats
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.calibration import Calibration


def p_values(calibration: Calibration, probabilities: Floats) -> Floats:
    """How usual each class would be for a slide: (S, C), the share of patients as unusual or more.

    Each patient counts once, in equal parts over its slides (Lee et al. 2023, hierarchical
    conformal prediction): the promise is for a slide of a new patient. The mean over models that
    were validated on different patients is that of cross-conformal prediction (Vovk 2015).

    Args:
        calibration: The validation part.
        probabilities: (S, C) as the model gives them.
    """
    _, place, counts = np.unique(calibration.patients, return_inverse=True, return_counts=True)
    lacking = np.asarray(calibration.lacking)  # (V,), rising
    mass = np.append(0, np.cumsum(1 / counts[place]))  # (V + 1,), patients below the i-th slide
    below = mass[np.searchsorted(lacking, 1 - probabilities - 1e-12)]  # (S, C)
    return np.asarray(1 - below / (len(counts) + 1))


def prediction_sets(p: Floats, error: float) -> NDArray[np.bool_]:
    """Which classes belong to the set of each slide, (S, C); a set may be empty.

    With one slide per patient it is the usual quantile at rank (n + 1) (1 - error) (Sadinle et
    al. 2019).

    Args:
        p: (S, C) as `p_values` gives them.
        error: Share of new patients' slides whose set may lack the true class.
    """
    return p > error + 1e-12  # rounding must not add a class


def require_enough(n_patients: int, error: float) -> None:
    """Refuse an error that so few patients cannot promise: no set would leave a class out.

    Raises:
        AnalysisError: It says how many are needed.
    """
    if not 0 < error < 1:
        raise AnalysisError(f"error is {error}: give a share between 0 and 1, such as 0.1")
    if (n_patients + 1) * error < 1:
        raise AnalysisError(
            f"{n_patients} validation patients cannot promise an error of {error:g}: it needs at "
            f"least {int(np.ceil(1 / error)) - 1}"
        )
