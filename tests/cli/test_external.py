"""Folds trained on one cohort, each and their ensemble tested on another, in one study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from histotransfer_pl.cli.main import main
from histotransfer_pl.store.importer import import_arrays


def cohort(name: str, store: Path, n_patients: int, seed: int) -> None:
    """Two slides per patient; the first feature of their first patches tells the class."""
    rng = np.random.default_rng(seed)
    features, owners, rows = [], [], []
    for i in range(2 * n_patients):
        label = i // 2 % 2
        values = rng.normal(size=(6, 5)).astype(np.float32)
        values[:2, 0] += 2.0 * label
        features.append(values)
        owners += [f"{name}{i:02}"] * len(values)
        rows.append((f"{name}{i:02}", f"{name}-p{i // 2:02}", label))
    import_arrays(store, np.concatenate(features), np.array(owners), "toy", "last")
    columns = ["slide_id", "patient_id", "label"]
    pd.DataFrame(rows, columns=columns).to_csv(f"{name}.csv", index=False)


def test_each_fold_and_their_ensemble_read_the_other_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = tmp_path / "studies" / "ext"
    folder.mkdir(parents=True)
    cohort("a", folder / "store.zarr", 12, 0)
    cohort("b", tmp_path / "b.zarr", 8, 1)
    head = {"class_path": "histotransfer_pl.models.heads.AttentionHead"}
    study = {
        "name": "ext",
        "cohort": "a.csv",
        "features": [{"encoder": "toy", "depth": "last"}],
        "heads": {"attention": head},
        "folds": {"n_folds": 3},
        "external": "b.csv",
        "external_store": "b.zarr",
        "fit": {"trainer": {"max_epochs": 3}},
        "attention": False,
    }
    Path("ext.yaml").write_text(yaml.safe_dump(study))
    assert main(["study", "--config", "ext.yaml"]) == 0
    row = pd.read_csv(folder / "report" / "tables" / "external.csv").iloc[0]
    assert (row["trainings"], row["n_slides"], row["n_patients"]) == (3, 16, 8)
    tables = sorted(folder.glob("runs/*/external/test_predictions.csv"))
    assert len(tables) == 3
    parts = [pd.read_csv(path).set_index("slide_id").sort_index() for path in tables]
    mean = np.mean([part["p_1"] for part in parts], axis=0)
    assert row["auroc"] == pytest.approx(roc_auc_score(parts[0]["label"], mean))
    by_patient = pd.DataFrame({"p": mean, "y": parts[0]["label"], "id": parts[0]["patient_id"]})
    patients = by_patient.groupby("id").mean()
    assert row["patient_auroc"] == pytest.approx(roc_auc_score(patients["y"], patients["p"]))
