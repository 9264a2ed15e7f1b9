"""From any numbers to the stored type, without a silent loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError

_PIECE = 1 << 17
_NO_SIGN, _INFINITY = 0x7FFF, 0x7C00  # bits of IEEE 754 binary16


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value (K, ...) is NaN or infinite.

    Of float16 the bits are compared, in pieces that stay in the processor's cache: those of NaN
    and of infinity, without the sign, are no less than those of infinity. NumPy would make
    float32 of each value first, which takes forty times as long.
    """
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    bits = values.reshape(-1).view(np.uint16)
    pieces = (bits[start : start + _PIECE] for start in range(0, len(bits), _PIECE))
    return all(int((piece & _NO_SIGN).max()) < _INFINITY for piece in pieces)


def convert(
    values: NDArray[Any], dtype: np.dtype[Any], rows: NDArray[np.int64], name: str
) -> NDArray[Any]:
    """The values in the stored type, C-contiguous.

    Args:
        values: Values (K, ...).
        dtype: The stored type.
        rows: Their row numbers (K,), for messages.
        name: Slide and array, for messages.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # both are looked for below
        stored = np.ascontiguousarray(values, dtype=dtype)  # (K, ...)
    if stored.ndim == 0 or stored.size == 0:
        return stored
    if dtype.kind == "f" and all_finite(stored):
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
