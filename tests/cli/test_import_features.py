"""Features of another program are split by the patients of the cohort table."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.data.features import FeatureDataModule


def test_slides_of_a_patient_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clam").mkdir()
    rng = np.random.default_rng(0)
    patients = [f"p{i % 12:02}" for i in range(36)]  # three slides each, never side by side
    names = [f"s{i:02}" for i in range(36)]
    for name in names:
        with h5py.File(f"clam/{name}.h5", "w") as file:
            file["features"] = rng.normal(size=(4, 8)).astype(np.float32)
            file["coords"] = np.arange(8).reshape(4, 2) * 64
    labels = [int(patient[1:]) % 2 for patient in patients]
    table = pd.DataFrame({"slide_id": names, "patient_id": patients, "label": labels})
    table.assign(mpp=0.5).to_csv("c.csv", index=False)
    options = ["--store", "s.zarr", "--cohort", "c.csv", "--encoder", "uni", "--depth", "last"]
    assert main(["import", "--features", "clam", *options]) == 0
    data = FeatureDataModule(Path("s.zarr"), Path("c.csv"), n_folds=3)
    data.setup("fit")
    parts = [set(data.patients(part)) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 12
    own = data.bags.set_index("slide_id")["patient_id"]
    assert own.to_dict() == dict(zip(names, patients, strict=True))
