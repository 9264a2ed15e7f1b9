"""Reads a slide by decoding the tiles of its file, where that gives OpenSlide's pixels."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB
from histotransfer_pl.slides.openslide_reader import OpenSlideReader, damaged_tile_error
from histotransfer_pl.slides.tile_codes import OversizedTileError
from histotransfer_pl.slides.tiled_file import MissingTileError, TiledFile

_log = logging.getLogger(__name__)

_TIFF_VENDORS = ("generic-tiff", "aperio")
"""OpenSlide's names of the formats that are nothing but tiles in a TIFF."""

_PROBE_PX = 64
"""Side of the part of a level's first area that OpenSlide reads too."""


class DirectReader(OpenSlideReader):
    """A slide whose tiles are decoded here; what cannot be is read by OpenSlide.

    That is: levels of other kinds, areas that begin between two pixels of their level (OpenSlide
    interpolates there), tiles that do not decode (OpenSlide says why), and levels whose first
    area does not have OpenSlide's pixels.

    Args:
        path: The slide's file.
        mpp: Micrometres per pixel of level 0, if it is known better than the file does.
        memory_gib: Memory that one step of reading may take.
        strict: Refuse a file whose level 0 cannot be decoded here.

    Raises:
        SlideError: If the file is missing, no slide, or refused.
        MissingMppError: If the resolution is unknown, absurd or differs between x and y.
    """

    def __init__(
        self,
        path: str | Path,
        mpp: float | None = None,
        memory_gib: float = SLIDE_MEMORY_GIB,
        *,
        strict: bool = False,
    ) -> None:
        # Keyed by process, as OpenSlide's handles are.
        self._files: dict[int, TiledFile | None] = {}
        self._equal: dict[int, bool] = {}
        super().__init__(path, mpp, memory_gib)
        self._vendor = self.properties.get("openslide.vendor", "")
        self._sizes: list[tuple[int, int]] = list(self._handle().level_dimensions)
        tiled = self._tiled() if strict else None
        if strict and (tiled is None or tiled.levels[0] is None):
            raise SlideError(
                f"slide {self.path} (format {self._vendor}) cannot be decoded directly, which "
                "needs a tiled TIFF or SVS of 8-bit RGB in JPEG or JPEG 2000; use reader auto"
            )

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_files": {}}

    @override
    def close(self) -> None:
        super().close()
        self._files.pop(os.getpid(), None)

    @override
    def _region(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        pixels = self._decoded(corner, level, size) if self._equal.get(level, True) else None
        if pixels is not None and (level in self._equal or self._probe(corner, level, pixels)):
            return pixels
        self._check_tiles(corner, level, size)
        return super()._region(corner, level, size)

    def _decoded(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8] | None:
        """The area from the file's own tiles; None where OpenSlide must read it."""
        x, y = self._place(corner, level)
        tiled = self._tiled()
        if tiled is None or tiled.levels[level] is None or not (x.is_integer() and y.is_integer()):
            return None
        try:
            return tiled.read(level, int(x), int(y), *size)
        except (MissingTileError, OversizedTileError):
            return None  # of these the first is OpenSlide's affair, the second nobody's
        except Exception as error:  # noqa: BLE001 - whatever it is, OpenSlide decides
            _log.info("%s: OpenSlide reads level-0 pixel %s: %s", self.path, corner, error)
            return None

    def _check_tiles(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> None:
        """Keep OpenSlide from tiles that would take all memory: it believes some headers."""
        tiled = self._tiled()
        if tiled is None:
            return
        try:
            tiled.check(level, *self._place(corner, level), *size)
        except OversizedTileError as error:
            raise damaged_tile_error(self.path, corner, level, size, error) from error

    def _place(self, corner: tuple[int, int], level: int) -> tuple[float, float]:
        """A corner in pixels of a level, by the very division that OpenSlide does."""
        # Without a rest it draws whole pixels.
        x, y = (place / self._openslide_downsamples[level] for place in corner)
        return x, y

    def _probe(self, corner: tuple[int, int], level: int, pixels: NDArray[np.uint8]) -> bool:
        """Whether OpenSlide sees the same, in a part that costs little to read.

        A part of one colour proves nothing: the level's next area is looked at too.
        """
        height, width = (min(_PROBE_PX, side) for side in pixels.shape[:2])
        top = left = 0
        downsample = self._openslide_downsamples[level]
        if downsample.is_integer():  # the middle says more than a corner of glass
            top, left = (max(0, side - _PROBE_PX) // 2 for side in pixels.shape[:2])
        place = (corner[0] + left * int(downsample), corner[1] + top * int(downsample))
        seen = super()._region(place, level, (width, height))
        equal = np.array_equal(pixels[top : top + height, left : left + width], seen)
        if not equal or seen.min() != seen.max():
            self._equal[level] = equal
        if not equal:
            _log.warning("%s: OpenSlide reads level %d, its pixels differ", self.path, level)
        return equal

    def _tiled(self) -> TiledFile | None:
        """This process's file, opened if there is none; None for a file of another kind."""
        try:
            return self._files[os.getpid()]
        except KeyError:  # of two threads that open at once, one file stays
            return self._files.setdefault(os.getpid(), self._open_tiled())

    def _open_tiled(self) -> TiledFile | None:
        if self._vendor not in _TIFF_VENDORS:
            return None
        try:
            return TiledFile(self.path, self._sizes, fill_missing=self._vendor != "aperio")
        except Exception as error:  # noqa: BLE001 - whatever it is, OpenSlide decides
            _log.info("%s: OpenSlide reads it, its tiles are not found: %s", self.path, error)
            return None
