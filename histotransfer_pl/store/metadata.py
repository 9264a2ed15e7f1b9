"""The ``zarr.json`` of groups and arrays: written as zarr-python writes it, read without it.

zarr-python spends 1.3 to 1.5 ms on opening an array; most bags are read in less. The metadata is
public and small, so the common case (one plain, uncompressed, little-endian array cut by rows) is
recognised here and everything else is left to zarr-python.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotransfer_pl.errors import StoreError
from histotransfer_pl.records import record

Json = dict[str, Any]

_NAMES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _NAMES}
_CODECS: list[Json] = [{"name": "bytes", "configuration": {"endian": "little"}}]
_REQUIRED = {
    "group": (),
    "array": ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs"),
}
_NAMED = {"name", "configuration", "must_understand"}
_ONE_BYTE_CODECS: list[Json] = [{"name": "bytes"}]
_WORDS = "{name}: the store has {first}, asked for {second}"


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What an array is, without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: Json


@dataclass(frozen=True, slots=True)
class RawLayout:
    """An array whose chunk files are the array itself, cut by rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk file; the last one is as long as the others, as Zarr wants it."""
        return self.chunk_rows * self.row_bytes

    @property
    def chunks(self) -> int:
        """How many chunk files there are."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def chunk_shape(self) -> list[int]:
        """Rows and width of a chunk."""
        return [self.chunk_rows, *self.shape[1:]]

    def chunk_key(self, index: int) -> str:
        """The file of a chunk, relative to the folder of the array."""
        return "/".join(["c", str(index), *["0"] * (len(self.shape) - 1)])


def plan_layout(shape: tuple[int, ...], dtype: np.dtype[Any], max_chunk_bytes: int) -> RawLayout:
    """One chunk for the whole array, or chunks of equal height when that would be too large."""
    plain = _DTYPES.get(dtype.name)
    if plain is None:
        raise StoreError(
            f"an array of type {dtype} cannot be stored: convert it to one of {', '.join(_DTYPES)}"
        )
    if not shape or any(length < 1 for length in shape[1:]):
        raise StoreError(f"an array of shape {shape} cannot be stored: it has no rows or no width")
    whole = RawLayout(shape, plain, max(1, shape[0]))
    rows_at_most = max(1, max_chunk_bytes // whole.row_bytes)
    pieces = -(-whole.chunk_rows // rows_at_most)
    return RawLayout(shape, plain, -(-whole.chunk_rows // pieces))


def array_document(layout: RawLayout, attributes: Mapping[str, Any]) -> Json:
    """The ``zarr.json`` of an array, key by key what zarr-python writes."""
    one_byte = layout.dtype.itemsize == 1
    return {
        "shape": list(layout.shape),
        "data_type": layout.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": layout.chunk_shape},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if layout.dtype.kind == "f" else 0,
        "codecs": _ONE_BYTE_CODECS if one_byte else _CODECS,
        "attributes": dict(attributes),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def group_document(attributes: Mapping[str, Any]) -> Json:
    """The ``zarr.json`` of a group."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def raw_layout(document: Json) -> RawLayout | None:
    """The layout of an array that can be read as plain bytes, or None for zarr-python's work."""
    dtype = _DTYPES.get(document["data_type"]) if isinstance(document["data_type"], str) else None
    shape = tuple(document["shape"])
    grid = document["chunk_grid"]
    chunk = grid.get("configuration", {}).get("chunk_shape")
    encoding = document["chunk_key_encoding"]
    plain = (
        dtype is not None
        and shape != ()
        and grid["name"] == "regular"
        and chunk[1:] == list(shape[1:])
        and document["codecs"] in (_CODECS, _ONE_BYTE_CODECS)
        and encoding["name"] == "default"
        and encoding.get("configuration", {}).get("separator", "/") == "/"
        and not document.get("storage_transformers")
    )
    if not plain or dtype is None:
        return None
    return RawLayout(shape, dtype, chunk[0])


def array_dtype(document: Json) -> np.dtype[Any] | None:
    """The type of an array's values; None when only zarr-python knows it."""
    name = document["data_type"]
    return _DTYPES.get(name) if isinstance(name, str) else None


def _are_named(document: Json) -> bool:
    """Whether codecs and chunk grid have the form of Zarr 3; zarr-python takes others too."""
    codecs = document["codecs"]
    named = [document["chunk_grid"], document["chunk_key_encoding"]]
    named += codecs if isinstance(codecs, list) and codecs else [None]
    return all(
        isinstance(item, dict) and "name" in item and not set(item) - _NAMED for item in named
    )


def plain_json(attributes: Mapping[str, Any], where: str) -> Json:
    """The attributes as they will be read back: tuples as lists, keys as text."""
    try:
        plain: Json = json.loads(json.dumps(dict(attributes), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the attributes of {where} cannot be written as JSON ({error}): "
            "give text, numbers, lists and dicts only"
        ) from error
    return plain


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], ignore: Collection[str] = ()
) -> str:
    """The settings in which two nested mappings differ, in one line; empty if equal."""
    asked = plain_json(expected, "the settings asked for")
    return "; ".join(record.differences(found, asked, ignore, _WORDS))


def to_bytes(document: Json) -> bytes:
    """A document as the bytes of a ``zarr.json``."""
    return json.dumps(document, indent=2, allow_nan=False).encode()


def from_bytes(content: bytes, node_type: str, where: str) -> Json:
    """The document in the bytes of a ``zarr.json``.

    Args:
        content: The bytes.
        node_type: ``group`` or ``array``, whichever it must be.
        where: What it belongs to, for messages.
    """
    try:
        document = json.loads(content.decode())  # of bytes json guesses the encoding first
    except ValueError as error:
        raise StoreError(
            f"the zarr.json of {where} is no valid JSON ({error}): it is damaged; delete its "
            "folder and extract it again"
        ) from error
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        raise StoreError(f"{where} is not of Zarr format 3: did another program write it?")
    lacking = [key for key in _REQUIRED[node_type] if key not in document]
    if node_type == "array" and not lacking and not _are_named(document):
        raise StoreError(f"the codecs or the chunk grid of {where} are damaged: extract it again")
    if document.get("node_type") != node_type or lacking:
        raise StoreError(
            f"{where} is no Zarr {node_type}"
            + (f" (its zarr.json lacks {', '.join(lacking)})" if lacking else "")
            + ": did another program write it?"
        )
    if not isinstance(document.setdefault("attributes", {}), dict):
        raise StoreError(f"the attributes of {where} are damaged: extract it again")
    return document
