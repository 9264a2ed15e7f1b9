"""Rows are written in any order, checked, and visible only after commit."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import PARTIAL, feature_path, selection_path
from histotransfer_pl.store.verify import verify_slide

from .conftest import ATTENTION, FEATURES

NEW = feature_path("other", "layer1")


@settings(max_examples=15, deadline=None)
@given(
    st.permutations(range(19)),
    st.integers(1, 19),
    st.sampled_from([10**9, 60, 8]),
    st.sampled_from(["float16", "float32"]),
)
def test_rows_assigned_in_any_order_land_in_their_place(
    order: list[int], batch: int, limit: int, dtype: str
) -> None:
    values = np.random.default_rng(0).standard_normal((19, 4)).astype(dtype)
    with TemporaryDirectory() as folder:
        store = FeatureStore.open_or_create(Path(folder) / "S.zarr", None)
        with store.writing():
            slide = store.add_slide("s", None, 19)
            with slide.writer(FEATURES, (19, 4), dtype, {}, max_chunk_bytes=limit) as writer:
                for start in range(0, 19, batch):
                    rows = np.array(order[start : start + batch])
                    writer.assign(rows, values[rows])
                writer.commit()
        assert np.array_equal(slide.read(FEATURES), values)
        with_zarr = zarr.open_array(store.path / "s" / FEATURES, mode="r")
        assert np.array_equal(np.asarray(with_zarr[:]), values)
        assert verify_slide(slide, store.files) == []


def _checksums(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: attributes[name] for name in ("checksum", "seal")}


def test_an_array_is_invisible_until_commit(store: FeatureStore) -> None:
    slide = store.slide("a")
    with store.writing(), slide.writer(NEW, (17, 2), "float32", {"a": 1}) as writer:
        writer.assign(slice(None), np.ones((17, 2)))
        assert not slide.has(NEW)
        assert NEW not in slide.arrays()
        writer.commit()
        assert slide.has(NEW)
    attributes = slide.info(NEW).attributes
    assert attributes == {"a": 1, **_checksums(attributes)}


@pytest.mark.parametrize("missing", [[0], [16], [3, 4, 9]])
def test_commit_refuses_rows_never_assigned(store: FeatureStore, missing: list[int]) -> None:
    rows = np.setdiff1d(np.arange(17), missing)
    with store.writing(), store.slide("a").writer(NEW, (17, 2), "float16", {}) as writer:
        writer.assign(rows, np.ones((len(rows), 2)))
        with pytest.raises(
            StoreError, match=rf"{len(missing)} of 17 rows .* the first is {missing[0]}"
        ):
            writer.commit()
        writer.assign(missing, np.ones((len(missing), 2)))
        writer.commit()
    assert store.slide("a").has(NEW)


def test_leaving_the_block_throws_the_rows_away(store: FeatureStore) -> None:
    slide = store.slide("a")
    with store.writing():
        with slide.writer(NEW, (17, 2), "float16", {}) as writer:
            writer.assign([0], np.ones((1, 2)))
            assert len(list((store.path / PARTIAL).glob("*/*"))) == 1
        assert list((store.path / PARTIAL).glob("*/*")) == []
    assert not slide.has(NEW)
    with pytest.raises(StoreError, match="this writer is closed"):
        writer.assign([0], np.ones((1, 2)))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, "float16", r"slide 'a', features/other/layer1, row 12: the value is nan"),
        (-np.inf, "float32", "row 12: the value is -inf, a finite number was expected"),
        (70_000.0, "float16", r"row 12: 70000.0 does not fit float16 \(largest 6.*store float32"),
        (1e39, "float32", r"row 12: 1e\+39 does not fit float32"),
    ],
)
def test_values_that_would_be_lost_are_refused(
    store: FeatureStore, value: float, dtype: str, message: str
) -> None:
    values = np.ones((3, 2))
    values[1, 1] = value
    with store.writing(), store.slide("a").writer(NEW, (17, 2), dtype, {}) as writer:
        with pytest.raises(StoreError, match=message):
            writer.assign([5, 12, 3], values)
        with pytest.raises(StoreError, match="17 of 17 rows were never assigned"):
            writer.commit()


@pytest.mark.parametrize("values", [np.array([0.5]), np.array([2**40])])
def test_whole_numbers_are_not_rounded(store: FeatureStore, values: NDArray[np.generic]) -> None:
    with store.writing(), pytest.raises(StoreError, match=r"row 0: .* is no int32 number"):
        store.slide("a").write(selection_path("new"), values, {}, dtype="int32")


def test_a_failed_row_of_attention_is_named(store: FeatureStore) -> None:
    values = np.ones(17, np.float32)
    values[16] = np.nan
    with store.writing(), pytest.raises(StoreError, match="row 16: the value is nan"):
        store.slide("a").write(ATTENTION, values, {}, overwrite=True)


@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        ([0, 1], (2, 3), r"values of shape \(2, 3\) for rows of shape \(2, 2\)"),
        ([0, 1], (3, 2), r"values of shape \(3, 2\) for rows of shape \(2, 2\)"),
        ([17], (1, 2), "row 17 does not exist"),
    ],
)
def test_values_that_do_not_fit_the_array_are_refused(
    store: FeatureStore, rows: list[int], shape: tuple[int, ...], message: str
) -> None:
    with (
        store.writing(),
        store.slide("a").writer(NEW, (17, 2), "float16", {}) as writer,
        pytest.raises(StoreError, match=message),
    ):
        writer.assign(rows, np.ones(shape))


def test_rows_are_patches(store: FeatureStore) -> None:
    with store.writing(), pytest.raises(StoreError, match=r"shape \(16, 2\) for 17 patches"):
        store.slide("a").writer(NEW, (16, 2), "float16", {})


def test_an_array_is_replaced_only_on_request(store: FeatureStore) -> None:
    slide, new = store.slide("a"), np.full((17, 6), 2, np.float16)
    with store.writing():
        with pytest.raises(StoreError, match="exists already: pass overwrite=True"):
            slide.write(FEATURES, new, {})
        slide.write(FEATURES, new, {}, overwrite=True)
    assert np.array_equal(slide.read(FEATURES), new)
    assert verify_slide(slide, store.files) == []


def test_several_depths_are_written_side_by_side(store: FeatureStore) -> None:
    slide = store.slide("a")
    paths = [feature_path("deep", f"layer{n}") for n in range(4)]
    with store.writing():
        writers = [slide.writer(p, (17, n + 1), "float16", {}) for n, p in enumerate(paths)]
        for rows in (slice(9, 17), slice(0, 9)):
            for n, writer in enumerate(writers):
                count = rows.stop - rows.start
                writer.assign(rows, np.full((count, n + 1), n))
        for writer in writers:
            writer.commit()
    assert [slide.read(p).mean() for p in paths] == [0, 1, 2, 3]
    assert set(paths) < set(slide.arrays())
    with_zarr = zarr.open_group(store.path / "a/features/deep", mode="r")
    assert sorted(with_zarr.array_keys()) == [f"layer{n}" for n in range(4)]
