import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.data.splits import split_by_seed
from histotransfer_pl.data.strata import event_strata, quantile_strata
from histotransfer_pl.errors import SplitError


def slides(n_patients: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    value = rng.normal(size=n_patients)[patient]
    return pd.DataFrame(
        {
            "slide_id": [f"s{n}" for n in range(len(patient))],
            "patient_id": [f"p{n}" for n in patient],
            "value": value,
            "event": (patient % 5 == 0).astype(int),
        }
    )


def test_every_fold_has_its_share_of_events() -> None:
    frame = slides()
    frame["label"] = event_strata(frame["event"])
    whole = frame["event"].mean()
    for fold in range(4):
        test = frame[frame["slide_id"].isin(split_by_seed(frame, fold, 4, 0).test)]
        assert abs(test["event"].mean() - whole) < 0.1


def test_every_fold_has_values_from_low_to_high() -> None:
    frame = slides()
    frame["label"] = quantile_strata(frame["value"], frame["patient_id"], 4)
    assert sorted(frame["label"].unique()) == ["q1", "q2", "q3", "q4", "q5"]
    plain = frame.assign(label="all")

    def spread(table: pd.DataFrame) -> float:
        """How far the mean values of four folds lie apart, over five shuffles."""
        tests = [split_by_seed(table, f, 4, seed).test for seed in range(5) for f in range(4)]
        means = [frame.loc[frame["slide_id"].isin(test), "value"].mean() for test in tests]
        return float(np.reshape(means, (5, 4)).std(1).mean())

    assert spread(frame) < 0.6 * spread(plain)


def test_quantiles_are_as_many_as_patients_allow() -> None:
    frame = slides(12)
    found = quantile_strata(frame["value"], frame["patient_id"], 4)
    assert frame["patient_id"].groupby(found).nunique().min() >= 4
    assert found.nunique() < 5
    mostly_zero = pd.Series([0.0] * 30 + [1.0, 2.0])
    assert quantile_strata(mostly_zero, pd.Series(range(32)), 5).unique().tolist() == ["q1"]


@pytest.mark.parametrize(
    ("events", "message"),
    [([0, 2], "event is 2: expected 1"), (["yes", "no"], "event is 'yes'"), ([0, 0], "none of 2")],
)
def test_events_that_are_none(events: list[object], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        event_strata(pd.Series(events))


def test_values_that_are_none() -> None:
    with pytest.raises(SplitError, match="target 'high' is no number"):
        quantile_strata(pd.Series(["1", "high"]), pd.Series(["a", "b"]), 3)
    with pytest.raises(SplitError, match="all 2 targets are 3: nothing to learn"):
        quantile_strata(pd.Series([3, 3]), pd.Series(["a", "b"]), 3)
