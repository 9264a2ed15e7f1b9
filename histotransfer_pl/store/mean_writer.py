"""The mean over the rows of an array that is not stored itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.writer import ArrayWriter


class MeanWriter:
    """Takes the rows that ``ArrayWriter`` would take, and stores their mean.

    Args:
        writer: Of the array (1, D) for the mean.
        rows: How many rows there are.
        width: Their width D.
    """

    def __init__(self, writer: ArrayWriter, rows: int, width: int) -> None:
        self._writer = writer
        self._sums = np.zeros(width)  # (D,) float64: a slide has up to a million patches
        self._assigned = np.zeros(rows, np.bool_)  # (N,)

    def assign(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Add rows.

        Args:
            rows: Row numbers (K,), each only once.
            values: Their values (K, D).
        """
        if self._assigned[rows].any():
            raise StoreError(f"row {rows[self._assigned[rows]][0]} came twice into a mean")
        self._assigned[rows] = True
        self._sums += values.sum(0, dtype=np.float64)

    def commit(self) -> None:
        """Store the mean, once all rows are there."""
        if not self._assigned.all():
            raise StoreError(f"row {np.flatnonzero(~self._assigned)[0]} is missing in a mean")
        mean = self._sums / len(self._assigned)  # (D,)
        self._writer.assign(slice(0, 1), mean[None])
        self._writer.commit()

    def abort(self) -> None:
        """Store nothing."""
        self._writer.abort()
