"""Where decoded patches are kept: in memory, or in files that the next run finds again."""

import logging
import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

_log = logging.getLogger(__name__)
_OPEN_FILES = 64
_MARK = struct.Struct("<Q")
_WRITTEN = 1 << 32


class PatchShelf(Protocol):
    """Keeps patches (P, P, 3) by slide and row; safe to use from several threads."""

    def get(self, slide_id: str, row: int) -> NDArray[np.uint8] | None:
        """The patch, or None if it is not kept."""
        ...

    def put(self, slide_id: str, row: int, patch: NDArray[np.uint8]) -> None:
        """Keep a patch, if there is room."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class MemoryShelf(PatchShelf):
    """Keeps what comes first, up to a limit.

    Training and evaluation go through the same patches in turn: a shelf that drops the oldest
    would then never hold the one that is asked for.

    Args:
        limit_bytes: Bytes of pixels to keep.
    """

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes = limit_bytes
        self._kept: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @override
    def get(self, slide_id: str, row: int) -> NDArray[np.uint8] | None:
        return self._kept.get((slide_id, row))

    @override
    def put(self, slide_id: str, row: int, patch: NDArray[np.uint8]) -> None:
        key = (slide_id, row)
        with self._lock:
            if self._bytes + patch.nbytes <= self.limit_bytes and key not in self._kept:
                self._kept[key] = patch
                self._bytes += patch.nbytes

    @override
    def close(self) -> None:
        return


class Place(NamedTuple):
    """The file of a slide: its name, which tells its content apart from any other, and its rows."""

    name: str
    n_patches: int


class DiskShelf(PatchShelf):
    """Keeps patches in one file per slide, for this run, those beside it and those after it.

    A file begins with a mark for each row, 0 until the patch is there, then the checksum of its
    pixels; behind it lie the pixels, uncompressed. The mark is written after the pixels and
    checked against them, so a patch is there whole or not at all, whoever was killed in between.
    Patches that were never asked for take no room.
    """

    def __init__(
        self, folder: Path, limit_bytes: float, patch_px: int, place: Callable[[str], Place]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._shape = (patch_px, patch_px, 3)
        self._patch_bytes = patch_px * patch_px * 3
        self._place = place
        self._left = limit_bytes - sum(p.stat().st_blocks * 512 for p in folder.iterdir())
        self._files: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()

    @override
    def get(self, slide_id: str, row: int) -> NDArray[np.uint8] | None:
        with self._lock:
            file, first = self._file(slide_id)
            (mark,) = _MARK.unpack(os.pread(file, _MARK.size, row * _MARK.size))
            if not mark:
                return None
            pixels = os.pread(file, self._patch_bytes, first + row * self._patch_bytes)
        if mark != _mark(pixels):
            return None  # a power cut kept the mark and lost the pixels
        return np.frombuffer(pixels, np.uint8).reshape(self._shape)  # (P, P, 3)

    @override
    def put(self, slide_id: str, row: int, patch: NDArray[np.uint8]) -> None:
        pixels = patch.tobytes()
        with self._lock:
            if self._left < len(pixels):
                return
            try:
                file, first = self._file(slide_id)
                _write(file, pixels, first + row * self._patch_bytes)
                _write(file, _MARK.pack(_mark(pixels)), row * _MARK.size)
            except OSError as error:
                self._left = 0
                _log.warning("%s takes no more patches (%s): reading slides", self.folder, error)
                return
            self._left -= len(pixels)

    @override
    def close(self) -> None:
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1][0])

    def _file(self, slide_id: str) -> tuple[int, int]:
        """The open file of a slide, and where its pixels begin."""
        found = self._files.get(slide_id)
        if found is None:
            place = self._place(slide_id)
            first = place.n_patches * _MARK.size
            file = os.open(self.folder / place.name, os.O_RDWR | os.O_CREAT, 0o666)
            os.ftruncate(file, first + place.n_patches * self._patch_bytes)
            found = self._files[slide_id] = (file, first)
            while len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1][0])
        self._files.move_to_end(slide_id)
        return found


def _mark(pixels: bytes) -> int:
    return _WRITTEN | zlib.crc32(pixels)


def _write(file: int, content: bytes, offset: int) -> None:
    written = os.pwrite(file, content, offset)
    if written < len(content):
        raise OSError(f"only {written} of {len(content)} bytes could be written")
