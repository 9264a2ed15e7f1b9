"""Opens slides for reading patches and thumbnails at any resolution.

OpenSlide reads every format. The tiles of plain TIFF and SVS files are decoded directly, which
gives the same pixels in a fraction of the time.
"""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.slides.direct_reader import DirectReader
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB
from histotransfer_pl.slides.openslide_reader import OpenSlideReader

__all__ = ["DirectReader", "OpenSlideReader", "ReaderName", "SlideReader", "open_slide"]

ReaderName = Literal["auto", "openslide", "direct"]
"""``direct`` decodes the tiles of a TIFF or SVS and refuses other files, ``openslide`` leaves
everything to OpenSlide, ``auto`` decodes directly what can be and leaves the rest to OpenSlide."""


class SlideReader(Protocol):
    """What tiling and extraction need of a slide."""

    path: Path
    dimensions_level0: tuple[int, int]
    mpp: float
    memory_gib: float
    qupath_origin: tuple[int, int]

    def read_patch(
        self, x_level0: int, y_level0: int, patch_px: int, mpp: float
    ) -> NDArray[np.uint8]:
        """(P, P, 3) pixels of the square whose top-left corner is that level-0 pixel."""
        ...

    def tile_level0(self, patch_px: int, mpp: float) -> tuple[float, float]:
        """Width and height, in level-0 pixels, of the file tiles that such a patch is read from."""
        ...

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """(h, w, 3) pixels of the whole slide."""
        ...

    def close(self) -> None:
        """Releases the file."""
        ...


def open_slide(
    path: str | Path,
    mpp: float | None = None,
    reader: ReaderName = "auto",
    memory_gib: float = SLIDE_MEMORY_GIB,
) -> OpenSlideReader:
    """Opens a slide; see ``OpenSlideReader`` and ``DirectReader``.

    Args:
        path: The slide's file.
        mpp: Micrometres per pixel of level 0 as the user knows it; wins over the file.
        reader: Who reads the pixels, which are the same.
        memory_gib: Memory that one step of reading may take.

    Raises:
        SlideError: If the file is missing or no slide.
        MissingMppError: If the resolution is unknown, absurd or differs between x and y.
    """
    if reader == "openslide":
        return OpenSlideReader(path, mpp, memory_gib)
    return DirectReader(path, mpp, memory_gib, strict=reader == "direct")
