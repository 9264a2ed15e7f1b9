"""Reading rows of an array whose chunk files are plain bytes."""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.metadata import RawLayout

Rows = slice | Sequence[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]
"""Which rows of an array: a slice, row numbers in any order, or a mask over all rows."""


def row_index(rows: Rows | None, n_rows: int) -> slice | NDArray[np.int64]:
    """Row numbers from 0 in the order asked for; a slice of step 1 where they are a run.

    Args:
        rows: As NumPy takes them: negative numbers count from the end, repeats are repeated.
        n_rows: Rows of the array.

    Returns:
        ``slice(start, stop)`` with 0 <= start <= stop <= n_rows, or int64 numbers (K,).

    Raises:
        StoreError: A row outside the array, a mask of another length, or no row numbers at all.
    """
    if rows is None:
        return slice(0, n_rows)
    if isinstance(rows, slice):
        span = range(*rows.indices(n_rows))
        if span.step == 1:
            return slice(span.start, max(span.start, span.stop))
        return np.arange(span.start, span.stop, span.step, dtype=np.int64)  # (K,)
    index = np.asarray(rows)  # (K,) or (N,)
    if index.dtype == np.bool_ and index.shape == (n_rows,):
        return np.flatnonzero(index)  # (K,)
    if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size > 0):
        raise StoreError(
            f"rows of type {index.dtype} and shape {index.shape} select nothing in an array of "
            f"{n_rows} rows: give row numbers (K,) or a mask ({n_rows},)"
        )
    index = index.astype(np.int64)  # (K,)
    if index.size and not -n_rows <= index.min() <= index.max() < n_rows:
        wrong = index[(index < -n_rows) | (index >= n_rows)][0]
        raise StoreError(f"row {wrong} does not exist: the array has {n_rows} rows")
    return np.where(index < 0, index + n_rows, index)  # (K,)


def read_raw(folder: str, layout: RawLayout, index: slice | NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array, read straight from its chunk files.

    Args:
        folder: The folder of the array.
        layout: Its layout.
        index: What ``row_index`` gives.

    Returns:
        The rows (K, ...) in a new array.

    Raises:
        StoreError: A chunk file is missing or has another length than the metadata says.
    """
    if isinstance(index, slice):
        return _read_run(folder, layout, index.start, index.stop)
    return _gather(folder, layout, index)


def _read_run(folder: str, layout: RawLayout, start: int, stop: int) -> NDArray[Any]:
    out = np.empty((stop - start, *layout.shape[1:]), layout.dtype)
    view = out.reshape(-1).view(np.uint8).data
    row = start
    while row < stop:
        chunk, offset = divmod(row, layout.chunk_rows)
        end = min(stop, (chunk + 1) * layout.chunk_rows)
        span = slice((row - start) * layout.row_bytes, (end - start) * layout.row_bytes)
        with _chunk_file(folder, layout, chunk) as descriptor:
            _read_into(descriptor, view[span], offset * layout.row_bytes)
        row = end
    return out


def _read_into(descriptor: int, view: memoryview, offset: int) -> None:
    while len(view):  # one call reads 2 GiB at most
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise StoreError("a chunk file became shorter while it was read: read it again")
        view = view[count:]
        offset += count


def _gather(folder: str, layout: RawLayout, index: NDArray[np.int64]) -> NDArray[Any]:
    out = np.empty((len(index), *layout.shape[1:]), layout.dtype)
    chunk_of_row = index // layout.chunk_rows  # (K,)
    for chunk in np.unique(chunk_of_row):
        with _chunk_file(folder, layout, int(chunk)) as descriptor:
            mapped = mmap.mmap(descriptor, layout.chunk_bytes, prot=mmap.PROT_READ)
        # rows lie apart: reading ahead around each would fetch rows nobody asked for
        mapped.madvise(mmap.MADV_RANDOM)
        values = np.frombuffer(mapped, layout.dtype).reshape(layout.chunk_shape)
        if layout.chunks == 1:
            return np.take(values, index, axis=0, out=out, mode="clip")
        here = chunk_of_row == chunk  # (K,)
        out[here] = values[index[here] - chunk * layout.chunk_rows]
    return out


@contextmanager
def _chunk_file(folder: str, layout: RawLayout, chunk: int) -> Iterator[int]:
    path = f"{folder}/{layout.chunk_key(chunk)}"
    try:
        # NONBLOCK: the opening of a pipe would wait for its other end
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} is missing, so rows of this array are lost: extract it again"
        ) from error
    try:
        found = os.fstat(descriptor).st_size
        if found != layout.chunk_bytes:
            raise StoreError(
                f"{path} has {found} bytes, its metadata says {layout.chunk_bytes}: "
                "the array is damaged, extract it again"
            )
        yield descriptor
    finally:
        os.close(descriptor)
