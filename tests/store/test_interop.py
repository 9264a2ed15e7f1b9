"""Any Zarr tool opens the store, and any store that a Zarr tool has rewritten is still read.

The same contract is run over every way in which a store can lie somewhere.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key
from histotransfer_pl.store.verify import verify_slide

from .conftest import ATTENTION, FEATURES, GRID, SELECTION, SLIDES, coords_of, features_of


def test_plain_zarr_reads_everything(store: FeatureStore) -> None:
    root = zarr.open_group(store.path, mode="r", zarr_format=3)
    assert root.attrs["grid"] == GRID
    assert sorted(root.group_keys()) == sorted(map(encode_key, SLIDES))
    for slide_id, n_patches in SLIDES.items():
        group = root[encode_key(slide_id)]
        assert isinstance(group, zarr.Group)
        assert group.attrs["n_patches"] == n_patches
        found = {path: node for path, node in group.members(None) if isinstance(node, zarr.Array)}
        assert set(found) == {"coords", FEATURES, ATTENTION, SELECTION}
        assert np.array_equal(np.asarray(found["coords"][:]), coords_of(slide_id))
        assert np.array_equal(np.asarray(found[FEATURES][:]), features_of(slide_id))
        assert found[FEATURES].attrs["encoder"] == "net"


def _rewrite(store: FeatureStore, shard_rows: int | None = None, **options: Any) -> FeatureStore:
    """What a user does who wants a smaller store: every array again, with other codecs."""
    for slide_id in SLIDES:
        for array in ("coords", FEATURES, ATTENTION, SELECTION):
            folder = store.path / encode_key(slide_id) / array
            old = zarr.open_array(folder, mode="r")
            values, attributes = np.asarray(old[:]), dict(old.attrs)
            shutil.rmtree(folder)
            if shard_rows is not None:
                options["chunks"] = (shard_rows // 2, *values.shape[1:])
                options["shards"] = (shard_rows, *values.shape[1:])
            new = zarr.create_array(
                folder, shape=values.shape, dtype=values.dtype, attributes=attributes, **options
            )
            new[...] = values
    return store


def _compressed(store: FeatureStore) -> FeatureStore:
    return _rewrite(store, compressors=ZstdCodec())


def _sharded(store: FeatureStore) -> FeatureStore:
    return _rewrite(store, shard_rows=6)


def _uncompressed(store: FeatureStore) -> FeatureStore:
    return _rewrite(store, compressors=None, config={"write_empty_chunks": True})


def _as_it_is(store: FeatureStore) -> FeatureStore:
    return store


def _file_url(store: FeatureStore) -> FeatureStore:
    return FeatureStore.open(f"file://{store.path}")


def _memory_url(store: FeatureStore) -> FeatureStore:
    url = f"memory://{uuid.uuid4().hex}/S.zarr"
    fsspec.filesystem("memory").put(str(store.path), url, recursive=True)
    return FeatureStore.open(url)


@pytest.fixture(
    params=[_as_it_is, _uncompressed, _compressed, _sharded, _file_url, _memory_url],
    ids=lambda build: build.__name__[1:],
)
def anywhere(request: pytest.FixtureRequest, store: FeatureStore) -> Iterator[FeatureStore]:
    build: Callable[[FeatureStore], FeatureStore] = request.param
    yield build(store)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


class TestAnywhere:
    """One contract, whatever the codecs and wherever the store lies."""

    def test_it_lists_and_describes(self, anywhere: FeatureStore) -> None:
        assert anywhere.grid == GRID
        assert anywhere.slide_ids() == sorted(SLIDES)
        assert "a" in anywhere
        assert "b" not in anywhere
        slide = anywhere.slide("case 2/slide.svs")
        assert slide.n_patches == 40
        assert slide.arrays() == [ATTENTION, FEATURES, SELECTION]
        assert slide.info(FEATURES).shape == (40, 6)
        assert slide.info(FEATURES).dtype == np.float16
        assert slide.info(FEATURES).attributes["encoder"] == "net"

    def test_it_reads_bags(self, anywhere: FeatureStore) -> None:
        for slide_id in SLIDES:
            slide = anywhere.slide(slide_id)
            assert np.array_equal(slide.coords(), coords_of(slide_id))
            features = slide.read(FEATURES)
            assert features.dtype == np.float16
            assert np.array_equal(features, features_of(slide_id))

    @pytest.mark.parametrize(
        "rows", [slice(3, 9), slice(None, None, -3), [5, -1, 0, 5], np.arange(40) % 3 == 0, []]
    )
    def test_it_reads_rows(self, anywhere: FeatureStore, rows: Any) -> None:
        slide = anywhere.slide("case 2/slide.svs")
        plain = np.array(rows, np.int64) if isinstance(rows, list) else rows
        expected = features_of("case 2/slide.svs")[plain]
        assert np.array_equal(slide.read(FEATURES, rows), expected)
        assert np.array_equal(slide.read(ATTENTION, rows), np.arange(40)[plain])

    def test_it_names_what_is_not_there(self, anywhere: FeatureStore) -> None:
        with pytest.raises(StoreError, match="no slide 'b'"):
            anywhere.slide("b").read(FEATURES)
        with pytest.raises(StoreError, match="'a', attention/other does not exist"):
            anywhere.slide("a").read("attention/other")
        with pytest.raises(StoreError, match="row 17 does not exist"):
            anywhere.slide("a").read(FEATURES, [17])

    def test_it_verifies(self, anywhere: FeatureStore) -> None:
        assert anywhere.verify() == []


def test_a_url_is_read_only(store: FeatureStore) -> None:
    remote = _memory_url(store)
    with (
        pytest.raises(StoreError, match="can only be read: write to a local folder"),
        remote.writing(),
    ):
        pytest.fail("wrote to a URL")
    with pytest.raises(StoreError, match="no store at memory://nowhere"):
        FeatureStore.open("memory://nowhere")


def test_damage_behind_a_codec_is_found(store: FeatureStore) -> None:
    _compressed(store)
    chunk = store.path / "a" / FEATURES / "c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    problems = verify_slide(store.slide("a"), store.files)
    assert [p.array for p in problems] == [FEATURES]


def test_a_chunk_lost_behind_a_codec_is_found(store: FeatureStore) -> None:
    """zarr-python reads it as zeros, without an error: the checksum does not."""
    _compressed(store)
    (store.path / "a" / FEATURES / "c/0/0").unlink()
    assert not store.slide("a").read(FEATURES).any()
    assert "its values have changed" in str(verify_slide(store.slide("a"), store.files)[0])


def test_a_chunk_of_zeros_is_a_file(empty_store: FeatureStore) -> None:
    with empty_store.writing():
        empty_store.add_slide("s", None, 3).write(FEATURES, np.zeros((3, 2), np.float16), {})
    assert (empty_store.path / "s" / FEATURES / "c/0/0").stat().st_size == 12


def test_other_things_in_a_slide_do_not_disturb(store: FeatureStore, tmp_path: Path) -> None:
    """Users put their own arrays beside ours."""
    root = zarr.open_group(store.path, mode="r+")
    root["a"].create_array("my clusters", shape=(17,), dtype="int64")  # type: ignore[union-attr]
    assert store.slide("a").arrays() == [ATTENTION, FEATURES, SELECTION]
    assert store.verify() == []
    assert json.loads((store.path / "a/zarr.json").read_text())["attributes"]["n_patches"] == 17
