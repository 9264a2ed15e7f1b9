"""Our ``zarr.json`` is the one zarr-python writes, and only plain arrays are read as bytes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.metadata import (
    array_document,
    from_bytes,
    group_document,
    plain_json,
    plan_layout,
    raw_layout,
    to_bytes,
)

LIMIT = 500_000_000
ATTRIBUTES: dict[str, Any] = {"encoder": "näme", "mean": [0.5, 1.0], "n": 3, "nothing": None}


def _array(**changes: Any) -> bytes:
    layout = plan_layout((5, 3), np.dtype("int32"), LIMIT)
    return to_bytes(array_document(layout, {}) | changes)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(5, 3), (7,), (0, 2), (4, 2, 3)])
def test_an_array_document_is_what_zarr_writes(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    layout = plan_layout(shape, np.dtype(dtype), LIMIT)
    zarr.create_array(
        tmp_path / "a",
        shape=shape,
        chunks=tuple(layout.chunk_shape),
        dtype=dtype,
        compressors=None,
        filters=None,
        attributes=ATTRIBUTES,
    )
    assert to_bytes(array_document(layout, ATTRIBUTES)) == (tmp_path / "a/zarr.json").read_bytes()


def test_a_group_document_is_what_zarr_writes(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g", attributes=ATTRIBUTES)
    assert to_bytes(group_document(ATTRIBUTES)) == (tmp_path / "g/zarr.json").read_bytes()


@pytest.mark.parametrize(
    ("rows", "limit", "chunk_rows", "chunks"),
    [(10, 1000, 10, 1), (10, 80, 10, 1), (10, 79, 5, 2), (10, 30, 3, 4), (10, 1, 1, 10)],
)
def test_large_arrays_are_cut_by_rows(rows: int, limit: int, chunk_rows: int, chunks: int) -> None:
    layout = plan_layout((rows, 4), np.dtype(np.float16), limit)
    assert (layout.chunk_rows, layout.chunks) == (chunk_rows, chunks)
    assert layout.chunks * layout.chunk_rows >= rows


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": BloscCodec()},
        {"shards": (10, 4), "chunks": (5, 4), "compressors": None},
        {"chunks": (10, 2), "compressors": None},
        {"compressors": None, "serializer": BytesCodec(endian="big")},
        {"compressors": None, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
    ids=["compressed", "sharded", "cut by columns", "big-endian", "other chunk names"],
)
def test_other_layouts_are_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    arguments = {"chunks": (10, 4), **options}
    zarr.create_array(tmp_path / "a", shape=(10, 4), dtype="float32", **arguments)
    assert raw_layout(json.loads((tmp_path / "a/zarr.json").read_text())) is None


def test_a_plain_array_of_zarr_is_recognised(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a", shape=(10, 4), chunks=(3, 4), dtype="float16", compressors=None
    )
    layout = raw_layout(json.loads((tmp_path / "a/zarr.json").read_text()))
    assert layout is not None
    assert (layout.shape, layout.chunk_rows, layout.chunks) == ((10, 4), 3, 4)
    assert layout.dtype == np.float16


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), {1, 2}])
def test_attributes_without_json_form_are_refused(value: object) -> None:
    with pytest.raises(StoreError, match="attributes of here cannot be written as JSON"):
        plain_json({"a": value}, "here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "no valid JSON"),
        (b"[]", "not of Zarr format 3"),
        (b'{"zarr_format": 2}', "not of Zarr format 3"),
        (b'{"zarr_format": 3, "node_type": "group"}', "no Zarr array"),
        (b'{"zarr_format": 3, "node_type": "array", "shape": [1]}', "lacks data_type, chunk_grid"),
        (_array(attributes=["x"]), "attributes of slide 'a', coords are damaged"),
        (_array(chunk_grid={}), "codecs or the chunk grid of slide 'a', coords are damaged"),
        (_array(codecs=[]), "codecs or the chunk grid of slide 'a', coords are damaged"),
        (_array(chunk_key_encoding=3), "codecs or the chunk grid of slide 'a', coords are damaged"),
    ],
)
def test_damaged_metadata_is_named(content: bytes, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        from_bytes(content, "array", "slide 'a', coords")


def test_types_and_shapes_without_a_place_are_refused() -> None:
    with pytest.raises(StoreError, match="complex64 cannot be stored"):
        plan_layout((2, 2), np.dtype(np.complex64), LIMIT)
    with pytest.raises(StoreError, match=r"shape \(\) cannot be stored"):
        plan_layout((), np.dtype(np.float32), LIMIT)
