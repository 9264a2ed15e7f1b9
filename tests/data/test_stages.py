"""Each stage asks only for what it needs: a trained model reads slides that no table knew."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wandb

from histotransfer_pl.cli.main import main
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.store.importer import import_arrays
from histotransfer_pl.tasks.mil import AttentionMIL

QUIET = ("--trainer.enable_progress_bar", "false")
DATA = ("--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.n_folds", "3")


def bags(folder: Path, names: list[str], seed: int) -> None:
    """A store of bags whose first feature tells the class: even numbers 0, odd ones 1."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(names) * 4, 5)).astype(np.float32)
    owners = np.repeat(names, 4)
    features[:, 0] += [2.0 * (int(name.rpartition("s")[2]) % 2) for name in owners]
    import_arrays(folder, features, owners, "toy", "last")


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on 12 patients, and a store of 8 new slides."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    names = [f"s{i:02}" for i in range(12)]
    bags(tmp_path / "s.zarr", names, 0)
    table = {"slide_id": names, "patient_id": names, "label": [i % 2 for i in range(12)]}
    pd.DataFrame(table).to_csv("c.csv", index=False)
    bags(tmp_path / "new.zarr", [f"new-s{i:02}" for i in range(8)], 1)
    assert main(["fit", "--run_dir", "r", *DATA, *QUIET, "--trainer.max_epochs", "2"]) == 0
    return tmp_path


def new_table(labels: list[object] | None, patients: list[str] | None = None) -> str:
    names = [f"new-s{i:02}" for i in range(8)]
    table = pd.DataFrame({"slide_id": names, "patient_id": patients or names})
    if labels is not None:
        table["label"] = pd.Series(labels, dtype=object)
    table.to_csv("new.csv", index=False)
    return "new.csv"


def on_new(verb: str, *arguments: str) -> int:
    call = [verb, "--run_dir", "r", "--output_dir", "o", "--data.store", "new.zarr", *QUIET]
    return main([*call, *arguments])


@pytest.mark.parametrize("labels", [None, [""] * 8, [0, 1, "", "", 0, 1, "", ""]])
def test_predict_needs_no_labels(trained: Path, labels: list[object] | None) -> None:
    assert on_new("predict", "--data.cohort", new_table(labels)) == 0
    found = pd.read_csv("o/predictions.csv", keep_default_na=False)
    assert found["slide_id"].tolist() == [f"new-s{i:02}" for i in range(8)]
    assert set(found["part"]) == {"external"}
    assert [str(label) for label in found["label"]] == [str(x) for x in labels or [""] * 8]
    chances = found[["p_0", "p_1"]].astype(float).to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-6)


def test_predict_needs_no_table(trained: Path) -> None:
    call = ["predict", "--run_dir", "r", "--output_dir", "o", "--data.store", "new.zarr"]
    assert main([*call, "--data.cohort", "null", *QUIET]) == 0
    assert len(pd.read_csv("o/predictions.csv")) == 8


def test_the_run_folder_is_enough(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["test", "--run_dir", "r", *QUIET]) == 0
    own = Path("r/test_predictions.csv").read_bytes()
    elsewhere = trained / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["test", "--run_dir", str(trained / "r"), *QUIET]) == 0
    assert (trained / "r" / "test_predictions.csv").read_bytes() == own


def test_a_cohort_from_elsewhere_is_tested_as_a_whole(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = new_table([0, 1, 0, 1, 0, 1, "", ""])
    assert on_new("test", "--data.cohort", table) == 0
    found = pd.read_csv("o/test_predictions.csv")
    assert len(found) == 6
    captured = capsys.readouterr()
    assert "6 slides of 6 patients (0: 3, 1: 3)" in captured.out
    assert "2 without label: 'new-s06', 'new-s07'" in captured.err
    assert not (trained / "r" / "test_predictions.csv").exists()


def test_one_class_alone_can_be_predicted_from_elsewhere(trained: Path) -> None:
    assert on_new("test", "--data.cohort", new_table([1] * 8)) == 0


def test_a_trained_patient_is_not_tested(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_on = pd.read_csv("c.csv")["patient_id"].tolist()
    patients = [*trained_on[:3], *(f"q{i}" for i in range(5))]
    assert on_new("test", "--data.cohort", new_table([0, 1] * 4, patients)) == 1
    assert "the model was trained on" in capsys.readouterr().err


def test_an_unknown_class_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_new("test", "--data.cohort", new_table([0, 1, 7, 1, 0, 1, 0, 1])) == 1
    assert "labels that the model does not know: '7'; its classes are 0, 1" in (
        capsys.readouterr().err
    )


def test_several_stores_are_read_as_one(trained: Path) -> None:
    both = ["--data.store", "[s.zarr, new.zarr]", "--data.cohort", "null"]
    call = ["predict", "--run_dir", "r", "--output_dir", "o", *QUIET]
    assert main([*call, *both]) == 0
    assert len(pd.read_csv("o/predictions.csv")) == 20


def test_predicting_twice_stores_attention_once(trained: Path) -> None:
    assert main(["predict", "--run_dir", "r", *QUIET]) == 0
    arrays = list(Path("s.zarr/s00/attention").iterdir())
    before = arrays[0].stat().st_mtime_ns
    assert main(["predict", "--run_dir", str(trained / "r"), *QUIET]) == 0
    assert list(Path("s.zarr/s00/attention").iterdir()) == arrays
    assert arrays[0].stat().st_mtime_ns == before


def test_a_run_is_not_trained_over_and_a_new_fit_takes_old_results_away(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--run_dir", "r", *DATA, *QUIET, "--trainer.max_epochs", "1"]
    assert main(["test", "--run_dir", "r", *QUIET]) == 0
    before = Path("r/checkpoints/best.ckpt").read_bytes()
    assert main(fit) == 1
    assert "r holds a run (config.yaml" in capsys.readouterr().err
    assert Path("r/checkpoints/best.ckpt").read_bytes() == before
    assert main([*fit, "--overwrite", "true", "--seed_everything", "4"]) == 0
    assert Path("r/checkpoints/best.ckpt").read_bytes() != before
    assert not Path("r/test_metrics.json").exists()


def test_sampling_and_dropout_resume_to_the_same_weights(trained: Path) -> None:
    head = ["--model.head", "AttentionHead", "--model.head.dropout", "0.3"]
    common = [*DATA, *QUIET, *head, "--data.max_patches", "2"]
    assert main(["fit", "--run_dir", "whole", *common, "--trainer.max_epochs", "4"]) == 0
    assert main(["fit", "--run_dir", "parts", *common, "--trainer.max_epochs", "2"]) == 0
    again = ["--trainer.max_epochs", "4", "--ckpt_path", "last"]
    assert main(["fit", "--run_dir", "parts", *common, *again]) == 0
    states = [
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0, msg=name)


def test_what_is_read_once_is_not_kept_in_memory(trained: Path) -> None:
    data = FeatureDataModule("s.zarr", Path("c.csv"), n_folds=3)
    data.setup("fit")
    loaders = (data.train_dataloader(), data.test_dataloader(), data.predict_dataloader())
    kept = []
    for loader in loaders:
        assert sum(1 for _ in loader)
        held = loader.dataset._kept  # type: ignore[attr-defined]
        kept.append(0 if held is None else len(held))
    assert kept == [4, 0, 0]


def test_the_board_of_a_failed_verb_is_closed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(AttentionMIL, "training_step", lambda self, batch, batch_idx: 1 / 0)
    assert main(["fit", "--run_dir", "broken", *DATA, *QUIET]) == 1
    assert wandb.run is None
