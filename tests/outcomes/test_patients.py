"""The outcome of a patient, from those of its slides."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.errors import CohortError
from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.records.run import TargetSpec, TaskKind

NONE = float("nan")


def of_patient(task: TaskKind, classes: tuple[str, ...], **columns: list[Any]) -> dict[str, Any]:
    rows = pd.DataFrame({"patient_id": "p", **columns})
    return outcome_of(TargetSpec("target", classes, task=task)).of_patient(rows)


def test_of_classes_with_an_order_the_highest_counts() -> None:
    two = of_patient("classification", ("neg", "pos"), label=["neg", "pos", ""])
    assert two == {"label": "pos"}
    assert of_patient("classification", ("neg", "pos"), label=["neg", ""]) == {"label": "neg"}
    grades = ("g1", "g2", "g3")
    assert of_patient("ordinal", grades, label=["g1", "g3", "g2"]) == {"label": "g3"}
    with pytest.raises(CohortError, match="patient 'p' has slides of the classes 'g1', 'g2'"):
        of_patient("classification", grades, label=["g1", "g2"])


def test_a_patient_has_the_labels_that_any_slide_has() -> None:
    slides: dict[str, list[Any]] = {
        "label_a": [0, 1, NONE],
        "label_b": [0, 0, NONE],
        "label_c": [NONE] * 3,
        "label": ["none", "a", ""],
    }
    found = of_patient("multilabel", ("a", "b", "c"), **slides)
    assert (found["label_a"], found["label_b"], found["label"]) == (1, 0, "a")
    assert np.isnan(found["label_c"])


def test_values_and_survival_of_a_patient_are_one() -> None:
    assert of_patient("regression", (), value=[2.0, 2.0], label=["2", "2"])["value"] == 2
    with pytest.raises(CohortError, match="'p'"):
        of_patient("regression", (), value=[2.0, 3.0], label=["2", "3"])
    survival: dict[str, list[Any]] = {"time": [5.0, 5.0], "event": [1.0, 0.0], "label": ["5", "5"]}
    with pytest.raises(CohortError, match="'p'"):
        of_patient("survival", (), **survival)
