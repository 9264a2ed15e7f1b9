"""Slide predictions as the statistics take them: checked, aligned, with their patients."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import AnalysisError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says about S slides it was not trained on.

    Args:
        slide_ids: (S,) names, each once.
        patients: (S,) patient of each slide; patients are what was sampled, slides are not.
        labels: (S,) true class, 0 to C - 1.
        scores: (S,) score or probability of class 1, or (S, C) probabilities.
        folds: (S,) test fold of each slide when several models were trained. Scores of different
            models have no common scale, so ranking metrics then compare within folds only.

    Raises:
        AnalysisError: Arrays that do not fit one another, a slide twice, scores that are not
            finite, or labels outside the columns of the scores.
    """

    slide_ids: Sequence[str] | Names
    patients: Sequence[str] | Names
    labels: Sequence[int] | Ints
    scores: Sequence[float] | Floats
    folds: Sequence[int] | Ints | None = None
    y: Ints = field(init=False, repr=False)
    s: Floats = field(init=False, repr=False)
    patient_index: Ints = field(init=False, repr=False)
    fold_index: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ids, patients = np.asarray(self.slide_ids, str), np.asarray(self.patients, str)
        y, s = np.asarray(self.labels), np.asarray(self.scores, np.float64)
        folds = np.zeros(len(ids)) if self.folds is None else np.asarray(self.folds)
        _check_shapes(ids, patients, y, s, folds)
        values = {
            "slide_ids": ids,
            "patients": patients,
            "y": y.astype(np.int64),
            "s": s,
            "patient_index": np.unique(patients, return_inverse=True)[1].astype(np.int64),
            "fold_index": np.unique(folds, return_inverse=True)[1].astype(np.int64),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_slides(self) -> int:
        """Number of slides S."""
        return len(self.y)

    @property
    def n_patients(self) -> int:
        """Number of distinct patients."""
        return int(self.patient_index.max()) + 1

    @property
    def n_classes(self) -> int:
        """Number of classes C of the scores."""
        return 2 if self.s.ndim == 1 else self.s.shape[1]

    @property
    def patient_groups(self) -> Ints:
        """A number for the set of classes that each patient carries, (patients,)."""
        carries = np.zeros((self.n_patients, self.n_classes), dtype=bool)
        carries[self.patient_index, self.y] = True
        return np.unique(carries, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def fewest_patients(self) -> int:
        """Patients of the rarest class that is present."""
        return min(
            len(np.unique(self.patient_index[self.y == label])) for label in np.unique(self.y)
        )

    def rows(self, order: Ints) -> "Predictions":
        """The same predictions with other rows, or the same rows in another order."""
        return Predictions(
            np.asarray(self.slide_ids)[order],
            np.asarray(self.patients)[order],
            self.y[order],
            self.s[order],
            None if self.folds is None else np.asarray(self.folds)[order],
        )


def check_enough(predictions: Predictions, min_patients: int = 3) -> None:
    """Refuse predictions on which no interval can be honest.

    Args:
        predictions: What to check.
        min_patients: Fewest patients that must carry each class.

    Raises:
        AnalysisError: One class only, a class with too few patients, or constant scores.
    """
    present = np.unique(predictions.y)
    if len(present) < 2:
        raise AnalysisError(
            f"all {predictions.n_slides} slides are of class {present[0]}: "
            "a comparison of classes needs at least two"
        )
    for label in present:
        carriers = len(np.unique(predictions.patient_index[predictions.y == label]))
        if carriers < min_patients:
            raise AnalysisError(
                f"class {label} has {carriers} patient(s), an interval needs at least "
                f"{min_patients} of each class: pool the folds or use a larger cohort"
            )
    if np.ptp(predictions.s, axis=0).max() == 0:
        raise AnalysisError(
            f"the predictions are constant over all {predictions.n_slides} slides: "
            "the model tells nothing apart; look at its training before comparing it"
        )


def align(first: Predictions, second: Predictions) -> Predictions:
    """The second's predictions in the first's order of slides.

    Raises:
        AnalysisError: The two differ in slides, labels, patients or folds; the message names how.
    """
    ids, other_ids = np.asarray(first.slide_ids), np.asarray(second.slide_ids)
    missing, extra = np.setdiff1d(ids, other_ids), np.setdiff1d(other_ids, ids)
    if len(missing) or len(extra):
        raise AnalysisError(
            f"different slides: {_some(missing)} only in the first, {_some(extra)} only in the "
            "second; evaluate both on the same test slides"
        )
    order = np.argsort(other_ids)[np.searchsorted(np.sort(other_ids), ids)]
    aligned = second.rows(order)
    _refuse_difference("label", ids, first.y, aligned.y)
    _refuse_difference("patient", ids, np.asarray(first.patients), np.asarray(aligned.patients))
    _refuse_difference("fold", ids, first.fold_index, aligned.fold_index)
    if first.n_classes != aligned.n_classes:
        raise AnalysisError(
            f"{first.n_classes} classes in the first, {aligned.n_classes} in the second: "
            "compare runs of the same target"
        )
    return aligned


def _check_shapes(
    ids: Names,
    patients: Names,
    y: NDArray[np.generic],
    s: Floats,
    folds: NDArray[np.generic],
) -> None:
    lengths = {len(ids), len(patients), len(y), len(s), len(folds)}
    if len(lengths) != 1 or not len(ids) or s.ndim > 2:
        raise AnalysisError(
            f"{len(ids)} slides, {len(patients)} patients, {len(y)} labels, scores "
            f"{s.shape}, {len(folds)} folds: give one of each per slide"
        )
    names, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        twice = str(names[counts.argmax()])
        raise AnalysisError(f"slide {twice!r} comes {counts.max()} times: give each once")
    if not np.isfinite(s).all():
        bad = ids[~np.isfinite(s.reshape(len(s), -1)).all(1)]
        raise AnalysisError(f"scores of {_some(bad)} are not finite: the model diverged")
    n_classes = 2 if s.ndim == 1 else s.shape[1]
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= n_classes:
        raise AnalysisError(
            f"labels {np.unique(y).tolist()[:5]} for {n_classes} classes: "
            f"give integers from 0 to {n_classes - 1}"
        )


def _refuse_difference(
    what: str, ids: Names, first: NDArray[np.generic], second: NDArray[np.generic]
) -> None:
    differs = np.flatnonzero(first != second)
    if len(differs):
        place = differs[0]
        raise AnalysisError(
            f"{len(differs)} slide(s) differ in their {what}: {str(ids[place])!r} has "
            f"{first[place]} in the first, {second[place]} in the second; "
            "compare runs of the same cohort, target and folds"
        )


def _some(names: NDArray[np.str_]) -> str:
    if not len(names):
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3].tolist())) + more
