"""Tables of predictions, and metrics of them with their intervals."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.runs.evaluation import describe_metrics, evaluate_table, metrics_json
from histotransfer_pl.runs.predictions import as_table, class_target, read_predictions


def table(first: str = "MSI", second: str = "MSS", patients: int = 20) -> pd.DataFrame:
    """Two slides per patient; a third of the patients is of the first class."""
    rng = np.random.default_rng(1)
    rows = []
    for patient in range(patients):
        for slide in range(2):
            label = first if patient % 3 == 0 else second
            p = 1 / (1 + np.exp(-(rng.normal() + (0.8 if label == first else -0.8))))
            name = f"p{patient:02}"
            rows.append((f"{name}_{slide}", name, "test", label, second, p, 1 - p))
    names = ["slide_id", "patient_id", "part", "label", "predicted", f"p_{first}", f"p_{second}"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize("positive", ["MSI", "MSS"])
def test_the_positive_class_is_honoured_in_every_metric(positive: str) -> None:
    frame = table()
    checked = as_table(frame, class_target(("MSI", "MSS"), positive))
    results = evaluate_table(checked, n_resamples=50)
    found = {r.name: r.value for r in results}
    y, p = frame["label"] == positive, frame[f"p_{positive}"]
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert found["auprc"] == pytest.approx(average_precision_score(y, p))
    assert found["f1"] == pytest.approx(f1_score(y, p > 0.5))
    said = describe_metrics(results, checked)
    assert said.startswith("40 slides of 20 patients (")
    assert f"MSI: {2 * 7}" in said
    assert f"(of {positive})" in said
    content = metrics_json(results, checked)
    assert content["positive"] == positive
    assert content["auroc_low"] < content["auroc"] < content["auroc_high"]
    interval = results[0].interval
    assert interval is not None
    assert f"{interval.estimate:.4f} [{interval.low:.4f}, {interval.high:.4f}]" in said


def test_one_class_has_a_reason_and_no_auroc() -> None:
    frame = table()
    checked = as_table(frame[frame["label"] == "MSI"], class_target(("MSI", "MSS")))
    results = evaluate_table(checked, n_resamples=50)
    assert results[0].value is None
    assert results[0].in_words().startswith("undefined (all 14 slides are of class")
    accuracy = next(r for r in results if r.name == "balanced_accuracy")
    assert accuracy.value is not None


@pytest.mark.parametrize("names", [("None", "null"), ("NA", "nan"), ("-", "+"), ("=1", "@x")])
def test_classes_of_any_name_are_read_back(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "test_predictions.csv"
    write_table(path, table(*names))
    read = read_predictions(path)
    assert read.classes == names
    pd.testing.assert_frame_equal(read.frame, table(*names), check_dtype=False)


def test_patients_are_positive_if_any_slide_is(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "slide_id": list("abcd"),
            "patient_id": ["x", "x", "y", "y"],
            "label": ["0", "1", "0", "0"],
            "predicted": "0",
            "p_0": [0.2, 0.6, 0.9, 0.7],
            "p_1": [0.8, 0.4, 0.1, 0.3],
        }
    )
    patients = as_table(frame).of_patients()
    assert patients.frame["label"].tolist() == ["1", "0"]
    assert patients.scores[:, 1] == pytest.approx([0.6, 0.2])
    assert patients.frame["predicted"].tolist() == ["1", "0"]
    three = frame.assign(p_2=0.0)
    with pytest.raises(AnalysisError, match="only of two classes"):
        as_table(three).of_patients()
