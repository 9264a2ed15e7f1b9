"""fit, test and predict through the command line, on stored features."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import confusion_matrix

from histotransfer_pl.store.feature_store import FeatureStore
from tests.cli.conftest import Run
from tests.tuning import attention_array


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "test_metrics.json").read_text())
    del found["run"]  # its checkpoint notes its folder
    return found


@pytest.mark.parametrize(
    "head", ["AttentionHead", "GatedAttentionHead", "MeanPoolHead", "MaxPoolHead"]
)
def test_fit_test_predict(run: Run, cohort: Path, head: str) -> None:
    assert run("fit", "--model.head", head, epochs=8) == 0
    assert run("test", "--model.head", head) == 0
    assert run("predict", "--model.head", head) == 0
    records = {path.name for path in (cohort / "r").glob("*.yaml")}
    assert records == {"config.yaml", "config_test.yaml", "config_predict.yaml"}
    table = pd.read_csv(cohort / "r" / "test_predictions.csv", dtype=str)
    everyone = pd.read_csv(cohort / "r" / "predictions.csv", dtype=str)
    assert len(everyone) == 40
    assert set(table["slide_id"]) == set(everyone.loc[everyone["part"] == "test", "slide_id"])
    joined = table.merge(everyone, on="slide_id")
    np.testing.assert_allclose(
        joined["p_1_x"].astype(float), joined["p_1_y"].astype(float), atol=1e-6
    )
    assert metrics(cohort / "r")["auroc"] > 0.6
    found = pd.read_csv(cohort / "r" / "test_confusion.csv", index_col="label")
    assert list(found.index) == [int(name) for name in found.columns] == [0, 1]
    expected = confusion_matrix(table["label"], table["predicted"], labels=["0", "1"])
    assert (found.to_numpy() == expected).all()


def test_attention_lies_beside_the_features_row_by_row(run: Run, cohort: Path) -> None:
    run("fit")
    run("predict")
    store = FeatureStore.open(cohort / "s.zarr")
    for slide_id in store.slide_ids():
        slide = store.slide(slide_id)
        attention = slide.read(attention_array(Path("r")))
        assert attention.shape == (slide.n_patches, 2)
        weight, logit = attention.T
        expected = np.exp(logit - logit.max())
        np.testing.assert_allclose(weight, expected / expected.sum(), atol=1e-5)
    assert store.verify() == []


def test_the_same_command_gives_the_same_metrics(run: Run, cohort: Path) -> None:
    found = []
    for name in ("a", "b"):
        run("fit", "--run_dir", name, "--data.batch_size", "4", "--data.max_patches", "3")
        run("test", "--run_dir", name)
        found.append(metrics(cohort / name))
    assert found[0] == found[1]
    run("fit", "--run_dir", "c", "--seed_everything", "1")
    run("test", "--run_dir", "c")
    assert metrics(cohort / "c") != found[0]


def test_a_run_can_be_fitted_again_in_its_folder(run: Run, cohort: Path) -> None:
    run("fit")
    run("fit", "--trainer.max_epochs", "3")
    config = yaml.safe_load((cohort / "r" / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 3
    assert sorted(p.name for p in (cohort / "r" / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]


def test_the_saved_config_repeats_the_run(run: Run, cohort: Path) -> None:
    run("fit")
    run("test")
    before = metrics(cohort / "r")
    config = cohort / "saved.yaml"
    config.write_text(
        (cohort / "r" / "config.yaml").read_text().replace("run_dir: r", "run_dir: q")
    )
    assert run("fit", "--config", str(config), "--run_dir", "q") == 0
    run("test", "--run_dir", "q")
    assert metrics(cohort / "q") == before


def test_resuming_ends_with_the_weights_of_an_uninterrupted_fit(
    run: Run, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from histotransfer_pl.tasks.mil import AttentionMIL

    trained: list[int] = []
    end = AttentionMIL.on_train_epoch_end

    def count(task: AttentionMIL) -> None:
        trained.append(task.current_epoch)
        end(task)

    monkeypatch.setattr(AttentionMIL, "on_train_epoch_end", count)

    run("fit", "--run_dir", "whole", epochs=4)
    first_is_best = ["--checkpoint.monitor", "train/loss", "--checkpoint.mode", "max"]
    run("fit", "--run_dir", "parts", *first_is_best, epochs=2)
    best = torch.load(cohort / "parts" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 0
    trained.clear()
    run("fit", "--run_dir", "parts", *first_is_best, "--ckpt_path", "last", epochs=4)
    assert trained == [2, 3]
    # The epochs before stay in the table.
    table = pd.read_csv(cohort / "parts" / "metrics" / "fit" / "metrics.csv")
    assert table.dropna(subset="train/loss")["epoch"].tolist() == [0, 1, 2, 3]
    assert table.dropna(subset="val/auroc")["epoch"].tolist() == [0, 1, 2, 3]
    states = [
        torch.load(cohort / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)


def test_patient_bags(run: Run, cohort: Path) -> None:
    assert run("fit", "--data.bag", "patient") == 0
    assert run("test", "--data.bag", "patient") == 0
    table = pd.read_csv(cohort / "r" / "test_predictions.csv")
    assert table["patient_id"].is_unique
    assert run("predict", "--data.bag", "patient") == 0
    slide = FeatureStore.open(cohort / "s.zarr").slide("p00/0")
    assert slide.read(attention_array(Path("r"))).shape == (slide.n_patches, 2)


def test_standardize_travels_with_the_checkpoint(run: Run, cohort: Path) -> None:
    import torch

    run("fit", "--data.standardize", "true")
    saved = torch.load(cohort / "r" / "checkpoints" / "best.ckpt", weights_only=True)
    state = saved["state_dict"]
    assert state["feature_mean"].shape == state["feature_deviation"].shape == (6,)
    assert (state["feature_deviation"] > 0).all()
    assert state["feature_mean"].abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test"], "no checkpoint r/checkpoints/best.ckpt: run fit"),
        (["fit", "--data.fold", "9"], "fold is 9"),
        (["fit", "--data.target", "stage"], "has no column stage; found: slide_id"),
        (["fit", "--data.depth", "layer3"], "holds toy at last; say which"),
        (["fit", "--data.store", "nope.zarr"], "no store at"),
        (["fit", "--model.beta", "-1"], "model.beta -1"),
        (["fit", "--model.class_weights", "[1.0, 2.0, 3.0]"], "has 3 numbers for 2 classes"),
        (["fit", "--data.batch_size", "0"], "count from 1"),
        (["fit", "--ckpt_path", "best"], "give last or a file"),
        # an error class of Lightning's own, which derives from Exception alone
        (["fit", "--trainer.profiler", "x"], "['simple', 'advanced', 'pytorch', 'xla']"),
    ],
)
def test_bad_input_is_one_clear_line(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 1
    answer = capsys.readouterr().err.strip().splitlines()[-1]
    assert answer.startswith("error: ")
    assert message in answer


def test_a_checkpoint_of_other_features_is_refused(
    run: Run, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit")
    table = pd.read_csv(cohort / "c.csv")
    table.assign(label=table["label"].map({0: "no", 1: "yes"})).to_csv(
        cohort / "c.csv", index=False
    )
    assert run("test") == 1
    assert "target.classes: ['0', '1'], not ['no', 'yes']" in capsys.readouterr().err


def test_labelled_slides_without_features(
    run: Run, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(cohort / "c.csv")
    lost = pd.DataFrame([{"slide_id": "lost", "patient_id": "x", "label": 1}])
    pd.concat([table, lost]).to_csv(cohort / "c.csv", index=False)
    assert run("fit") == 1
    assert "1 labelled slides have no features/toy/last" in capsys.readouterr().err
    assert run("fit", "--data.strict", "false") == 0


def test_nan_in_foreign_features_names_the_slide(
    run: Run, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit")
    run("predict")
    table = pd.read_csv(cohort / "r" / "predictions.csv", dtype=str)
    slide_id = table.loc[table["part"] == "train", "slide_id"].iloc[0]
    group = cohort / "s.zarr" / slide_id.replace("/", "%2F")
    chunk = group / "features" / "toy" / "last" / "c" / "0" / "0"
    stored = FeatureStore.open(cohort / "s.zarr").slide(slide_id).read("features/toy/last")
    values = np.fromfile(chunk, stored.dtype).reshape(stored.shape)
    values[-1, 2] = np.nan  # our writer refuses this; another program, without checksums, may not
    values.tofile(chunk)
    metadata = group / "features" / "toy" / "last" / "zarr.json"
    document = json.loads(metadata.read_text())
    del document["attributes"]["checksum"], document["attributes"]["seal"]
    metadata.write_text(json.dumps(document))
    for verb in ("predict", "fit"):
        assert run(verb) == 1
        error = capsys.readouterr().err
        assert f"features of {slide_id!r} hold NaN or infinite values in 1 of" in error
        assert f"first: {len(values) - 1}" in error


def test_a_diverged_training_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sgd = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e30"]
    assert run("fit", *sgd) == 1
    assert "training diverged; lower the learning rate" in capsys.readouterr().err


def test_balanced_class_weights_have_mean_one(run: Run, cohort: Path) -> None:
    import torch

    assert run("fit", "--model.class_weights", "balanced", "--model.beta", "0.01") == 0
    saved = torch.load(cohort / "r" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["state_dict"]["class_weight"].tolist() == pytest.approx([1.0, 1.0])


def test_the_dashboard_offline(run: Run, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run("fit") == 0
    media = {path.name.split("_")[0] for path in (cohort / "r" / "wandb").rglob("media/**/*.png")}
    tables = list((cohort / "r" / "wandb").rglob("media/table/**/*.json"))
    assert {"roc", "confusion"} <= media
    assert tables


def test_a_part_of_the_slides_takes_no_place_of_all(
    run: Run, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--trainer.fast_dev_run", "true") == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not (cohort / "r/config.yaml").exists()
    assert run("fit", epochs=1) == 0
    assert run("predict") == 0
    whole = (cohort / "r/predictions.csv").read_bytes()
    capsys.readouterr()
    for verb, limit in (
        ("predict", "fast_dev_run"),
        ("predict", "limit_predict_batches"),
        ("test", "limit_test_batches"),
    ):
        assert run(verb, f"--trainer.{limit}", "2") == 1
        assert f"lets {verb} see 2 batches" in capsys.readouterr().err
    assert run("predict", "--trainer.limit_predict_batches", "0") == 0
    assert "nothing was written" in capsys.readouterr().out
    assert (cohort / "r/predictions.csv").read_bytes() == whole
