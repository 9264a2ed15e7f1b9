"""A threshold is chosen on validation slides, for each training its own."""

from pathlib import Path

import pytest

from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.report.evaluation import evaluate
from histotransfer_pl.runs.arms import group_arms, read_runs
from histotransfer_pl.runs.results import evaluate_arms
from histotransfer_pl.runs.study import load_study
from histotransfer_pl.runs.thresholds import thresholds_of
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
