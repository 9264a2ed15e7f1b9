"""The threshold of each training, chosen on its validation slides."""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.curves import youden_threshold
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.tables import read_table
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.predictions import as_table
from histotransfer_pl.runs.record import ALL_PREDICTIONS
from histotransfer_pl.runs.run import Run

_TEXT = ("slide_id", "patient_id", "part", "label", "predicted")


def validation_threshold(run: Run) -> float:
    """The threshold with the highest sensitivity + specificity on the run's validation slides.

    Raises:
        AnalysisError: ``predict`` did not write them, or they are of one class.
    """
    path = run.folder / ALL_PREDICTIONS
    if run.tested.positive is None:
        raise AnalysisError(f"{run.name}: a threshold needs two classes")
    if not path.is_file():
        raise AnalysisError(f"{path} is missing: run predict, so that a threshold can be chosen")
    try:
        frame = read_table(path, _TEXT)
        chosen = frame[frame["part"] == "validation"]
        table = as_table(chosen, run.tested.outcome.spec)
    except (ValueError, KeyError, OSError, AnalysisError) as error:
        raise AnalysisError(f"{path} is damaged ({error}): run predict again") from error
    return youden_threshold(table.targets, table.scores[:, 1])


def thresholds_of(arm: Arm) -> NDArray[np.float64]:
    """The threshold of the training behind each row of ``arm.predictions()`` (S,).

    Raises:
        AnalysisError: A training has none; the message says why.
    """
    each = [(validation_threshold(run), len(run.table)) for run in arm.runs]
    return np.repeat([value for value, _ in each], [n for _, n in each])
