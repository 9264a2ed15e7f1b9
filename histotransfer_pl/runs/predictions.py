"""Tables of predictions: read once, here, for every reader of runs."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.tables import read_table

_TEXT = ("slide_id", "patient_id", "part", "label", "predicted")
_SCORE = "p_"


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """What a model says about slides whose class is known.

    Attributes:
        frame: (S rows) slide_id, patient_id, label, predicted, p_<class>...
        classes: The classes, of two of them the positive one last, so that every metric of one
            class is about it.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]

    @property
    def scores(self) -> Floats:
        """Probabilities (S, C) in the order of the classes."""
        return self.frame[[_SCORE + name for name in self.classes]].to_numpy(float)

    @property
    def labels(self) -> Ints:
        """(S,) places of the labels among the classes."""
        codes = pd.Categorical(self.frame["label"], categories=list(self.classes)).codes
        return np.asarray(codes, np.int64)

    @property
    def positive(self) -> str | None:
        """Of two classes the one that metrics of one class are about."""
        return self.classes[-1] if len(self.classes) == 2 else None

    def predictions(self) -> Predictions:
        """As the statistics take them, one training."""
        ids, patients = (self.frame[name].to_numpy(str) for name in ("slide_id", "patient_id"))
        return Predictions(ids, patients, self.labels, self.scores)

    def of_patients(self) -> "PredictionTable":
        """One row per patient: mean probabilities; positive if any of the slides is.

        Raises:
            AnalysisError: A patient with slides of several of three or more classes.
        """
        grouped = self.frame.groupby("patient_id", sort=True)
        labels = grouped["label"].agg(lambda own: self._label_of(list(dict.fromkeys(own))))
        scores = grouped[[_SCORE + name for name in self.classes]].mean()
        frame = pd.concat([labels, scores], axis=1).reset_index()
        best = scores.to_numpy().argmax(1)  # (patients,)
        decided = np.array(self.classes)[best]
        return replace(self, frame=frame.assign(slide_id=frame["patient_id"], predicted=decided))

    def _label_of(self, labels: list[str]) -> str:
        if len(labels) > 1 and self.positive is None:
            raise AnalysisError(
                f"a patient has slides of the classes {', '.join(labels)}: only of two classes one "
                "is that of the patient"
            )
        return labels[0] if len(labels) == 1 else str(self.positive)


def as_table(
    frame: pd.DataFrame, classes: tuple[str, ...] = (), positive: str | None = None
) -> PredictionTable:
    """Check a table of predictions.

    Args:
        frame: Columns ``patient_id``, ``label`` and ``p_<class>``...; without ``slide_id`` a row is
            a patient.
        classes: The classes; those of the columns when empty.
        positive: Of two classes the positive one; the last when None.

    Raises:
        AnalysisError: A column is missing, or a label or a number is not possible.
    """
    found = tuple(c.removeprefix(_SCORE) for c in frame.columns if c.startswith(_SCORE))
    classes = classes or found
    if not {"patient_id", "label"} <= set(frame) or len(found) < 2 or set(found) != set(classes):
        raise AnalysisError(f"it has the columns {', '.join(frame.columns)}: run test again")
    if positive is not None and len(classes) == 2:
        classes = (*(name for name in classes if name != positive), positive)
    if "slide_id" not in frame:
        # A bag of all slides of a patient is evaluated as one.
        frame = frame.assign(slide_id=frame["patient_id"])
    unknown = sorted(set(frame["label"]) - set(classes))
    if unknown:
        raise AnalysisError(f"labels {unknown} are none of the classes {list(classes)}")
    numbers = frame[[_SCORE + c for c in classes]].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy()).all():
        raise AnalysisError("probabilities that are not finite; the training diverged")
    return PredictionTable(frame.assign(**numbers), classes)


def read_predictions(path: Path, positive: str | None = None) -> PredictionTable:
    """The table that ``test`` wrote.

    Raises:
        AnalysisError: There is none, or it is none of predictions; it names the file.
    """
    if not path.is_file():
        raise AnalysisError(f"{path} is missing: run test in this folder")
    try:
        frame = read_table(path, _TEXT)
    except (ValueError, OSError) as error:
        # pandas' own errors are ValueErrors
        raise AnalysisError(f"{path} is damaged ({error}): run test again") from error
    try:
        return as_table(frame, positive=positive)
    except AnalysisError as error:
        raise AnalysisError(f"{path}: {error}") from error
