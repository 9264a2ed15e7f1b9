"""Calibrated probabilities and prediction sets, from the validation slides to `apply`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from histotransfer_pl.cli.main import main
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.inference.apply import apply
from histotransfer_pl.inference.certainty import certainty_cells, set_in_words
from histotransfer_pl.records.calibration import Calibration
from histotransfer_pl.runs.model_file import load_model
from tests.tuning import tuning

STORE = ("--store", "s.zarr", "--pictures", "false")


def packaged(name: str = "m.safetensors") -> str:
    assert main(["package", "--run_dir", "stage1", "--out", name]) == 0
    return name


def part(name: str) -> pd.DataFrame:
    table = pd.read_csv("stage1/predictions.csv")
    return table[table["part"] == name].reset_index(drop=True)


def test_apply_gives_what_the_validation_slides_say(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = packaged()
    assert main(["apply", "--model", model, *STORE, "--error", "0.3"]) == 0
    line = "calibrated probabilities and sets with an error of 0.3 rest on 4 validation slides of 4"
    assert line in capsys.readouterr().out
    found = pd.read_csv("applied/predictions.csv", keep_default_na=False)
    table, valid = pd.read_csv("stage1/predictions.csv"), part("validation")
    assert found["slide_id"].tolist() == table["slide_id"].tolist()
    # the temperature: a search over the log loss of the four validation slides, of which n of a
    # class count as n + 1 of n + 2
    grid = np.geomspace(0.05, 20, 20_001)
    logit = np.log((valid["p_1"] / valid["p_0"]).to_numpy())
    sign = 2 * valid["label"].to_numpy() - 1
    share = 1 / (valid.groupby("label")["label"].transform("size").to_numpy() + 2)[:, None]
    scaled = (sign * logit)[:, None] / grid
    loss = ((1 - share) * np.logaddexp(0, -scaled) + share * np.logaddexp(0, scaled)).sum(0)
    best = grid[loss.argmin()]
    expected = softmax(np.log(table[["p_0", "p_1"]].to_numpy()) / best, 1)
    columns = found[["calibrated_0", "calibrated_1"]].to_numpy()
    np.testing.assert_allclose(columns, expected, atol=1e-3)
    # the sets: with four patients and an error of 0.3 the fourth smallest score is the limit
    own = np.where(valid["label"] == 1, valid["p_1"], valid["p_0"])
    inside = table[["p_0", "p_1"]].to_numpy() >= own.min() - 1e-6
    wanted = [" | ".join(np.array(["0", "1"])[row]) for row in inside]
    assert found["prediction_set"].astype(str).tolist() == wanted


def test_a_run_folder_and_its_file_say_the_same(tuning_cohort: Path) -> None:
    kept, of_run = load_model(packaged()), load_model("stage1")
    assert kept.calibration == of_run.calibration
    assert kept.calibration is not None
    scores = np.array([0.2, 0.8])
    np.testing.assert_array_equal(kept.calibrated(scores), of_run.calibrated(scores))
    assert "**Calibration**: temperature" in kept.facts["card"]


def test_test_slides_change_nothing(tuning_cohort: Path) -> None:
    before = load_model("stage1").calibration
    table = pd.read_csv("stage1/predictions.csv")
    wrong = table["part"] != "validation"
    table.loc[wrong, ["p_0", "p_1"]] = table.loc[wrong, ["p_1", "p_0"]].to_numpy()
    table.to_csv("stage1/predictions.csv", index=False)
    assert load_model("stage1").calibration == before


def test_validation_patients_of_another_split_are_refused(tuning_cohort: Path) -> None:
    table = pd.read_csv("stage1/predictions.csv")
    swap = {"validation": "test", "test": "validation"}
    table["part"] = table["part"].replace(swap)
    table.to_csv("stage1/predictions.csv", index=False)
    model = load_model("stage1")
    with pytest.raises(ConfigError, match=r"stage1.* has validation patients of another split"):
        model.calibrated(np.array([0.2, 0.8]))


def test_too_few_patients_are_refused_before_anything_is_read(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = packaged()
    assert main(["apply", "--model", model, *STORE, "--error", "0.1"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "4 validation patients cannot promise an error of 0.1: it needs at least 9" in line
    assert not Path("applied").exists()


def test_without_predictions_the_way_to_a_calibration_is_said(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("stage1/predictions.csv").unlink()
    model = packaged()
    assert (
        "stage1/predictions.csv is missing: run predict in this folder" in capsys.readouterr().out
    )
    how = "packaged without: run predict in its run folder, and package again"
    assert main(["apply", "--model", model, *STORE]) == 0
    assert how in capsys.readouterr().out
    assert "calibrated_1" not in pd.read_csv("applied/predictions.csv")
    assert main(["apply", "--model", model, *STORE, "--error", "0.3"]) == 1
    assert how in capsys.readouterr().err


def test_other_targets_have_no_sets(tuning_cohort: Path) -> None:
    table = pd.read_csv("c.csv")
    table["score"] = np.arange(len(table)) / 10
    table.to_csv("c.csv", index=False)
    value = ("--data.task", "regression", "--data.target", "score")
    assert tuning("fit", "--run_dir", "value", *value, epochs=1) == 0
    with pytest.raises(ConfigError, match="predicts regression: calibration and prediction sets"):
        apply(["value"], store="s.zarr", pictures=False, error=0.3)
    assert apply(["value"], store="s.zarr", pictures=False).basis == ""


def test_of_several_models_the_means_count(tuning_cohort: Path) -> None:
    assert tuning("fit", "--run_dir", "other", "--seed_everything", "5", epochs=1) == 0
    assert tuning("predict", "--run_dir", "other", epochs=1) == 0
    each = [apply([m], store="s.zarr", pictures=False).predictions for m in ("stage1", "other")]
    both = apply(["stage1", "other"], store="s.zarr", pictures=False, error=0.3)
    mean = np.mean([one["calibrated_1"] for one in each], axis=0)
    np.testing.assert_allclose(both.predictions["calibrated_1"], mean, atol=1e-12)
    models = [load_model(m) for m in ("stage1", "other")]
    for slide, found in zip(each[0].index, both.predictions["prediction_set"], strict=True):
        scores = [one.loc[slide, ["prob_0", "prob_1"]].to_numpy(float) for one in each]
        p = np.mean([m.p_values(s) for m, s in zip(models, scores, strict=True)], axis=0)
        assert found == " | ".join(c for c, value in zip("01", p, strict=True) if value > 0.3)


def test_a_training_that_goes_on_forgets_what_predict_said(tuning_cohort: Path) -> None:
    assert (
        tuning("fit", "--run_dir", "stage1", "--model.beta", "0.1", "--ckpt_path", "last", epochs=3)
        == 0
    )
    assert load_model("stage1").calibration is None


def test_a_set_that_is_not_one_class_abstains() -> None:
    assert set_in_words("normal") == "set: normal"
    assert set_in_words("normal | tumour") == "abstains: normal or tumour"
    assert set_in_words("") == "abstains: like no class"


def test_a_set_is_made_of_the_mean_of_the_p_values(tuning_cohort: Path) -> None:
    models = [load_model("stage1"), load_model("stage1")]
    models[0].calibration = Calibration(1.0, (0.1, 0.2, 0.3), (0, 1, 2))
    models[1].calibration = Calibration(2.0, (0.1, 0.2, 0.9), (0, 1, 2))
    scores = np.array([[0.6, 0.4], [0.6, 0.4]])
    # p-values of class 0 are 1/4 and 2/4, of class 1 the same
    found = [certainty_cells(models, scores, error)["prediction_set"] for error in (0.37, 0.38)]
    assert found == ["0 | 1", ""]
    chances = [0.6, 1 / (1 + (0.4 / 0.6) ** 0.5)]
    assert certainty_cells(models, scores, None) == pytest.approx(
        {"calibrated_0": np.mean(chances), "calibrated_1": 1 - np.mean(chances)}
    )
