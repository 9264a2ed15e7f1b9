"""What folds are balanced by, and tables whose targets are none."""

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.data.splits import split_by_seed
from histotransfer_pl.errors import CohortError, SplitError
from histotransfer_pl.outcomes.kinds import TargetColumns, kind_of
from histotransfer_pl.outcomes.labels import Labels
from histotransfer_pl.outcomes.value import Value
from histotransfer_pl.records.run import TaskKind


def slides(n_patients: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    value = rng.normal(size=n_patients)[patient]
    return pd.DataFrame(
        {
            "slide_id": [f"s{n}" for n in range(len(patient))],
            "patient_id": [f"p{n}" for n in patient],
            "value": value,
            "time": 1.0,
            "event": (patient % 5 == 0).astype(float),
            "label": np.where(patient % 5 == 0, "event", "no event"),
        }
    )


def test_every_fold_has_its_share_of_events() -> None:
    frame = slides()
    whole, kind = frame["event"].mean(), kind_of("survival")
    for fold in range(4):
        split = split_by_seed(frame, fold, 4, 0, kind)
        test = frame[frame["slide_id"].isin(split.test)]
        assert abs(test["event"].mean() - whole) < 0.1


def test_every_fold_has_values_from_low_to_high() -> None:
    frame = slides()
    assert sorted(Value.strata(frame, 4).unique()) == ["q1", "q2", "q3", "q4", "q5"]

    def spread(kind: type[Value]) -> float:
        """How far the mean values of four folds lie apart, over five shuffles."""
        plain = frame.assign(label="known")
        tests = [split_by_seed(plain, f, 4, seed, kind).test for seed in range(5) for f in range(4)]
        means = [frame.loc[frame["slide_id"].isin(test), "value"].mean() for test in tests]
        return float(np.reshape(means, (5, 4)).std(1).mean())

    class Unbalanced(Value):
        strata = classmethod(lambda cls, rows, n_folds: rows["label"])

    assert spread(Value) < 0.6 * spread(Unbalanced)


def test_quantiles_are_as_many_as_patients_allow() -> None:
    frame = slides(12)
    found = Value.strata(frame, 4)
    assert frame["patient_id"].groupby(found).nunique().min() >= 4
    assert found.nunique() < 5
    zeros = pd.DataFrame({"value": [0.0] * 30 + [1.0, 2.0], "patient_id": range(32)})
    assert Value.strata(zeros, 5).unique().tolist() == ["q1"]


def test_rare_sets_of_labels_are_taken_as_one() -> None:
    sets = ["none"] * 6 + ["er"] * 5 + ["er pr"] * 2 + ["pr"] * 3
    frame = pd.DataFrame({"label": sets, "patient_id": range(16)})
    assert Labels.strata(frame, 5).value_counts().to_dict() == {
        "none": 6,
        "er": 5,
        "other sets": 5,
    }
    assert set(Labels.strata(frame.iloc[:13], 5)) == {"none", "er"}


def read(task: TaskKind, columns: dict[str, list[object]]) -> pd.DataFrame:
    size = len(next(iter(columns.values())))
    ids = [f"s{n}" for n in range(size)]
    table = pd.DataFrame({"slide_id": ids, "patient_id": ids, **columns})
    asked = TargetColumns(tuple(columns), task)
    found = asked.read(table)
    asked.describe(found[found["label"] != ""])
    return found


BAD: list[tuple[TaskKind, dict[str, list[object]], str]] = [
    ("survival", {"t": [3, -1], "e": [1, 0]}, r"column t holds '-1' \(slide 's1'\): times count"),
    ("survival", {"t": [3, 0], "e": [1, 0]}, "column t holds '0' .* are above 0"),
    ("survival", {"t": [3, 1], "e": [1, 2]}, r"column e holds '2' \(slide 's1'\): expected 1"),
    (
        "survival",
        {"t": [3, 1], "e": ["dead", "alive"]},
        "column e holds 'dead' .*1 where",
    ),
    ("survival", {"t": ["soon", 1], "e": [1, 0]}, "column t holds 'soon' .* a time is a number"),
    ("survival", {"t": [3, 1], "e": [0, 0]}, "none of 2 slides has an event in column e"),
    ("survival", {"t": [3, 1]}, r"survival needs the columns of time and of event"),
    ("regression", {"v": [1, "high"]}, r"column v holds 'high' \(slide 's1'\): a regression needs"),
    ("regression", {"v": [3, 3]}, "all 2 values of column v are 3: there is nothing to learn"),
    ("regression", {"v": [3, 4], "w": [3, 4]}, "regression needs one column of numbers"),
    ("multilabel", {"er": [1, 0], "pr": ["", ""]}, "column pr is empty for the 2 usable slides"),
    ("multilabel", {"er": [1, 0], "pr": [1, 1]}, "column pr is 1 only for the 2 usable slides"),
    ("multilabel", {"er": [1, 0], "pr": [1, "weak"]}, "column pr holds 'weak' .* 1, 0 or empty"),
    ("multilabel", {"er": [1, 0]}, "multilabel needs two or more columns"),
    ("ordinal", {"g": ["low", "mid"]}, "the order of low, mid is not known: give data.classes"),
    ("ordinal", {"g": [1, 2]}, "an order needs at least three"),
]


@pytest.mark.parametrize(("task", "columns", "message"), BAD)
def test_a_target_that_is_none_is_one_line(
    task: TaskKind, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises((CohortError, SplitError, ValueError), match=message) as caught:
        read(task, columns)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_unknown_and_no_error() -> None:
    found = read("survival", {"t": [3, 1, np.nan, 2], "e": [1, 0, 1, np.nan]})
    assert found["label"].tolist() == ["event", "no event", "", ""]
    found = read("multilabel", {"er": [1, 0, "", 1], "pr": [1, 0, "", ""]})
    assert found["label"].tolist() == ["er pr", "none", "", "er"]
    found = read("regression", {"v": [1.5, 2, np.nan]})
    assert found["label"].tolist() == ["known", "known", ""]
