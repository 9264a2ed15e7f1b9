from typing import Any

import numpy as np
import pytest

from histotransfer_pl.analysis.predictions import Predictions, align, check_enough
from histotransfer_pl.errors import AnalysisError


def predictions(**changes: Any) -> Predictions:
    values: dict[str, Any] = {
        "slide_ids": ["a", "b", "c", "d", "e", "f"],
        "patients": ["p", "p", "q", "r", "s", "t"],
        "labels": [0, 0, 0, 1, 1, 1],
        "scores": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    }
    return Predictions(**(values | changes))


def test_counts() -> None:
    made = predictions(scores=np.eye(3)[[0, 1, 2, 0, 1, 2]])
    assert (made.n_slides, made.n_patients, made.n_classes) == (6, 5, 3)
    assert predictions().n_classes == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1]}, "6 slides, 6 patients, 2 labels"),
        ({"slide_ids": ["a", "b", "c", "d", "e", "b"]}, "slide 'b' comes 2 times"),
        ({"scores": [0.1, np.nan, 0, 0, 0, 0]}, "scores of 'b' are not finite"),
        ({"labels": [0, 0, 0, 1, 1, 2]}, r"labels \[0, 1, 2\] for 2 classes"),
        ({"labels": [0.0, 0.5, 0, 1, 1, 1]}, "integers from 0 to 1"),
        ({"folds": [0, 1]}, "2 folds"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        predictions(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1] * 6}, "all 6 slides are of class 1"),
        ({"patients": ["p", "p", "q", "r", "s", "t"]}, r"class 0 has 2 patient\(s\)"),
        ({"patients": list("opqrst"), "scores": [0.5] * 6}, "constant over all 6 slides"),
        (
            {"patients": list("opqrst"), "scores": [[0.4, 0.6]] * 6},
            "constant over all 6 slides",
        ),
    ],
)
def test_too_little_for_an_interval_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        check_enough(predictions(**changes))


def test_align_takes_any_order_of_slides() -> None:
    first = predictions()
    order = np.array([3, 1, 5, 0, 4, 2])
    aligned = align(first, predictions(scores=np.arange(6.0)).rows(order))
    assert list(aligned.slide_ids) == list(first.slide_ids)
    assert aligned.s.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"slide_ids": ["a", "b", "c", "d", "x", "y"]},
            "different slides: 'e', 'f' only in the first, 'x', 'y' only in the second",
        ),
        ({"labels": [0, 0, 1, 1, 1, 1]}, "1 slide.* label: 'c' has 0 in the first, 1 in the sec"),
        ({"patients": list("ppqrsp")}, "1 slide.* patient: 'f' has t in the first, p in the sec"),
        ({"folds": [0, 0, 0, 1, 1, 1]}, "differ in their fold: 'd' has 0 in the first, 1 in"),
        ({"scores": np.eye(3)[[0, 1, 2, 0, 1, 2]]}, "2 classes in the first, 3 in the second"),
    ],
)
def test_align_names_what_differs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        align(predictions(), predictions(**changes))


def test_align_lists_a_few_slides_only() -> None:
    many = predictions(slide_ids=[f"n{number}" for number in range(6)])
    with pytest.raises(AnalysisError, match="'n0', 'n1', 'n2' and 3 more only in the second"):
        align(predictions(), many)
