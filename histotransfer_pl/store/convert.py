"""From any numbers to the stored type, without a silent loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError


def convert(
    values: NDArray[Any], dtype: np.dtype[Any], rows: NDArray[np.int64], name: str
) -> NDArray[Any]:
    """The values in the stored type, C-contiguous.

    Args:
        values: Values (K, ...).
        dtype: The stored type.
        rows: Their row numbers (K,), for messages.
        name: Slide and array, for messages.

    Raises:
        StoreError: NaN or infinite values, numbers too large for the type, fractions or
            overflow on the way to whole numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # both are looked for below
        stored = np.ascontiguousarray(values, dtype=dtype)  # (K, ...)
    if stored.ndim == 0 or stored.size == 0:
        return stored
    fits = np.isfinite(stored) if dtype.kind == "f" else stored == values  # (K, ...)
    if fits.all():
        return stored
    bad = ~fits.reshape(len(stored), -1).all(axis=1)  # (K,)
    first = int(np.flatnonzero(bad)[0])
    worst = values[first][~fits[first]].ravel()[0] if values.ndim > 1 else values[first]
    raise StoreError(f"{name}, row {rows[first]}: {_explain(worst, dtype)}")


def _explain(value: Any, dtype: np.dtype[Any]) -> str:
    if dtype.kind != "f":
        return f"{value} is no {dtype.name} number, and rounding would change it"
    if not np.isfinite(value):
        return (
            f"the value is {value}, a finite number was expected: look at the slide's patch there "
            "and at the encoder's weights, or compute in bf16 or float32 instead of float16"
        )
    largest = np.finfo(dtype).max
    return f"{value} does not fit {dtype.name} (largest {largest}): store float32 instead"
