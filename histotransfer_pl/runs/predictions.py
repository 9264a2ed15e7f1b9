"""Tables of predictions: read once, here, for every reader of runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.analysis.predictions import Floats, Predictions
from histotransfer_pl.errors import AnalysisError, CohortError
from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.run import TargetSpec
from histotransfer_pl.records.tables import read_table

_TEXT = ("slide_id", "patient_id", "part", "site", "label", "predicted")
_SCORE = "p_"


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """What a model says about slides whose target is known.

    Attributes:
        frame: (S rows) slide_id, patient_id, the true target and the scores, each in the columns
            that the outcome names.
        outcome: What is predicted; of two classes the positive one comes last, so that every
            metric of one class is about it.
    """

    frame: pd.DataFrame
    outcome: Outcome

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, or the labels."""
        return self.outcome.spec.classes

    @property
    def scores(self) -> Floats:
        """Scores (S,) or (S, K) as the metrics take them."""
        return self.outcome.from_columns(self.frame[self.outcome.columns].to_numpy(float))

    @property
    def targets(self) -> NDArray[Any]:
        """(S,) or (S, K) true targets as the metrics take them."""
        return self.outcome.encode(self.frame)

    @property
    def positive(self) -> str | None:
        """Of two classes the one that metrics of one class are about."""
        return self.outcome.spec.positive

    def predictions(self) -> Predictions:
        """As the statistics take them, one training."""
        ids, patients = (self.frame[name].to_numpy(str) for name in ("slide_id", "patient_id"))
        return Predictions(ids, patients, self.targets, self.scores, task=self.outcome.task)

    def of_patients(self) -> "PredictionTable":
        """One row per patient: mean scores; what the outcome makes of the targets of its slides."""
        known = self.frame if "label" in self.frame else self.frame.assign(label="known")
        ids = known["patient_id"].to_numpy(str)  # (S,)
        order = np.argsort(ids, kind="stable")
        known = known.iloc[order]
        patients, starts = np.unique(ids[order], return_index=True)  # (P,)
        ends = [*starts[1:], len(known)]
        scores = known[self.outcome.columns].to_numpy(float)  # (S, K)
        rows = []
        for patient, start, end in zip(patients.tolist(), starts, ends, strict=True):
            try:
                target = self.outcome.of_patient(known.iloc[start:end])
            except CohortError as error:
                raise AnalysisError(str(error)) from error
            means = self.outcome.cells(scores[start:end].mean(0))
            rows.append({"slide_id": patient, "patient_id": patient, **target, **means})
        return replace(self, frame=pd.DataFrame(rows))


def as_table(frame: pd.DataFrame, target: TargetSpec | None = None) -> PredictionTable:
    """Check a table of predictions.

    Args:
        frame: Columns ``patient_id``, the true target and the scores; without ``slide_id`` a row
            is a patient.
        target: What is predicted; None for the classes of the columns ``p_<class>``.

    Raises:
        AnalysisError: A column is missing, or a label or a number is not possible.
    """
    outcome = outcome_of(target or class_target(classes_in(frame)))
    if not outcome.columns:  # runs of the first release noted no classes
        outcome = outcome_of(class_target(classes_in(frame), outcome.spec.positive))
    truth = outcome.truth(outcome.spec.classes)
    if not {"patient_id", *truth, *outcome.columns} <= set(frame):
        raise AnalysisError(f"it has the columns {', '.join(frame.columns)}: run test again")
    if "slide_id" not in frame:
        # A bag of all slides of a patient is evaluated as one.
        frame = frame.assign(slide_id=frame["patient_id"])
    wrong = outcome.unlike(frame, outcome.spec)
    if wrong:
        raise AnalysisError(wrong)
    numbers = frame[outcome.columns].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy()).all():
        raise AnalysisError("scores that are not finite; the training diverged")
    return PredictionTable(frame.assign(**{str(c): numbers[c] for c in numbers}), outcome)


def read_predictions(path: Path, target: TargetSpec | None = None) -> PredictionTable:
    """The table that ``test`` wrote."""
    if not path.is_file():
        raise AnalysisError(f"{path} is missing: run test in this folder")
    try:
        frame = read_table(path, _TEXT)
    except (ValueError, OSError) as error:
        # pandas' own errors are ValueErrors
        raise AnalysisError(f"{path} is damaged ({error}): run test again") from error
    try:
        return as_table(frame, target)
    except AnalysisError as error:
        raise AnalysisError(f"{path}: {error}") from error


def class_target(classes: tuple[str, ...], positive: str | None = None) -> TargetSpec:
    """The target of some classes, of two the positive one last."""
    if positive is not None and len(classes) == 2:
        classes = (*(name for name in classes if name != positive), positive)
    return TargetSpec("label", classes, classes[-1] if len(classes) == 2 else None)


def classes_in(frame: pd.DataFrame) -> tuple[str, ...]:
    """The classes of a table that nobody described."""
    found = tuple(c.removeprefix(_SCORE) for c in frame.columns if c.startswith(_SCORE))
    if len(found) < 2 or "label" not in frame:
        raise AnalysisError(f"it has the columns {', '.join(frame.columns)}: run test again")
    return found
