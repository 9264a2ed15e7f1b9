"""Plain arrays become bags, row by row, without a grid."""

from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.importer import import_arrays
from histotransfer_pl.store.layout import COORDS, feature_path

PATH = feature_path("plain", "input")


def test_bags_need_not_lie_together(tmp_path: Path) -> None:
    features = np.arange(24, dtype=np.float64).reshape(8, 3)
    bags = np.array(["b", "a", "b", "c/1", "a", "b", "a", "c/1"])
    import_arrays(tmp_path / "S.zarr", features, bags, "plain", "input", attributes={"of": "me"})
    store = FeatureStore.open(tmp_path / "S.zarr")
    assert store.slide_ids() == ["a", "b", "c/1"]
    assert store.grid is None
    for bag in store.slide_ids():
        slide = store.slide(bag)
        assert np.array_equal(slide.read(PATH), features[bags == bag])
        assert not slide.has(COORDS)
        assert slide.info(PATH).dtype == np.float32
        assert slide.info(PATH).attributes["of"] == "me"
    assert store.verify() == []


def test_musk_comes_through(tmp_path: Path, data_root: Path) -> None:
    with np.load(data_root / "mil_classic" / "musk1.npz") as musk:
        features, bags, labels = musk["X"], musk["bag"], musk["y"]
    store = import_arrays(tmp_path / "S.zarr", features, bags, "musk", "input")
    assert len(store.slide_ids()) == len(labels) == 92
    counted = {str(bag): int((bags == bag).sum()) for bag in np.unique(bags)}
    assert {i: store.slide(i).n_patches for i in store.slide_ids()} == counted
    read = np.concatenate([store.slide(str(b)).read("features/musk/input") for b in range(92)])
    assert np.array_equal(read, features)  # musk's bags are sorted


def test_importing_twice_changes_nothing_but_refuses_other_values(tmp_path: Path) -> None:
    features, bags = np.ones((4, 2)), np.array([0, 0, 1, 1])
    root = tmp_path / "S.zarr"
    for _ in range(2):
        store = import_arrays(root, features, bags, "plain", "input")
    assert store.slide_ids() == ["0", "1"]
    with pytest.raises(StoreError, match=r"bag '0' is in .* already with other values"):
        import_arrays(root, features + 1, bags, "plain", "input")
    with pytest.raises(StoreMismatchError, match="dtype: the store has 'float32', asked for 'flo"):
        import_arrays(root, features, bags, "plain", "input", dtype="float16")
    with pytest.raises(StoreMismatchError, match="n_patches: the store has 2, asked for 3"):
        import_arrays(root, features[:3], bags[:1].repeat(3), "plain", "input")


def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"shape \(4, 2\) and bag ids of shape \(3,\)"):
        import_arrays(tmp_path / "S.zarr", np.ones((4, 2)), np.zeros(3), "plain", "input")
    bad = np.array([[1.0], [np.nan]])
    with pytest.raises(StoreError, match="row 1: the value is nan"):
        import_arrays(tmp_path / "S.zarr", bad, np.zeros(2), "plain", "input")
