"""The JPEG and JPEG 2000 tiles of a TIFF, decoded without OpenSlide.

OpenSlide spends four fifths of a read on drawing, not on decoding. Here only the tiles that an
area touches are read and decoded, once, and copied into place; the codecs are the same libraries
that OpenSlide uses (libjpeg-turbo, OpenJPEG), so the pixels are equal.
"""

import os
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from histotransfer_pl.slides.tile_codes import (
    Frame,
    OversizedTileError,
    TileCodeError,
    jpeg2000_frame,
    jpeg_frame,
    jpeg_tables,
)

TILE_CACHE_BYTES = 64 * 1024**2
"""Decoded tiles kept per open slide: a row of tiles over 87,000 pixels of tissue, which the next
row of patches needs again."""

_JPEG = 7
_JPEG2000_RGB = 33005
_ADOBE_MARK = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_COLOURS = {2: b"\x00", 6: b"\x01"}
"""How Adobe's mark in a JPEG says what TIFF's photometric interpretation says: RGB, YCbCr."""


class ReadTimings(threading.local):
    """Seconds that this thread has spent on tiles, by what it did, and the tiles it decoded."""

    file: float = 0.0
    decoding: float = 0.0

    def __init__(self) -> None:
        self.tiles: list[tuple[int, int]] = []
        """Level and number of each decoded tile; whoever counts them empties the list."""


spent = ReadTimings()


class MissingTileError(Exception):
    """A tile without data in a file whose format fills it from a finer level."""


@dataclass(frozen=True, eq=False)
class TileGrid:
    """Where the tiles of one level lie in the file, and how they are coded."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.int64]  # (T,)
    counts: NDArray[np.int64]  # (T,), 0 where a tile is missing
    jpeg_head: bytes
    """What each JPEG tile begins with: colours, and tables that the file holds once; empty for
    JPEG 2000."""

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.tile_width)

    def tiles_in_area(self, x: int, y: int, right: int, bottom: int) -> Iterator[tuple[int, int]]:
        """Rows and columns of the tiles that lie in an area of the level."""
        rows = range(
            max(y, 0) // self.tile_height, -(-min(bottom, self.height) // self.tile_height)
        )
        columns = range(max(x, 0) // self.tile_width, -(-min(right, self.width) // self.tile_width))
        return product(rows, columns)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """The pixels of a tile (tile_height, tile_width, 3).

        Raises:
            ValueError: If the data is damaged or a tile of another size.
            OversizedTileError: If it promises more pixels than a tile has.
        """
        pixels: NDArray[np.uint8]
        if self.jpeg_head:
            frame, plain = jpeg_frame(data)
            self._check(frame)
            # Strict: what libjpeg only warns of is grey instead of tissue.
            pixels = simplejpeg.decode_jpeg(self.jpeg_head + plain, strict=True)
        else:
            self._check(jpeg2000_frame(data))
            try:
                pixels = imagecodecs.jpeg2k_decode(data)
            except imagecodecs.Jpeg2kError as error:
                raise ValueError(str(error)) from error
        if pixels.shape != (self.tile_height, self.tile_width, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"a tile of {pixels.shape} {pixels.dtype}")
        return pixels

    def check(self, data: bytes) -> None:
        """Refuse a tile that no decoder may see; one whose header cannot be read is harmless.

        Raises:
            OversizedTileError: If it promises more pixels than a tile has.
        """
        try:
            self._check(jpeg_frame(data)[0] if self.jpeg_head else jpeg2000_frame(data))
        except TileCodeError:
            return

    def _check(self, frame: Frame) -> None:
        found = f"a tile of {frame.width} x {frame.height} px and {frame.channels} channels"
        if frame.width * frame.height > self.tile_width * self.tile_height:
            raise OversizedTileError(f"{found} for {self.tile_width} x {self.tile_height} px")
        if frame != (self.tile_width, self.tile_height, 3):
            raise TileCodeError(found)


class TiledFile:
    """An open TIFF; threads may share it, processes may not.

    Args:
        path: The file.
        sizes: Width and height of each level, the finest first, as OpenSlide sees them.
        fill_missing: Whether a tile without data is white at every level. Aperio's are only at
            level 0; above, OpenSlide paints the finer level there.

    Raises:
        OSError: If the file cannot be opened.
    """

    def __init__(
        self, path: Path, sizes: list[tuple[int, int]], *, fill_missing: bool = True
    ) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        # Closed by the last user: another thread may be reading when the slide is closed.
        weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size
        self._fill_missing = fill_missing
        self.levels: list[TileGrid | None] = find_levels(path, sizes)
        # In order of use. A process that forks opens the file anew, so that it never waits for
        # a lock that another process's thread holds.
        self._decoded: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._coming: dict[tuple[int, int], threading.Lock] = {}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """An area of a level; white outside of it and where a tile is missing.

        Args:
            level: A level that has a grid.
            x: Left edge in pixels of the level.
            y: Top edge in pixels of the level.
            width: Width of the area.
            height: Height of the area.

        Returns:
            (height, width, 3) uint8 RGB.

        Raises:
            ValueError: If a tile is damaged.
            OSError: If the file cannot be read.
            MissingTileError: If only OpenSlide knows what to paint for a missing tile.
        """
        grid = self.levels[level]
        if grid is None:
            raise ValueError(f"level {level} has no tiles that can be decoded here")
        right, bottom = x + width, y + height
        inside = x >= 0 and y >= 0 and right <= grid.width and bottom <= grid.height
        shape = (height, width, 3)
        out = np.empty(shape, np.uint8) if inside else np.full(shape, 255, np.uint8)
        for row, column in grid.tiles_in_area(x, y, right, bottom):
            dy, dx = row * grid.tile_height, column * grid.tile_width
            top, end = max(y, dy), min(bottom, dy + grid.tile_height, grid.height)
            left, stop = max(x, dx), min(right, dx + grid.tile_width, grid.width)
            target = out[top - y : end - y, left - x : stop - x]
            tile = self._tile(level, grid, row * grid.columns + column)
            if tile is None:
                target[...] = 255
            else:
                target[...] = tile[top - dy : end - dy, left - dx : stop - dx]
        return out

    def check(self, level: int, x: float, y: float, width: int, height: int) -> None:
        """Look at the headers of the tiles that another reader is about to decode.

        Raises:
            OversizedTileError: If one promises more pixels than a tile has.
            OSError: If the file cannot be read.
        """
        grid = self.levels[level]
        if grid is None:
            return
        # Between two pixels OpenSlide touches those around them too.
        right, bottom = int(x) + width + 1, int(y) + height + 1
        for row, column in grid.tiles_in_area(int(x) - 1, int(y) - 1, right, bottom):
            number = row * grid.columns + column
            count = int(grid.counts[number])
            if count and (level, number) not in self._decoded:
                grid.check(
                    os.pread(self._descriptor, min(count, self._size), int(grid.offsets[number]))
                )

    def _tile(self, level: int, grid: TileGrid, number: int) -> NDArray[np.uint8] | None:
        """A decoded tile; None for a missing one."""
        key = (level, number)
        count = int(grid.counts[number])
        if count == 0:
            if level and not self._fill_missing:
                raise MissingTileError
            return None
        # Of the threads that need a tile, one decodes it and the others wait for it.
        with self._coming.setdefault(key, threading.Lock()):
            tile = self._decoded.pop(key, None)
            if tile is None:
                tile = self._load(grid, number, count)
                spent.tiles.append(key)
            self._decoded[key] = tile  # now the last one used
        while len(self._decoded) * tile.nbytes > TILE_CACHE_BYTES:
            self._forget_oldest()
        return tile

    def _load(self, grid: TileGrid, number: int, count: int) -> NDArray[np.uint8]:
        start = time.perf_counter()
        data = os.pread(self._descriptor, min(count, self._size), int(grid.offsets[number]))
        if len(data) < count:
            raise ValueError("a tile that reaches beyond the end of the file")
        read = time.perf_counter()
        tile = grid.decode(data)
        spent.file += read - start
        spent.decoding += time.perf_counter() - read
        return tile

    def _forget_oldest(self) -> None:
        try:
            oldest = next(iter(self._decoded))
            del self._decoded[oldest]
            self._coming.pop(oldest, None)
        except (KeyError, StopIteration, RuntimeError):
            return  # another thread was faster


def find_levels(path: Path, sizes: list[tuple[int, int]]) -> list[TileGrid | None]:
    """The tiles of each level; None for a level that is not plain 8-bit RGB in a known codec."""
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
        grids = [grid for grid in map(_grid, pages) if grid is not None]
    found: list[TileGrid | None] = []
    for size in sizes:
        same = [grid for grid in grids if (grid.width, grid.height) == size]
        # Two pages of one size: which of them OpenSlide takes is its own affair.
        found.append(same[0] if len(same) == 1 else None)
    return found


def _grid(page: tifffile.TiffPage) -> TileGrid | None:
    """The tiles of a page, if they can be decoded here."""
    compression, photometric = int(page.compression), int(page.photometric)
    plain = (
        page.is_tiled
        and page.bitspersample == 8
        and page.samplesperpixel == 3
        and page.planarconfig == 1
        and page.imagedepth == 1
        and compression in (_JPEG, _JPEG2000_RGB)
        and photometric in _COLOURS
    )
    if not plain:
        return None
    return TileGrid(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        offsets=np.asarray(page.dataoffsets, np.int64),
        counts=np.asarray(page.databytecounts, np.int64),
        jpeg_head=_jpeg_head(page) if compression == _JPEG else b"",
    )


def _jpeg_head(page: tifffile.TiffPage) -> bytes:
    """The start of every JPEG of a page: its colours and the tables that all tiles share."""
    mark = _ADOBE_MARK + _COLOURS[int(page.photometric)]
    return b"\xff\xd8" + mark + jpeg_tables(page.jpegtables or b"")
