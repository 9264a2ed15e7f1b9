import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotransfer_pl.data.splits import (
    Split,
    check_split,
    split_by_column,
    split_by_seed,
    split_by_site,
)
from histotransfer_pl.errors import SplitError


def cohort(patients: int = 30, seed: int = 0) -> pd.DataFrame:
    """Patients with one to three slides of their own class."""
    rng = np.random.default_rng(seed)
    rows = [
        {"slide_id": f"s{p}_{i}", "patient_id": f"p{p}", "label": str(p % 2)}
        for p in range(patients)
        for i in range(rng.integers(1, 4))
    ]
    return pd.DataFrame(rows)


@given(patients=st.integers(20, 60), n_folds=st.integers(3, 6), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_patient_is_tested_once_and_never_leaks(
    patients: int, n_folds: int, seed: int
) -> None:
    frame = cohort(patients, seed)
    owner = dict(zip(frame["slide_id"], frame["patient_id"], strict=True))
    tested: list[str] = []
    for fold in range(n_folds):
        split = split_by_seed(frame, fold, n_folds, seed)
        parts = [{owner[s] for s in part} for part in (split.train, split.validation, split.test)]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        assert len(split.train) + len(split.validation) + len(split.test) == len(frame)
        tested += split.test
    assert sorted(tested) == sorted(frame["slide_id"])


def test_folds_follow_the_seed_and_not_the_order_of_the_rows() -> None:
    frame = cohort()
    shuffled = frame.sample(frac=1, random_state=3)
    assert split_by_seed(frame, 1, 5, 0) == split_by_seed(shuffled, 1, 5, 0)
    assert split_by_seed(frame, 1, 5, 0) != split_by_seed(frame, 1, 5, 1)


def test_classes_are_balanced_over_folds() -> None:
    frame = cohort(60)
    share = (frame["label"] == "1").mean()
    for fold in range(5):
        test = frame[frame["slide_id"].isin(split_by_seed(frame, fold, 5, 0).test)]
        assert abs((test["label"] == "1").mean() - share) < 0.2


def test_a_class_with_one_patient_is_named() -> None:
    frame = cohort()
    frame.loc[frame["patient_id"] == "p0", "label"] = "rare"
    with pytest.raises(SplitError, match=r"class 'rare' has 1 patient"):
        split_by_seed(frame, 0, 5, 0)


@pytest.mark.parametrize(("fold", "n_folds", "message"), [(5, 5, "0 to 4"), (0, 2, "at least 3")])
def test_impossible_folds(fold: int, n_folds: int, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_by_seed(cohort(), fold, n_folds, 0)


def test_words_and_numbers_in_a_column() -> None:
    frame = cohort(12)
    number = frame["patient_id"].str[1:].astype(int)
    frame["fold"] = (number // 2) % 3
    split = split_by_column(frame, "fold", fold=2)
    assert split.test == frame.loc[frame["fold"] == 2, "slide_id"].tolist()
    assert split.validation == frame.loc[frame["fold"] == 0, "slide_id"].tolist()
    frame["part"] = frame["fold"].map({0: "Train", 1: "val", 2: "test"})
    words = split_by_column(frame, "part", fold=0)
    assert words.test == split.test
    assert words.validation == frame.loc[frame["fold"] == 1, "slide_id"].tolist()


def test_a_column_that_leaks_a_patient_is_refused() -> None:
    frame = cohort(12).assign(part="train")
    patients = frame["patient_id"].unique()
    frame.loc[frame["patient_id"].isin(patients[:4]), "part"] = "val"
    frame.loc[frame["patient_id"].isin(patients[4:8]), "part"] = "test"
    split_by_column(frame, "part", 0)
    several = frame[frame.duplicated("patient_id", keep=False)]
    frame.loc[several.index[0], "part"] = "test" if several["part"].iloc[0] != "test" else "train"
    with pytest.raises(SplitError, match="belong to one part"):
        split_by_column(frame, "part", 0)


def test_strange_columns() -> None:
    frame = cohort(12)
    with pytest.raises(SplitError, match="expected train"):
        split_by_column(frame.assign(part="left"), "part", 0)
    with pytest.raises(SplitError, match="is empty for"):
        split_by_column(frame.assign(part=None), "part", 0)
    with pytest.raises(SplitError, match="at least three"):
        split_by_column(frame.assign(part=1), "part", 1)


def test_a_part_without_a_class_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    frame = cohort(12)
    patients = [f"p{i}" for i in range(12)]
    zeros, ones = patients[::2], patients[1::2]

    def slides(owners: list[str]) -> list[str]:
        return frame.loc[frame["patient_id"].isin(owners), "slide_id"].tolist()

    split = Split(slides(zeros[:4] + ones), slides(zeros[4:]), [])
    with pytest.raises(SplitError, match="validation part .* has no slide of class '1'"):
        check_split(split, frame)
    # a block that is left out may hold one class: the folds together have an AUROC
    tested = Split(slides(zeros[:3] + ones[:3]), slides(zeros[3:4] + ones[3:]), slides(zeros[4:]))
    with caplog.at_level(logging.WARNING, "histotransfer_pl"):
        check_split(tested, frame)
    (record,) = caplog.records
    assert "the test part" in record.message
    assert "no AUROC of its own, the report pools the folds" in record.message


def at_sites(n_sites: int = 6, seed: int = 0) -> pd.DataFrame:
    frame = cohort(60, seed)
    number = frame["patient_id"].str[1:].astype(int)
    return frame.assign(site=[f"h{n // 2 % n_sites}" for n in number])


@pytest.mark.parametrize(("n_sites", "n_folds"), [(6, 3), (6, 6), (3, 3)])
def test_no_site_is_in_two_parts(n_sites: int, n_folds: int) -> None:
    frame = at_sites(n_sites)
    site = dict(zip(frame["slide_id"], frame["site"], strict=True))
    tested: list[str] = []
    for fold in range(n_folds):
        split = split_by_site(frame, fold, n_folds, 0)
        parts = [{site[s] for s in part} for part in (split.train, split.validation, split.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == n_sites
        assert split == split_by_site(frame.sample(frac=1, random_state=1), fold, n_folds, 0)
        tested += split.test
    assert sorted(tested) == sorted(frame["slide_id"])


def test_as_many_folds_as_sites_leave_one_site_out() -> None:
    frame = at_sites(4)
    site = dict(zip(frame["slide_id"], frame["site"], strict=True))
    left_out = [{site[s] for s in split_by_site(frame, fold, 4, 0).test} for fold in range(4)]
    assert sorted(left_out, key=min) == [{"h0"}, {"h1"}, {"h2"}, {"h3"}]


def test_sites_that_share_a_patient_stay_together() -> None:
    frame = at_sites(4)
    frame.loc[frame["patient_id"] == "p1", "site"] = ["h0", "h1", "h1"][
        : (frame["patient_id"] == "p1").sum()
    ]
    extra = pd.DataFrame({"slide_id": ["x"], "patient_id": ["p2"], "label": "0", "site": ["h0"]})
    frame = pd.concat([frame, extra], ignore_index=True)  # p2 belongs to h1
    site = dict(zip(frame["slide_id"], frame["site"], strict=True))
    for fold in range(3):
        split = split_by_site(frame, fold, 3, 0)
        for part in (split.train, split.validation, split.test):
            assert len({"h0", "h1"} & {site[s] for s in part}) in (0, 2)
    with pytest.raises(SplitError, match=r"3 site\(s\) without a patient in common, but 4 folds"):
        split_by_site(frame, 0, 4, 0)


def test_sites_that_cannot_be_kept_apart_are_named() -> None:
    with pytest.raises(SplitError, match=r"1 site\(s\), but 3 folds that keep sites apart"):
        split_by_site(at_sites(1), 0, 3, 0)
    frame = at_sites()
    frame.loc[3, "site"] = None
    with pytest.raises(SplitError, match="no site for '"):
        split_by_site(frame, 0, 3, 0)
    alone = at_sites(3)
    alone["label"] = (alone["site"] == "h0").astype(int).astype(str)
    with pytest.raises(SplitError, match="has no slide of class '1'"):
        split_by_site(alone, 0, 3, 0)
