"""Slide predictions as the statistics take them: checked, aligned, with their patients."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.targets import Floats, Ints, Names, Task, check_targets, kinds, some
from histotransfer_pl.errors import AnalysisError

__all__ = ["Floats", "Ints", "Names", "Predictions", "Task", "align", "check_enough"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says about S slides it was not trained on.

    Args:
        slide_ids: (S,) names, each once.
        patients: (S,) patient of each slide; patients are what was sampled, slides are not.
        labels: (S,) true class, 0 to C - 1; of other tasks the targets that
            `histotransfer_pl.analysis.targets` describes.
        scores: (S,) score or probability of class 1, or (S, C) probabilities.
        folds: (S,) test fold of each slide when several models were trained. Scores of different
            models have no common scale, so ranking metrics then compare within folds only.
        task: What kind of target this is.

    Raises:
        AnalysisError: Arrays that do not fit one another, a slide twice, scores that are not
            finite, or labels outside the columns of the scores.
    """

    slide_ids: Sequence[str] | Names
    patients: Sequence[str] | Names
    labels: Sequence[Any] | NDArray[Any]
    scores: Sequence[float] | Floats
    folds: Sequence[int] | Ints | None = None
    task: Task = "classification"
    y: NDArray[Any] = field(init=False, repr=False)
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
            "y": check_targets(self.task, ids, y, s),
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
        """A number for the kinds of slides that each patient carries, (patients,)."""
        if self.task == "multilabel":  # too many kinds for a group each
            return np.zeros(self.n_patients, np.int64)
        carries = np.stack([self._carriers(rows) for rows in kinds(self.task, self.y).values()], 1)
        return np.unique(carries, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def patients_of_kinds(self) -> dict[str, int]:
        """How many patients carry each kind of slide: each class, or an event."""
        found = kinds(self.task, self.y)
        return {name: int(self._carriers(rows).sum()) for name, rows in found.items()}

    def _carriers(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        carries = np.zeros(self.n_patients, dtype=bool)
        carries[self.patient_index[rows]] = True
        return carries

    def rows(self, order: Ints) -> "Predictions":
        """The same predictions with other rows, or the same rows in another order."""
        return replace(
            self,
            slide_ids=np.asarray(self.slide_ids)[order],
            patients=np.asarray(self.patients)[order],
            labels=self.y[order],
            scores=self.s[order],
            folds=None if self.folds is None else np.asarray(self.folds)[order],
        )


def check_enough(predictions: Predictions, min_patients: int = 3) -> None:
    """Refuse predictions on which no interval can be honest.

    Args:
        predictions: What to check.
        min_patients: Fewest patients that must carry each class, or an event.
    """
    n = predictions.n_slides
    carriers = predictions.patients_of_kinds()
    if predictions.task in ("classification", "ordinal") and len(carriers) < 2:
        raise AnalysisError(
            f"all {n} slides are of {next(iter(carriers))}: "
            "a comparison of classes needs at least two"
        )
    if not carriers:
        raise AnalysisError(f"no label has slides of both values among {n} slides")
    for name, count in carriers.items():
        if count < min_patients:
            raise AnalysisError(
                f"{name} has {count} patient(s), an interval needs at least "
                f"{min_patients} of each: pool the folds or use a larger cohort"
            )
    if np.ptp(predictions.s, axis=0).max() == 0:
        raise AnalysisError(
            f"the predictions are constant over all {n} slides: "
            "the model tells nothing apart; look at its training before comparing it"
        )


def align(first: Predictions, second: Predictions) -> Predictions:
    """The second's predictions in the first's order of slides.

    Raises:
        AnalysisError: The two differ in slides, labels, patients or folds; the message names how.
    """
    ids, aligned = np.asarray(first.slide_ids), _in_order(first, second)
    _refuse_difference("label", ids, first.y, aligned.y)
    _refuse_difference("patient", ids, np.asarray(first.patients), np.asarray(aligned.patients))
    _refuse_difference("fold", ids, first.fold_index, aligned.fold_index)
    if first.task != aligned.task or first.n_classes != aligned.n_classes:
        raise AnalysisError(
            f"{first.n_classes} classes in the first, {aligned.n_classes} in the second: "
            "compare runs of the same target"
        )
    return aligned


def _in_order(first: Predictions, second: Predictions) -> Predictions:
    ids, other_ids = np.asarray(first.slide_ids), np.asarray(second.slide_ids)
    if np.array_equal(ids, other_ids):
        return second
    missing, extra = np.setdiff1d(ids, other_ids), np.setdiff1d(other_ids, ids)
    if len(missing) or len(extra):
        raise AnalysisError(
            f"different slides: {some(missing)} only in the first, {some(extra)} only in the "
            "second; evaluate both on the same test slides"
        )
    return second.rows(np.argsort(other_ids)[np.searchsorted(np.sort(other_ids), ids)])


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
        raise AnalysisError(f"scores of {some(bad)} are not finite: the model diverged")


def _refuse_difference(
    what: str, ids: Names, first: NDArray[np.generic], second: NDArray[np.generic]
) -> None:
    same = (first == second) | ((first != first) & (second != second))  # noqa: PLR0124 - NaN
    differs = np.flatnonzero(~same.reshape(len(same), -1).all(1))
    if len(differs):
        place = differs[0]
        raise AnalysisError(
            f"{len(differs)} slide(s) differ in their {what}: {str(ids[place])!r} has "
            f"{first[place]} in the first, {second[place]} in the second; "
            "compare runs of the same cohort, target and folds"
        )
