"""Pages of survival, ordered classes and several labels: their own words, and no foreign figure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import CensoredData, logrank

from histotransfer_pl.records.run import TargetSpec
from histotransfer_pl.report.build import Settings, make_page
from histotransfer_pl.report.page import Page, render
from histotransfer_pl.report.panels import choose_slides, how_chosen
from histotransfer_pl.report.survival import halves
from histotransfer_pl.runs import record
from histotransfer_pl.runs.arms import group_arms, read_runs
from histotransfer_pl.runs.study import Study, load_runs
from tests.runs.folders import write_run

QUICK = Settings(n_slides=0, resamples=100)


def study_of(folder: Path, target: TargetSpec, parts: list[pd.DataFrame]) -> Study:
    """One arm, tested on these parts."""
    return load_runs([run_of(folder, target, part, fold) for fold, part in enumerate(parts)])


def run_of(folder: Path, target: TargetSpec, part: pd.DataFrame, fold: int) -> Path:
    run = write_run(folder / str(fold), part, target=target.column, fold=fold)
    record.write_run(run, "id", replace(record.load_run(run).record, target=target))
    return run


def slides(fold: int, **columns: Any) -> pd.DataFrame:
    names = [f"p{fold}{n:02}" for n in range(12)]
    frame = pd.DataFrame({"slide_id": names, "patient_id": names, "part": "test"})
    return frame.assign(**columns)


def survival_part(fold: int) -> pd.DataFrame:
    """Risk that orders the times; the second training has risks that are 10 higher."""
    rng = np.random.default_rng(fold)
    time = rng.permutation(np.arange(1.0, 13.0)) + 0.1 * fold
    return slides(fold, time=time, event=(time < 9).astype(float), risk=10 * fold - time)


@pytest.fixture
def survival(tmp_path: Path) -> Study:
    target = TargetSpec("months, died", task="survival", loss="cox", times=(2.0, 5.0, 8.0))
    return study_of(tmp_path, target, [survival_part(0), survival_part(1)])


def checked(page: Page, title: str) -> str:
    (task,) = page.tasks
    assert task.evaluation is None
    assert task.summary.title == title
    text = render(page)
    assert f">{title} " in text
    assert f"Test {title} of every arm" in text
    return text


def test_survival_has_its_curves_and_no_decision(survival: Study) -> None:
    page = make_page(survival, QUICK)
    text = checked(page, "C-index")
    assert "0.5 is chance" in text
    (drawn,) = [one for one in page.pictures() if one.name == "survival"]
    assert "24 patients" in drawn.caption
    assert drawn.source in text


def test_risk_is_halved_within_each_training_and_tested_by_log_rank(survival: Study) -> None:
    (arm,) = group_arms(read_runs(survival.runs)[0])[0]
    targets, high = halves(arm)
    parts = pd.concat([survival_part(0), survival_part(1)])
    median = parts.groupby(parts["slide_id"].str[1])["time"].transform("median")
    expected = (parts["time"] < median).to_numpy()
    np.testing.assert_array_equal(targets, parts[["time", "event"]].to_numpy())
    np.testing.assert_array_equal(high.astype(bool), expected)
    low, up = [
        CensoredData.right_censored(rows[:, 0], rows[:, 1] == 0)
        for rows in (targets[high == 0], targets[high == 1])
    ]
    p_value = logrank(low, up).pvalue
    (task,) = make_page(survival, QUICK).tasks
    assert task.survival is not None
    assert f"p = {p_value:.2g}." in task.survival.caption


def test_ordered_classes_and_several_labels_have_no_roc(tmp_path: Path) -> None:
    grade = np.tile(["1", "2", "3"], 4)
    sure = np.eye(3)[np.tile([0, 1, 2], 4)] * 0.7 + 0.1
    ordered = slides(0, label=grade, predicted=grade, p_1=sure[:, 0], p_2=sure[:, 1],
                     p_3=sure[:, 2])  # fmt: skip
    target = TargetSpec("grade", ("1", "2", "3"), task="ordinal")
    text = checked(make_page(study_of(tmp_path / "o", target, [ordered]), QUICK), "Quadratic kappa")
    assert "0 is chance" in text
    there = np.tile([0.0, 1.0], 6)
    labels = slides(0, label_a=there, label_b=there[::-1], p_a=there, p_b=there[::-1])
    target = TargetSpec("a, b", ("a", "b"), task="multilabel")
    checked(make_page(study_of(tmp_path / "m", target, [labels]), QUICK), "AUROC, mean")


def hazards(times: tuple[float, ...]) -> TargetSpec:
    return TargetSpec("months, died", task="survival", loss="hazard", times=times)


def test_trainings_of_other_intervals_are_pooled_at_the_times_of_the_first(tmp_path: Path) -> None:
    """Each training learns its intervals from its own events; curves here are straight lines."""
    runs = []
    for fold, times in enumerate([(2.0, 5.0, 8.0), (1.0, 4.0, 6.0, 9.0)]):
        part = survival_part(fold).drop(columns="risk")
        curves = {f"survival_{t:g}": 1 - t / (10 + part["time"]) for t in times}
        runs.append(run_of(tmp_path, hazards(times), part.assign(**curves), fold))
    (arm,) = group_arms(read_runs(load_runs(runs).runs)[0])[0]
    found = arm.predictions()
    expected = 1 - np.array([[2.0, 5.0, 8.0]]) / (10 + found.y[:, :1])
    np.testing.assert_allclose(found.s, expected, rtol=1e-12)
    text = checked(make_page(load_runs(runs), QUICK), "C-index")
    assert "Integrated Brier score" in text


def test_the_slides_that_are_shown_are_those_of_which_the_page_speaks(tmp_path: Path) -> None:
    part = survival_part(0)
    cox = TargetSpec("months, died", task="survival", loss="cox", times=(2.0, 5.0, 8.0))
    curves = {f"survival_{t:g}": part["time"] / (part["time"] + t) for t in (2, 5)}
    for name, target in (("cox", cox), ("hazard", hazards((2.0, 5.0)))):
        run = run_of(tmp_path / name, target, part.assign(**curves), 0)
        (arm,) = group_arms(read_runs(load_runs([run]).runs)[0])[0]
        shown = choose_slides(arm.runs[0], 3)["time"].tolist()
        assert shown == [1.0, 2.0, 12.0]  # the risk is highest where the time is shortest
        assert (
            how_chosen(arm.outcome) == "first those of the highest risk, then those of the lowest"
        )
