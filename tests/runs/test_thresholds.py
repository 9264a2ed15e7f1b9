"""A threshold is chosen on validation slides, for each training its own."""

from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.analysis.recalibration import fit_temperature
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.report.evaluation import evaluate
from histotransfer_pl.runs.arms import group_arms, read_runs
from histotransfer_pl.runs.results import evaluate_arms
from histotransfer_pl.runs.study import load_study
from histotransfer_pl.runs.thresholds import calibrated_scores, thresholds_of
from histotransfer_pl.runs.validation import validation_table
from tests.runs.folders import predictions, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "s", {("enc", "last"): 1.0}, folds=(0, 1))


def write_validation(study: Path, fold: int, shift: float) -> float:
    """Validation slides that part at 0.5 + shift, and train slides that would mislead."""
    table = predictions(2, 50.0).assign(part="validation")
    table["p_1"] = 0.4 + shift + 0.2 * (table["label"] == "1")
    misleading = table.assign(part="train", p_1=1 - table["p_1"])
    path = study / "runs" / f"enc-last-f{fold}-s0" / "predictions.csv"
    both = [table, misleading.assign(slide_id="x" + misleading["slide_id"])]
    content = [one.assign(p_0=1 - one["p_1"]).to_csv(index=False) for one in both]
    path.write_text(content[0] + content[1].partition("\n")[2])
    return 0.5 + shift


def test_each_training_has_the_threshold_of_its_validation_slides(study: Path) -> None:
    wanted = [write_validation(study, fold, shift) for fold, shift in ((0, 0.1), (1, -0.1))]
    arms, _ = group_arms(read_runs(load_study(study).runs)[0])
    found = thresholds_of(arms[0])
    assert len(found) == 40
    assert found[:20] == pytest.approx(wanted[0])
    assert found[20:] == pytest.approx(wanted[1])
    result = evaluate_arms(arms, n_resamples=50)[0]
    evaluation = evaluate(result, str)
    assert evaluation.rates is not None
    data = arms[0].predictions()
    right = (data.s[:, 1] >= found) == (data.y == 1)
    assert evaluation.rates.frame["value"].tolist() == pytest.approx(
        [right[data.y == 1].mean(), right[data.y == 0].mean()]
    )
    assert "chosen on validation slides" in evaluation.rates.page["Threshold"][0]


def test_without_predictions_of_validation_slides_the_reason_is_said(study: Path) -> None:
    write_validation(study, 0, 0.0)
    arms, _ = group_arms(read_runs(load_study(study).runs)[0])
    with pytest.raises(AnalysisError, match=r"predictions\.csv is missing: run predict"):
        thresholds_of(arms[0])
    evaluation = evaluate(evaluate_arms(arms, n_resamples=50)[0], str)
    assert "No threshold" in evaluation.confusion.caption
    assert evaluation.rates is not None
    assert "0.50 (not chosen)" in evaluation.rates.page["Threshold"][0]


def test_each_training_is_calibrated_on_its_validation_slides(study: Path) -> None:
    for fold, sharp in ((0, 4.0), (1, 0.5)):
        table = predictions(2, 1.0, seed=fold).assign(part="validation")
        logit = sharp * np.log(table["p_1"] / table["p_0"])
        table["p_1"] = 1 / (1 + np.exp(-logit))
        folder = study / "runs" / f"enc-last-f{fold}-s0"
        table.assign(p_0=1 - table["p_1"]).to_csv(folder / "predictions.csv", index=False)
    arms, _ = group_arms(read_runs(load_study(study).runs)[0])
    found, before = calibrated_scores(arms[0]), arms[0].predictions().s
    heat = np.log(before[:, 1] / before[:, 0]) / np.log(found[:, 1] / found[:, 0])
    for rows, run in ((slice(0, 20), arms[0].runs[0]), (slice(20, 40), arms[0].runs[1])):
        valid = validation_table(run.folder, run.tested.outcome.spec)
        np.testing.assert_allclose(
            heat[rows], fit_temperature(valid.scores, valid.targets), rtol=1e-6
        )
    assert heat[0] > 2 * heat[20]
    drawn = evaluate(evaluate_arms(arms, n_resamples=50)[0], str).calibration
    assert drawn is not None
    assert "once each training is calibrated on its validation slides" in drawn.caption


def test_a_page_says_why_nothing_is_calibrated(study: Path) -> None:
    arms, _ = group_arms(read_runs(load_study(study).runs)[0])
    drawn = evaluate(evaluate_arms(arms, n_resamples=50)[0], str).calibration
    assert drawn is not None
    assert "not calibrated: " in drawn.caption
    assert "predictions.csv is missing: run predict" in drawn.caption
