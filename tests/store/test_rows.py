"""Rows read from chunk files are the rows NumPy would give."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.rows import Rows, row_index

from .conftest import FEATURES, features_of

N = 23


def _rows() -> st.SearchStrategy[Rows]:
    bound = st.none() | st.integers(-30, 30)
    step = st.none() | st.integers(-4, 4).filter(bool)
    return st.one_of(
        st.builds(slice, bound, bound, step),
        st.lists(st.integers(-N, N - 1), max_size=40).map(lambda x: np.array(x, np.int64)),
        st.lists(st.integers(-N, N - 1), max_size=40),
        st.lists(st.booleans(), min_size=N, max_size=N).map(lambda x: np.array(x, np.bool_)),
        st.lists(st.integers(0, N - 1), max_size=5).map(lambda x: np.array(x, np.uint8)),
    )


def _numpy_rows(rows: Rows) -> Rows:
    return np.array(rows, np.int64) if isinstance(rows, list) else rows


@settings(deadline=None)  # the first example may wait for a busy machine
@given(_rows())
def test_row_index_selects_what_numpy_selects(rows: Rows) -> None:
    everything = np.arange(N)
    assert np.array_equal(everything[row_index(rows, N)], everything[_numpy_rows(rows)])


@pytest.fixture(scope="module", params=[10**9, 100, 12], ids=["1 chunk", "5 chunks", "23 chunks"])
def chunked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rows") / "S.zarr"
    store = FeatureStore.open_or_create(root, None)
    values = np.arange(N * 6, dtype=np.float16).reshape(N, 6)
    with store.writing():
        store.add_slide("s", None, N).write(FEATURES, values, {}, max_chunk_bytes=request.param)
    return root


@settings(deadline=None)  # a disk may be busy
@given(rows=_rows())
def test_reading_rows_is_indexing_the_array(chunked: Path, rows: Rows) -> None:
    values = np.arange(N * 6, dtype=np.float16).reshape(N, 6)
    read = FeatureStore.open(chunked).slide("s").read(FEATURES, rows)
    assert read.dtype == np.float16
    assert np.array_equal(read, values[_numpy_rows(rows)])


def test_what_is_read_may_be_changed(store: FeatureStore) -> None:
    slide = store.slide("a")
    for rows in (None, [1, 2], slice(3)):
        slide.read(FEATURES, rows)[:] = 0
    assert np.array_equal(slide.read(FEATURES), features_of("a"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([17], "row 17 does not exist: the array has 17 rows"),
        ([0, -18], "row -18 does not exist"),
        (np.zeros(3, np.bool_), r"a mask \(17,\)"),
        (np.zeros(3, np.float32), "float32"),
        (np.zeros((2, 2), np.int64), r"shape \(2, 2\)"),
    ],
)
def test_rows_that_do_not_exist_are_named(store: FeatureStore, rows: Rows, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.slide("a").read(FEATURES, rows)


@pytest.mark.parametrize("rows", [None, [3, 1]], ids=["run", "gather"])
def test_a_chunk_that_is_cut_short_or_missing_is_an_error(
    store: FeatureStore, rows: Rows | None
) -> None:
    chunk = store.path / "a" / FEATURES / "c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(StoreError, match="has 203 bytes, its metadata says 204"):
        store.slide("a").read(FEATURES, rows)
    chunk.unlink()
    with pytest.raises(StoreError, match="is missing, so rows of this array are lost"):
        store.slide("a").read(FEATURES, rows)


def test_a_replaced_array_is_noticed_by_an_open_store() -> None:
    with TemporaryDirectory() as folder:
        reader = FeatureStore.open_or_create(Path(folder) / "S.zarr", None)
        writer = FeatureStore.open(reader.path)
        for width in (4, 2, 8):
            # the bytes per row stay the same, so that only the metadata tells them apart
            values = np.arange(24, dtype=f"uint{8 * 8 // width}").reshape(-1, width)[:3]
            with writer.writing():
                slide = writer.add_slide("s", None, 3)
                slide.write(FEATURES, values, {}, overwrite=True)
            assert np.array_equal(reader.slide("s").read(FEATURES), values)
            assert reader.slide("s").read(FEATURES).dtype == values.dtype
