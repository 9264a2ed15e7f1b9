"""What the validation slides of each training of an arm decide: a threshold, a temperature."""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.curves import youden_threshold
from histotransfer_pl.analysis.recalibration import at_temperature, fit_temperature
from histotransfer_pl.analysis.targets import Floats
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.run import Run
from histotransfer_pl.runs.validation import validation_table


def validation_threshold(run: Run) -> float:
    """The threshold with the highest sensitivity + specificity on the run's validation slides."""
    if run.tested.positive is None:
        raise AnalysisError(f"{run.name}: a threshold needs two classes")
    table = validation_table(run.folder, run.tested.outcome.spec)
    return youden_threshold(table.targets, table.scores[:, 1])


def thresholds_of(arm: Arm) -> NDArray[np.float64]:
    """The threshold of the training behind each row of ``arm.predictions()`` (S,).

    Raises:
        AnalysisError: A training has none; the message says why.
    """
    each = [(validation_threshold(run), len(run.table)) for run in arm.runs]
    return np.repeat([value for value, _ in each], [n for _, n in each])


def calibrated_scores(arm: Arm) -> Floats:
    """The rows of ``arm.predictions()`` (S, C), each training at its own temperature.

    Raises:
        AnalysisError: A training has none; the message says why.
    """
    each = []
    for run in arm.runs:
        table = validation_table(run.folder, run.tested.outcome.spec)
        temperature = fit_temperature(table.scores, table.targets)
        each.append(at_temperature(run.tested.scores, temperature))
    return np.concatenate(each)
