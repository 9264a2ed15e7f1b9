"""What a run predicted of its validation slides, and what they say of its probabilities."""

from pathlib import Path

from histotransfer_pl.analysis.recalibration import calibrate
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.calibration import Calibration
from histotransfer_pl.records.run import RunRecord, TargetSpec
from histotransfer_pl.records.tables import read_table
from histotransfer_pl.runs.predictions import PredictionTable, as_table
from histotransfer_pl.runs.record import ALL_PREDICTIONS

_TEXT = ("slide_id", "patient_id", "part", "label", "predicted")


def validation_table(folder: Path, target: TargetSpec) -> PredictionTable:
    """What a run predicted of its validation slides.

    Raises:
        AnalysisError: ``predict`` did not write it, or it is damaged.
    """
    path = folder / ALL_PREDICTIONS
    if not path.is_file():
        raise AnalysisError(f"{path} is missing: run predict in this folder")
    try:
        frame = read_table(path, _TEXT)
        return as_table(frame[frame["part"] == "validation"], target)
    except (ValueError, KeyError, OSError, AnalysisError) as error:
        raise AnalysisError(f"{path} is damaged ({error}): run predict again") from error


def calibration_of(folder: Path, record: RunRecord) -> Calibration:
    """What a model of classes keeps of the validation slides of its run; never of test slides.

    Raises:
        AnalysisError: No such predictions, those of one class, or of patients who are none of this
            training's validation part.
    """
    table = validation_table(folder, record.target)
    patients = table.frame["patient_id"].to_numpy(str)
    if record.validation_patients and not set(patients) <= set(record.validation_patients):
        raise AnalysisError(
            f"{folder / ALL_PREDICTIONS} has validation patients of another split: run predict "
            "again"
        )
    return calibrate(table.scores, table.targets, patients)
