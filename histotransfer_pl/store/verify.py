"""Reading everything in a store to find what is damaged."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.checksum import CHECKSUM, Checksum
from histotransfer_pl.store.layout import COORDS
from histotransfer_pl.store.metadata import ArrayInfo
from histotransfer_pl.store.slide import StoredSlide

_PIECE_BYTES = 1 << 26
# What zarr-python and its codecs raise on damaged chunks.
_READ_ERRORS = (OSError, ValueError, RuntimeError, EOFError, zlib.error)


@dataclass(frozen=True)
class Problem:
    """Something in a store that cannot be trusted."""

    slide_id: str
    array: str
    """Path of the array; empty when the slide itself is meant."""
    what: str

    @override
    def __str__(self) -> str:
        place = f"slide {self.slide_id!r}" + (f", {self.array}" if self.array else "")
        return f"{place}: {self.what}"


def verify_slide(slide: StoredSlide) -> list[Problem]:
    """Read all arrays of a slide, in pieces, and compare them with what is recorded.

    Returns:
        Wrong checksums, lengths and types, NaN or infinite values, files missing or cut short.
    """
    try:
        recorded = slide.attributes.get("slide_id")
        n_patches = slide.n_patches
        arrays = [COORDS] * slide.has(COORDS) + slide.arrays()
    except StoreError as error:
        return [Problem(slide.slide_id, "", str(error))]
    problems = []
    if recorded != slide.slide_id:
        problems.append(Problem(slide.slide_id, "", f"its group says it is slide {recorded!r}"))
    for array in arrays:
        problems += [Problem(slide.slide_id, array, w) for w in _wrongs(slide, array, n_patches)]
    return problems


def _wrongs(slide: StoredSlide, array: str, n_patches: int) -> Iterator[str]:
    try:
        info = slide.info(array)
        yield from _shape_wrongs(array, info, n_patches)
        yield from _value_wrongs(slide, array, info, n_patches)
    except _READ_ERRORS as error:
        yield f"cannot be read: {error}"


def _shape_wrongs(array: str, info: ArrayInfo, n_patches: int) -> Iterator[str]:
    if array == COORDS and (info.shape[1:] != (2,) or info.dtype != np.int32):
        yield f"is {info.dtype} of shape {info.shape}, expected int32 (N, 2)"
    if not array.startswith("selections/") and info.shape[:1] != (n_patches,):
        yield f"has shape {info.shape} for {n_patches} patches"


def _value_wrongs(slide: StoredSlide, array: str, info: ArrayInfo, n_patches: int) -> Iterator[str]:
    checksum, first_bad = Checksum(), None
    row_bytes = max(1, info.dtype.itemsize * int(np.prod(info.shape[1:])))
    step = max(1, _PIECE_BYTES // row_bytes)
    outside = False
    for start in range(0, info.shape[0], step):
        values = slide.read(array, slice(start, start + step))  # (K, ...)
        checksum.update(_little_endian_bytes(values))
        if first_bad is None and values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            first_bad = start + int(bad[0]) if bad.size else None
        if array.startswith("selections/"):
            outside |= bool(((values < 0) | (values >= n_patches)).any())
    recorded = info.attributes.get(CHECKSUM)
    if recorded is None:
        yield "has no checksum: another program wrote it, it cannot be verified"
    elif recorded != checksum.text:
        yield f"its values have changed: checksum {checksum.text}, recorded {recorded}"
    if first_bad is not None:
        yield f"row {first_bad} holds NaN or infinite values"
    if outside:
        yield f"selects rows outside the {n_patches} patches of the slide"


def _little_endian_bytes(values: np.ndarray[Any, np.dtype[Any]]) -> memoryview:
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data
