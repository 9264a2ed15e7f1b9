"""Reading everything in a store to find what is damaged, and removing it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.checksum import CHECKSUM, SEAL, Checksum
from histotransfer_pl.store.convert import all_finite
from histotransfer_pl.store.files import Files, is_url, metadata_key
from histotransfer_pl.store.layout import COORDS, FORMAT_VERSION, METADATA, encode_key, rows_of
from histotransfer_pl.store.metadata import ArrayInfo, from_bytes
from histotransfer_pl.store.slide import StoredSlide

_PIECE_BYTES = 1 << 26
_GROUP_KEYS = {"attributes", "zarr_format", "node_type", "consolidated_metadata"}


@dataclass(frozen=True)
class Problem:
    """Something in a store that cannot be trusted."""

    slide_id: str
    array: str
    """Path of the array or group; empty when the slide itself is meant."""
    what: str
    foreign: bool = False
    """Written by another program: not verified, and not removed by a repair."""

    @override
    def __str__(self) -> str:
        place = f"slide {self.slide_id!r}" + (f", {self.array}" if self.array else "")
        return f"{place}: {self.what}"


def verify_slide(slide: StoredSlide, files: Files, version: int = FORMAT_VERSION) -> list[Problem]:
    """Read all arrays of a slide, in pieces, and compare them with what is recorded.

    Returns:
        Wrong checksums, lengths and types, NaN or infinite values, files missing or cut short,
        arrays that are gone.
    """

    def found(array: str, check: Callable[[], Iterator[str]]) -> list[Problem]:
        try:
            return [Problem(slide.slide_id, array, what) for what in check()]
        except Exception as error:  # noqa: BLE001 - whatever damaged bytes raise is the finding
            text = str(error) if isinstance(error, StoreError) else repr(error)
            text = f"cannot be read: {text}" if array else text
            return [Problem(slide.slide_id, array, text)]

    problems = found("", lambda: _slide_problems(slide, files, version))
    if problems:  # its arrays cannot be judged
        return problems
    remote = is_url(files.location)  # there, values without metadata are no array yet
    arrays = [a for a in slide.arrays() if slide.has(a) or not remote]
    arrays = [COORDS] * slide.has(COORDS) + arrays
    for group in sorted({str(p) for a in arrays for p in Path(a).parents if p != Path()}):
        key = metadata_key(encode_key(slide.slide_id), group)
        problems += found(group, lambda key=key: _group_problems(files, key))  # type: ignore[misc]
    for array in arrays:
        wrong = found(array, lambda array=array: _array_problems(slide, array, version))  # type: ignore[misc]
        problems += wrong or _unverified(slide, array)
    gone = sorted(set(slide.contents or []) - set(arrays))
    return problems + [Problem(slide.slide_id, array, "is missing") for array in gone]


def repair_slide(slide: StoredSlide, problems: list[Problem]) -> None:
    """Remove what is broken, so that the extraction makes it again.

    A slide whose metadata or coordinates are broken goes as a whole. What another program wrote
    stays. The store must be open for writing.
    """
    broken = {problem.array for problem in problems if not problem.foreign}
    if broken & {"", COORDS}:
        slide.remove()
        return
    for array in sorted(broken):
        slide.remove(array)


def _slide_problems(slide: StoredSlide, files: Files, version: int) -> Iterator[str]:
    odd = None if is_url(files.location) else _special_file(_folder(slide, files))
    if odd is not None:
        yield f"{odd} is neither file nor folder: it cannot be read"
        return
    if not isinstance(slide.attributes.get("slide_id"), str):
        yield "its group does not say which slide it is"
    if slide.n_patches < 0:
        yield f"its group says it has {slide.n_patches} patches"
    raw = from_bytes(files.read(metadata_key(encode_key(slide.slide_id))), "group", "its group")
    if version > 1 and SEAL not in raw["attributes"]:
        yield "its metadata have lost their checksum"


def _folder(slide: StoredSlide, files: Files) -> Path:
    return Path(files.location) / encode_key(slide.slide_id)


def _special_file(folder: Path) -> Path | None:
    """A pipe, socket or dangling link in a folder: reading it would wait for ever, or fail."""
    for above, _, names in os.walk(folder):
        for name in names:
            path = Path(above) / name
            if not path.is_file():
                return path
    return None


def _group_problems(files: Files, key: str) -> Iterator[str]:
    try:
        document = from_bytes(files.read(key), "group", "it")
    except FileNotFoundError:
        yield f"has lost its {METADATA}"
        return
    unknown = sorted(set(document) - _GROUP_KEYS)
    if unknown:
        yield f"its {METADATA} holds unknown keys: {', '.join(unknown)}"


def _array_problems(slide: StoredSlide, array: str, version: int) -> Iterator[str]:
    info = slide.info(array)
    if version > 1 and CHECKSUM in info.attributes and SEAL not in info.attributes:
        yield "its metadata have lost their checksum"
    yield from _shape_problems(array, info, slide.n_patches)
    yield from _value_problems(slide, array, info)


def _unverified(slide: StoredSlide, array: str) -> list[Problem]:
    if CHECKSUM in slide.info(array).attributes:
        return []
    what = "has no checksum: another program wrote it, it cannot be verified"
    return [Problem(slide.slide_id, array, what, foreign=True)]


def _shape_problems(array: str, info: ArrayInfo, n_patches: int) -> Iterator[str]:
    if array == COORDS and (info.shape[1:] != (2,) or info.dtype != np.int32):
        yield f"is {info.dtype} of shape {info.shape}, expected int32 (N, 2)"
    if array.startswith(("features/", "means/")) and info.dtype.kind != "f":
        yield f"is of type {info.dtype}, expected floating point numbers"
    if rows_of(array, n_patches) not in (None, *info.shape[:1]):
        yield f"has shape {info.shape} for {n_patches} patches"


def _value_problems(slide: StoredSlide, array: str, info: ArrayInfo) -> Iterator[str]:
    recorded = info.attributes.get(CHECKSUM)
    checksum, first_bad = Checksum(recorded), None
    row_bytes = max(1, info.dtype.itemsize * int(np.prod(info.shape[1:])))
    step = max(1, _PIECE_BYTES // row_bytes)
    outside = False
    for start in range(0, info.shape[0], step):
        values = slide.read(array, slice(start, start + step), check=False)  # (K, ...)
        checksum.update(_little_endian_bytes(values))
        if first_bad is None and values.dtype.kind == "f" and not all_finite(values):
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            first_bad = start + int(bad[0])
        if array.startswith("selections/"):
            outside |= bool(((values < 0) | (values >= slide.n_patches)).any())
    if recorded is not None and recorded != checksum.text:
        yield f"its values have changed: checksum {checksum.text}, recorded {recorded}"
    if first_bad is not None:
        yield f"row {first_bad} holds NaN or infinite values"
    if outside:
        yield f"selects rows outside the {slide.n_patches} patches of the slide"


def _little_endian_bytes(values: np.ndarray[Any, np.dtype[Any]]) -> memoryview:
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data
