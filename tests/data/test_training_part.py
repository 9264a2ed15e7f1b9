"""What is learnt from covariates and targets is learnt from the training part alone."""

from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path


def test_nothing_is_learnt_from_the_other_parts(tmp_path: Path) -> None:
    parts = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    # Whatever is not trained on is a thousand times as high.
    numbers = np.arange(12) + np.where(np.array(parts) == "train", 0, 1000)
    names = [f"s{number}" for number in range(12)]
    table = {"slide_id": names, "patient_id": names, "age": numbers, "score": numbers}
    pd.DataFrame({**table, "part": parts}).to_csv(tmp_path / "c.csv", index=False)
    store = FeatureStore.open_or_create(tmp_path / "f.zarr", {"patch_px": 32, "mpp": 1.0})
    with store.writing():
        for number, name in zip(numbers, names, strict=True):
            values = np.full((3, 4), number, np.float32)
            store.add_slide(name, None, 3).write(feature_path("e", "d"), values, {})
    data = FeatureDataModule(
        tmp_path / "f.zarr",
        tmp_path / "c.csv",
        target="score",
        task="regression",
        fold_column="part",
        covariates=["age"],
        standardize=True,
    )
    data.setup("fit")
    (age,) = data.covariate_specs
    assert (age.mean, age.deviation) == (2.5, float(np.std(range(6))))
    np.testing.assert_array_equal(data.training_targets().ravel(), range(6))
    mean, deviation = data.training_statistics()
    np.testing.assert_allclose(mean, 2.5)
    np.testing.assert_allclose(deviation, np.std(range(6)), rtol=1e-6)
