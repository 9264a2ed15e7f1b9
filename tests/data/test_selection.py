"""Selections: which rows, in which order, and how they are kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from histotransfer_pl.data.selection import (
    Selection,
    highest,
    random_rows,
    read_selection,
    require_selection,
    spread_rows,
    write_selection,
)
from histotransfer_pl.errors import StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_highest_is_a_sort_by_score_then_row(values: list[int], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda row: (-values[row], row))[:k]
    assert highest(np.array(values, np.float32), k).tolist() == expected


def test_random_rows_depend_on_the_seed_and_the_slide_alone() -> None:
    rows = random_rows(50, 10, seed=1, slide_id="a")
    assert rows.tolist() == random_rows(50, 10, seed=1, slide_id="a").tolist()
    assert rows.tolist() != random_rows(50, 10, seed=2, slide_id="a").tolist()
    assert rows.tolist() != random_rows(50, 10, seed=1, slide_id="b").tolist()
    assert len(set(rows.tolist())) == 10
    assert random_rows(50, 20, seed=1, slide_id="a")[:10].tolist() == rows.tolist()


def test_random_rows_reach_every_patch_alike() -> None:
    counts = np.zeros(10)
    for seed in range(400):
        counts[random_rows(10, 3, seed, "a")] += 1
    assert counts.min() > 80  # 120 expected, standard deviation 9
    assert counts.max() < 160


def test_spread_rows_are_the_farthest_from_those_before() -> None:
    coords = np.random.default_rng(0).integers(0, 1000, (40, 2))
    rows = spread_rows(coords, 12)
    distances = cdist(coords, coords)
    for i in range(1, len(rows)):
        nearest = distances[:, rows[:i]].min(1)
        assert nearest[rows[i]] == pytest.approx(nearest.max())
    assert sorted(spread_rows(coords, 99).tolist()) == list(range(40))


def test_spread_rows_of_equal_corners_are_distinct() -> None:
    assert sorted(spread_rows(np.zeros((4, 2), np.int32), 4).tolist()) == [0, 1, 2, 3]


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore.open_or_create(tmp_path_factory.mktemp("s") / "s.zarr", None)
    with store.writing():
        store.add_slide("a", None, 10)
        store.add_slide("b", None, 2)
    return store


def test_a_selection_is_read_as_it_was_written(store: FeatureStore) -> None:
    selection = Selection(np.array([7, 0, 3], np.int32), 2, {"rule": "attention", "run": "r"})
    with store.writing():
        write_selection(store.slide("a"), "top", selection)
    read = read_selection(store.slide("a"), "top")
    assert read.rows.tolist() == [7, 0]
    assert read.candidates.tolist() == [7, 0, 3]
    assert read.attributes["run"] == "r"
    assert store.verify() == []


@pytest.mark.parametrize("rows", [[0, 10], [0, 0], [-1]])
def test_rows_of_another_store_are_refused(store: FeatureStore, rows: list[int]) -> None:
    with store.writing():
        write_selection(store.slide("a"), "top", Selection(np.array(rows, np.int32), 2, {}))
    with pytest.raises(StoreMismatchError, match="it belongs to another store"):
        read_selection(store.slide("a"), "top")


def test_a_selection_of_a_store_with_another_grid_is_refused(tmp_path: Path) -> None:
    stores = []
    for name, step in (("a", 224), ("b", 256)):
        store = FeatureStore.open_or_create(tmp_path / f"{name}.zarr", {"patch_px": step})
        with store.writing():
            corners = np.array([[0, 0], [step, 0], [0, step]], np.int32)
            store.add_slide("s", corners, 3)
            chosen = Selection(np.array([2, 0], np.int32), 1, {"rule": "attention"})
            write_selection(store.slide("s"), "top", chosen)
        stores.append(store)
    read_selection(stores[1].slide("s"), "top")
    shutil.rmtree(tmp_path / "b.zarr" / "s" / "selections")
    shutil.copytree(tmp_path / "a.zarr/s/selections", tmp_path / "b.zarr/s/selections")
    with pytest.raises(
        StoreMismatchError, match=r"made for other patch coordinates .*select again"
    ):
        read_selection(FeatureStore.open(tmp_path / "b.zarr").slide("s"), "top")


def test_a_missing_selection_names_those_there(store: FeatureStore) -> None:
    with store.writing():
        write_selection(store.slide("a"), "top 4", Selection(np.array([1], np.int32), 1, {}))
    require_selection(store, "top 4", ["a"])
    with pytest.raises(StoreMismatchError, match=r"of 1 training slides \('b'\).*: top 4\."):
        require_selection(store, "top 4", ["a", "b"])
