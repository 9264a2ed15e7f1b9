"""Reads a slide of any format through OpenSlide.

A patch is read from the coarsest level that is still as fine as asked for, and resampled from
there. If that level is level 0 at the very resolution asked for, nothing is resampled.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError, OpenSlideUnsupportedFormatError
from PIL import Image
from typing_extensions import override

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.grid import patch_size_level0
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB, require_memory, slide_errors
from histotransfer_pl.slides.outlines import qupath_origin
from histotransfer_pl.slides.pixels import on_white, resample
from histotransfer_pl.slides.resolution import slide_resolution
from histotransfer_pl.slides.tiff_header import check_tiff

LEVEL_TOLERANCE = 0.01
"""A level up to 1 % coarser than asked for still serves: real pyramids have downsamples such as
4.0002 for 4, and the next finer level would cost 16 times the decoding."""

_ROUNDING_PX = 2
"""Pixels by which a side of a level may be off the side of level 0 divided by the downsample."""

_BYTES_PER_PIXEL = 16
"""Of an area while it is read and searched for tissue: RGBA, RGB, mask, numbered pieces."""

_CODECS = {"34712": "JPEG 2000", "50001": "WebP", "50002": "JPEG XL", "52546": "JPEG XL"}

_BLOCK_PX = 1024
"""Side of the blocks, in pixels of the level read, in which a thumbnail is put together: a slide
without a pyramid must not be held in memory as a whole."""


class OpenSlideReader:
    """A slide that OpenSlide opens and reads.

    The file is opened by the process that reads, when it first reads: a reader can be pickled,
    and forked or spawned workers never share a handle. Threads of a process share one.

    Args:
        path: The slide's file, for formats of several files the main one.
        mpp: Micrometres per pixel of level 0, if it is known better than the file does.
        memory_gib: Memory that one step of reading may take.

    Raises:
        SlideError: If the file is missing or no slide.
        MissingMppError: If the resolution is unknown, absurd or differs between x and y.
    """

    def __init__(
        self,
        path: str | Path,
        mpp: float | None = None,
        memory_gib: float = SLIDE_MEMORY_GIB,
    ) -> None:
        self.path = Path(path)
        self.memory_gib = memory_gib
        # Keyed by process, and without a lock: a lock could be held while the process forks.
        self._handles: dict[int, OpenSlide] = {}
        with slide_errors(self.path):
            slide = self._handle()
            self.dimensions_level0: tuple[int, int] = slide.dimensions
            self.properties: dict[str, str] = dict(slide.properties)
            self.level_downsamples: tuple[float, ...] = true_downsamples(slide.level_dimensions)
            self._levels = levels_of_one_picture(slide.level_dimensions)
            self._openslide_downsamples: tuple[float, ...] = slide.level_downsamples
            self.qupath_origin = qupath_origin(self.properties)
            self.mpp: float = slide_resolution(self.path, self.properties, mpp)

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def __enter__(self) -> "OpenSlideReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the file; a later read opens it again."""
        # Not closed by force: another thread may be reading, and the last user frees it.
        self._handles.pop(os.getpid(), None)

    def read_patch(
        self, x_level0: int, y_level0: int, patch_px: int, mpp: float
    ) -> NDArray[np.uint8]:
        """Reads one patch; what lies outside the slide or was not scanned is white.

        Args:
            x_level0: Left edge in level-0 pixels.
            y_level0: Top edge in level-0 pixels.
            patch_px: Side of the patch in its own pixels.
            mpp: Micrometres per pixel of the patch.

        Returns:
            (P, P, 3) uint8 RGB.

        Raises:
            SlideError: If that place of the file cannot be read.
        """
        side = patch_size_level0(patch_px, mpp, self.mpp)
        with slide_errors(self.path):
            return self._read(x_level0, y_level0, (side, side), (patch_px, patch_px))

    def tile_level0(self, patch_px: int, mpp: float) -> tuple[float, float]:
        """Width and height, in level-0 pixels, of the file tiles that such a patch is read from.

        Args:
            patch_px: Side of the patch in its own pixels.
            mpp: Micrometres per pixel of the patch.
        """
        level = self._level(patch_size_level0(patch_px, mpp, self.mpp) / patch_px)
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        width, height = (int(self.properties.get(name, _BLOCK_PX)) for name in names)
        return width * self.level_downsamples[level], height * self.level_downsamples[level]

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """Reads the whole slide at a coarse resolution.

        Pixel (i, j) covers the square of side ``mpp / self.mpp`` level-0 pixels that starts at
        that many times (j, i); the last row and column may reach beyond the slide, into white.

        Args:
            mpp: Micrometres per pixel of the thumbnail.

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            SlideError: If a part of the file cannot be read, or it would take too much memory.
        """
        pixel = patch_size_level0(1, mpp, self.mpp)
        width, height = (max(1, int(np.ceil(n / pixel - 1e-6))) for n in self.dimensions_level0)
        what = f"a thumbnail of {width} x {height} px (tissue.mpp {mpp:g})"
        require_memory(self.path, what, width * height * _BYTES_PER_PIXEL, self.memory_gib)
        with slide_errors(self.path):
            return self._thumbnail(width, height, pixel)

    def _thumbnail(self, width: int, height: int, pixel: float) -> NDArray[np.uint8]:
        """The slide at so many level-0 pixels per pixel, put together block by block."""
        out = np.empty((height, width, 3), np.uint8)
        step = max(1, int(_BLOCK_PX * self.level_downsamples[self._level(pixel)] / pixel))
        for top in range(0, height, step):
            for left in range(0, width, step):
                rows, columns = min(step, height - top), min(step, width - left)
                area = (columns * pixel, rows * pixel)
                block = self._read(left * pixel, top * pixel, area, (columns, rows))
                out[top : top + rows, left : left + columns] = block
        return out

    def _level(self, pixel_level0: float) -> int:
        """The coarsest level whose pixels are no larger than asked for, within tolerance."""
        fitting = [
            level
            for level in self._levels
            if self.level_downsamples[level] <= pixel_level0 * (1 + LEVEL_TOLERANCE)
        ]
        return max(fitting, key=lambda level: self.level_downsamples[level], default=0)

    def _read(
        self, x: float, y: float, area_level0: tuple[float, float], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """One area of the slide as RGB on white (h, w, 3), resampled to a size in pixels."""
        level = self._level(area_level0[0] / size_px[0])
        downsample = self.level_downsamples[level]
        # OpenSlide divides by its own downsample; this lands within half a level-0 pixel.
        scale = self._openslide_downsamples[level] / downsample
        corner = (_nearest(x * scale), _nearest(y * scale))
        width, height = (side / downsample for side in area_level0)
        read_px = (int(np.ceil(width - 1e-6)), int(np.ceil(height - 1e-6)))
        what = f"an area of {read_px[0]} x {read_px[1]} px"
        require_memory(self.path, what, read_px[0] * read_px[1] * _BYTES_PER_PIXEL, self.memory_gib)
        pixels = self._region(corner, level, read_px)
        return resample(pixels, (width, height), size_px)

    def _region(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """An area of a level on white (h, w, 3); the corner in OpenSlide's level-0 pixels."""
        return on_white(self._read_region(corner, level, size))

    def _read_region(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """OpenSlide's pixels, RGBA; after a failure once more through a fresh handle.

        A handle that met one damaged tile fails for ever, and so fails every thread that shares
        it: only a handle of one's own tells whether this very place is damaged.
        """
        handle = self._handle()
        try:
            return handle.read_region(corner, level, size)
        except OpenSlideError:
            if self._handles.get(os.getpid()) is handle:
                self.close()
        fresh = _open(self.path, self.memory_gib)
        try:
            image = fresh.read_region(corner, level, size)
        except OpenSlideError as error:
            raise damaged_tile_error(self.path, corner, level, size, error) from error
        self._handles[os.getpid()] = fresh
        return image

    def _handle(self) -> OpenSlide:
        """This process's handle, opened if there is none."""
        handle = self._handles.get(os.getpid())
        # setdefault is atomic: of two threads that open at once, one handle stays.
        if handle is not None:
            return handle
        return self._handles.setdefault(os.getpid(), _open(self.path, self.memory_gib))


def true_downsamples(dimensions: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """How many times coarser each level is than level 0.

    A scanner halves a level of odd width and rounds. The quotient of the widths, which OpenSlide
    works with, then is 2.0005 where the pixels are exactly twice as large, and drifts from the
    tissue by a pixel over a real slide. So a whole number that explains both sides is taken.

    Returns:
        One number per level, the first 1.
    """
    width, height = dimensions[0]
    downsamples = []
    for level in dimensions:
        quotient = (width / level[0] + height / level[1]) / 2
        whole = round(quotient)
        off = max(abs(width - whole * level[0]), abs(height - whole * level[1]))
        downsamples.append(float(whole) if off < whole else quotient)
    return tuple(downsamples)


def levels_of_one_picture(dimensions: Sequence[tuple[int, int]]) -> list[int]:
    """The levels that show what level 0 shows.

    A TIFF may hold its label as a tiled, reduced page, and OpenSlide then takes it for a level. Its
    sides are not those of the slide divided by one number, to within a few pixels of rounding.
    """
    width, height = dimensions[0]
    return [
        number
        for number, level in enumerate(dimensions)
        if abs(width / level[0] - height / level[1])
        <= max(width, height) / max(level) * (0.01 + _ROUNDING_PX / min(level))
    ]


def _open(path: Path, memory_gib: float) -> OpenSlide:
    """OpenSlide's handle, or one clear error."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise SlideError(f"slide {path} is an empty file; copy it again from its source")
        check_tiff(path, memory_gib)
        slide = OpenSlide(path)
        _require_tiles(path, slide, memory_gib)
        return slide
    except FileNotFoundError as error:
        raise SlideError(f"slide {path} does not exist; check the folder and the name") from error
    except OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"slide {path} is not a whole-slide image that OpenSlide knows (a truncated copy, or "
            "another kind of file?); convert it to a tiled pyramidal TIFF or copy it again"
        ) from error
    except OpenSlideError as error:
        remedy = _conversion(error) or "; copy it again from its source"
        raise SlideError(f"slide {path} cannot be opened: {error}{remedy}") from error
    except SlideError:
        raise
    except OSError as error:
        raise SlideError(f"slide {path} cannot be opened: {error.strerror}") from error


def _require_tiles(path: Path, slide: OpenSlide, memory_gib: float) -> None:
    """Refuse tiles that would take too much memory, in DICOM and other files without TIFF's tables.

    Nothing was decoded so far. OpenSlide takes memory for a tile before it looks at its bytes, and
    glib ends the process when there is none.
    """
    for level in range(slide.level_count):
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        width, height = (int(slide.properties.get(name, 0)) for name in names)
        what = f"a tile of {width} x {height} px"
        require_memory(path, what, width * height * _BYTES_PER_PIXEL, memory_gib)


def damaged_tile_error(
    path: Path, corner: tuple[int, int], level: int, size: tuple[int, int], error: Exception
) -> SlideError:
    """The error of an area that cannot be read."""
    remedy = _conversion(error) or (
        "; the file is damaged there, copy it again from its source or leave the slide out"
    )
    return SlideError(
        f"slide {path} cannot be read at level-0 pixel x={corner[0]}, y={corner[1]} "
        f"(level {level}, {size[0]} x {size[1]} px): {error}{remedy}"
    )


def _conversion(error: Exception) -> str:
    """What to do about a sound file of a kind that OpenSlide does not read; empty for others."""
    found = re.search(r"Unsupported TIFF compression: (\d+)|can not handle", str(error))
    if found is None:
        return ""
    codec = _CODECS.get(found[1], "")
    return (
        f"{f' ({codec})' if codec else ''}; this compression or pixel type is not supported: "
        "convert the slide, for instance with vips tiffsave IN OUT.tif --compression jpeg --tile "
        "--pyramid"
    )


def _nearest(value: float) -> int:
    """The nearest whole number, halves up."""
    return int(np.floor(value + 0.5))
