"""The features do not depend on who decodes the tiles."""

from pathlib import Path

import numpy as np

from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore


def test_features_of_both_readers_are_equal(tmp_path: Path) -> None:
    paint_cohort(tmp_path, n_patients=1, slides_per_patient=2, seed=0, size_px=800)
    for reader in ("direct", "openslide"):
        arguments = ["--data.slides", str(tmp_path / "slides"), "--data.reader", reader]
        grid = ["--data.grid.patch_px", "96", "--data.grid.mpp", "0.7", "--data.qc", "false"]
        model = ["--model.encoder", "timm:test_resnet", "--model.weights", "random"]
        store = ["--data.store", str(tmp_path / f"{reader}.zarr")]
        assert main(["extract", *arguments, *grid, *model, *store]) == 0
    direct, plain = (FeatureStore.open(tmp_path / f"{r}.zarr") for r in ("direct", "openslide"))
    assert direct.slide_ids() == plain.slide_ids()
    for slide_id in direct.slide_ids():
        one, other = direct.slide(slide_id), plain.slide(slide_id)
        np.testing.assert_array_equal(one.coords(), other.coords())
        (array,) = one.arrays()
        assert one.n_patches > 5
        np.testing.assert_array_equal(one.read(array), other.read(array))
