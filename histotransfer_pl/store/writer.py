"""Writing an array row by row, in any order, with memory that does not grow with the array."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.checksum import CHECKSUM, Checksum
from histotransfer_pl.store.convert import convert
from histotransfer_pl.store.failure import write_failure
from histotransfer_pl.store.layout import METADATA
from histotransfer_pl.store.metadata import Json, RawLayout, array_document, plain_json, to_bytes
from histotransfer_pl.store.rows import Rows, row_index

_PIECE_BYTES = 1 << 24


class ArrayWriter:
    """An array that becomes visible at ``commit``, whole and checked.

    Rows are written with ``pwrite`` and not through a memory map: on a full disk a map kills the
    process, ``pwrite`` raises an error that can be told to the user. Use it as a context manager;
    leaving the block without ``commit`` throws the rows away.
    """

    def __init__(
        self,
        name: str,
        staged: Path,
        layout: RawLayout,
        attributes: Mapping[str, Any],
        seal: Callable[[Json], Json],
        publish: Callable[[Path], object],
        where: str,
    ) -> None:
        """Start an array; called by ``StoredSlide.writer``."""
        self._name = name
        self._staged = staged
        self._layout = layout
        self._attributes = plain_json(attributes, name)
        self._seal = seal
        self._publish = publish
        self._where = where
        self._descriptors: dict[int, int] = {}
        self._assigned = np.zeros(layout.shape[0], dtype=np.bool_)  # (N,)
        self._open = True

    def assign(self, rows: Rows, values: NDArray[Any]) -> None:
        """Set rows; a row that is set twice keeps the later values.

        Args:
            rows: Row numbers (K,), a slice, or a mask (N,).
            values: Their values (K, ...), converted to the type of the array.

        Raises:
            StoreError: Rows or values that do not fit the array, values that are not finite or
                do not fit its type, a full disk, or a writer that is closed.
        """
        self._check_open()
        index = row_index(rows, self._layout.shape[0])
        numbers = np.arange(index.start, index.stop) if isinstance(index, slice) else index  # (K,)
        expected = (len(numbers), *self._layout.shape[1:])
        if values.shape != expected:
            raise StoreError(
                f"{self._name}: values of shape {values.shape} for rows of shape {expected}"
            )
        plain = convert(values, self._layout.dtype, numbers, self._name)  # (K, ...)
        raw = plain.reshape(-1).view(np.uint8).data
        try:
            for first, count, taken in self._runs(numbers):
                self._write_run(first, raw[taken : taken + count * self._layout.row_bytes])
        except OSError as error:
            self.abort()
            raise write_failure(error, self._name, self._where) from error
        self._assigned[numbers] = True

    def commit(self) -> None:
        """Make the array visible, with its checksum."""
        self._check_open()
        missing = np.flatnonzero(~self._assigned)  # (K,)
        if missing.size:
            raise StoreError(
                f"{self._name}: {missing.size} of {len(self._assigned)} rows were never assigned, "
                f"the first is {missing[0]}: assign every row before commit"
            )
        try:
            checksum = self._finish_chunks()
            attributes = {**self._attributes, CHECKSUM: checksum}
            document = self._seal(array_document(self._layout, attributes))
            (self._staged / METADATA).write_bytes(to_bytes(document))
            self._publish(self._staged)
        except OSError as error:
            raise write_failure(error, self._name, self._where) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Throw away what was written; nothing happens after ``commit``."""
        self._open = False
        for descriptor in self._descriptors.values():
            with suppress(OSError):  # what was written is thrown away
                os.close(descriptor)
        self._descriptors.clear()
        with suppress(FileNotFoundError):  # published, or never begun
            shutil.rmtree(self._staged)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(f"{self._name}: this writer is closed, open a new one")

    def _runs(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Runs of rows that lie together in one chunk file: first row, count, byte in values."""
        if numbers.size == 0:
            return
        new_chunk = numbers[1:] % self._layout.chunk_rows == 0  # (K - 1,)
        cuts = np.flatnonzero((np.diff(numbers) != 1) | new_chunk) + 1
        starts = [0, *cuts.tolist(), numbers.size]
        for start, stop in itertools.pairwise(starts):
            yield int(numbers[start]), stop - start, start * self._layout.row_bytes

    def _write_run(self, first_row: int, raw: memoryview) -> None:
        chunk, offset_rows = divmod(first_row, self._layout.chunk_rows)
        descriptor = self._descriptor(chunk)
        offset = offset_rows * self._layout.row_bytes
        while len(raw):
            count = os.pwrite(descriptor, raw, offset)
            raw = raw[count:]
            offset += count

    def _descriptor(self, chunk: int) -> int:
        if chunk not in self._descriptors:
            path = self._staged / self._layout.chunk_key(chunk)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptors[chunk] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        return self._descriptors[chunk]

    def _finish_chunks(self) -> str:
        checksum = Checksum()
        left = self._layout.shape[0] * self._layout.row_bytes
        for chunk in range(self._layout.chunks):
            descriptor = self._descriptor(chunk)
            for offset in range(0, min(left, self._layout.chunk_bytes), _PIECE_BYTES):
                end = min(left, self._layout.chunk_bytes, offset + _PIECE_BYTES)
                checksum.update(os.pread(descriptor, end - offset, offset))
            left -= self._layout.chunk_bytes
            os.ftruncate(descriptor, self._layout.chunk_bytes)  # Zarr's last chunk is full-sized
            os.close(self._descriptors.pop(chunk))
        return checksum.text
