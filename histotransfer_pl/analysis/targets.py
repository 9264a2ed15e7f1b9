"""What the targets of each task look like, and which kinds of slides an interval needs.

| Task | Targets | Scores |
|---|---|---|
| classification | (S,) class, 0 to C - 1 | (S,) score of class 1, or (S, C) probabilities |
| ordinal | (S,) class in its order | (S, C) probabilities |
| multilabel | (S, L) zero, one, or NaN where missing | (S, L) |
| regression | (S,) value | (S,) value |
| survival | (S, 2) time, and 1 where the event was seen | (S,) risk, or (S, T) survival |
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import AnalysisError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.str_]
Task = Literal["classification", "ordinal", "multilabel", "regression", "survival"]


def check_targets(task: Task, ids: Names, y: NDArray[Any], scores: Floats) -> NDArray[Any]:
    """The targets as the metrics take them: integers for classes, else floats.

    Raises:
        AnalysisError: Targets that are none of this task, or do not fit the scores.
    """
    if task in ("classification", "ordinal"):
        return _classes(y, scores)
    if not np.issubdtype(y.dtype, np.number):
        raise AnalysisError(f"targets such as {y.tolist()[0]!r} for {task}: give numbers")
    y = y.astype(np.float64)
    if task == "multilabel":
        return _labels(y, scores)
    if not np.isfinite(y).all():
        bad = ids[~np.isfinite(y.reshape(len(y), -1)).all(1)]
        raise AnalysisError(f"targets of {some(bad)} are not finite: leave these slides out")
    if task == "survival":
        return _survival(ids, y)
    if y.shape != scores.shape or y.ndim != 1:
        raise AnalysisError(f"targets {y.shape} and scores {scores.shape}: give one per slide")
    return y


def kinds(task: Task, y: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Slides (S,) of each kind that enough patients must carry."""
    if task in ("classification", "ordinal"):
        return {f"class {label}": y == label for label in np.unique(y)}
    if task == "survival":
        return {"the event": y[:, 1] == 1}
    if task == "regression":
        return {"the target": np.ones(len(y), dtype=bool)}
    return {
        f"value {value} of label {label}": y[:, label] == value
        for label in usable_labels(y)
        for value in (0, 1)
    }


def usable_labels(y: Floats) -> list[int]:
    """Labels of (S, L) that have slides of both values."""
    return [label for label in range(y.shape[1]) if {0, 1} <= set(y[:, label].tolist())]


def some(names: Names) -> str:
    """The first three names and how many more there are."""
    if not len(names):
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3].tolist())) + more


def _classes(y: NDArray[Any], scores: Floats) -> Ints:
    n_classes = 2 if scores.ndim == 1 else scores.shape[1]
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= n_classes:
        raise AnalysisError(
            f"labels {np.unique(y).tolist()[:5]} for {n_classes} classes: "
            f"give integers from 0 to {n_classes - 1}"
        )
    return y.astype(np.int64)


def _labels(y: Floats, scores: Floats) -> Floats:
    values = np.unique(y[np.isfinite(y)])
    if y.shape != scores.shape or y.ndim != 2 or not np.isin(values, (0, 1)).all():
        raise AnalysisError(
            f"labels {y.shape} of values {values.tolist()[:5]} for scores {scores.shape}: give "
            "0, 1 or NaN per slide and label"
        )
    return y


def _survival(ids: Names, y: Floats) -> Floats:
    if y.ndim != 2 or y.shape[1] != 2 or not np.isin(y[:, 1], (0, 1)).all():
        raise AnalysisError(
            f"survival targets {y.shape}: give per slide the time, and 1 for an event, else 0"
        )
    early = y[:, 0] <= 0
    if early.any():
        raise AnalysisError(
            f"time of {some(ids[early])} is {y[early, 0].max():g} or less: times count from the "
            "start of observation and are above 0"
        )
    return y
