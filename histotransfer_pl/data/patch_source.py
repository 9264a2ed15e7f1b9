"""Reads patches of slides into arrays.

Worker processes import this module: it knows nothing of torch, whose import takes seconds.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.patch_blocks import Blocks, plan_blocks
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.grid import patch_size_level0
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB
from histotransfer_pl.slides.reader import ReaderName, SlideReader, open_slide
from histotransfer_pl.slides.tiled_file import spent
from histotransfer_pl.store.feature_store import FeatureStore

_OPEN_SLIDES = 4


class SlideFile(NamedTuple):
    """A slide of the store, its file, and micrometres per pixel of its level 0."""

    slide_id: str
    path: Path
    mpp: float


@dataclass
class ReadCost:
    """What reading took, summed over threads or processes.

    Attributes:
        reading: Seconds spent on getting the patches.
        file: Of that, seconds spent on the file.
        decoding: Of that, seconds spent on decoding its tiles; OpenSlide does not say either.
        tiles: Slide, level and number of each tile that was decoded, once for each time.
    """

    reading: float = 0.0
    file: float = 0.0
    decoding: float = 0.0
    tiles: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, other: "ReadCost") -> None:
        """Add what another piece of reading took."""
        self.reading += other.reading
        self.file += other.file
        self.decoding += other.decoding
        self.tiles += other.tiles


class _OpenSlide(NamedTuple):
    reader: SlideReader
    coords: NDArray[np.int32]  # (N, 2)


@dataclass(eq=False)
class PatchSource:
    """Reads patches by row; keeps the last few slides open. Threads may share it.

    Args:
        store: Store with the coordinates.
        settings: The grid.
        reader: Who reads the pixels; see ``ReaderName``.
        memory_gib: Memory that one step of reading a slide may take.
    """

    store: FeatureStore
    settings: GridSettings
    reader: ReaderName = "auto"
    memory_gib: float = SLIDE_MEMORY_GIB
    _open: OrderedDict[str, _OpenSlide] = field(default_factory=OrderedDict, init=False)

    def read_into(
        self, images: NDArray[np.uint8], place: int, slide: SlideFile, rows: Iterable[int]
    ) -> ReadCost:
        """Read one patch after the other.

        Args:
            images: (K, P, P, 3), filled from the front.
            place: What the slide is called in the cost.
            slide: The slide.
            rows: At most K rows of its arrays.

        Raises:
            SlideError: If the slide cannot be opened or read.
        """
        start, file, decoding = time.perf_counter(), spent.file, spent.decoding
        spent.tiles.clear()
        opened = self._opened(slide)
        px, mpp = self.settings.patch_px, self.settings.mpp
        for image, row in zip(images, rows, strict=False):
            x, y = opened.coords[row].tolist()
            image[...] = opened.reader.read_patch(x, y, px, mpp)
        tiles = [(place, level, number) for level, number in spent.tiles]
        seconds = time.perf_counter() - start
        return ReadCost(seconds, spent.file - file, spent.decoding - decoding, tiles)

    def blocks(self, slide: SlideFile) -> Blocks:
        """The rows of a slide, grouped so that each tile of its file is decoded once.

        Raises:
            SlideError: If the slide cannot be opened.
        """
        opened, grid = self._opened(slide), self.settings
        patch, stride = (
            patch_size_level0(px, grid.mpp, slide.mpp)
            for px in (grid.patch_px, grid.patch_px - grid.overlap_px)
        )
        tile = opened.reader.tile_level0(grid.patch_px, grid.mpp)
        return plan_blocks(opened.coords, patch, stride, tile)

    def close(self) -> None:
        """Close the slides that are still open."""
        while self._open:
            self._open.popitem()[1].reader.close()

    def _opened(self, slide: SlideFile) -> _OpenSlide:
        found = self._open.get(slide.slide_id)
        if found is None:
            reader = open_slide(slide.path, slide.mpp, self.reader, self.memory_gib)
            coords = self.store.slide(slide.slide_id).coords()
            # Two threads may open the same slide at once; the first one stays.
            found = self._open.setdefault(slide.slide_id, _OpenSlide(reader, coords))
            while len(self._open) > _OPEN_SLIDES:
                # Threads may still read it: its last reference closes the file.
                self._open.popitem(last=False)
        return found


def stall_reason(path: Path, timeout_s: float) -> str:
    """Why a slide was given up."""
    return (
        f"slide {path} gave nothing for {timeout_s:g} s: look at its disk or network, or wait "
        "longer with data.timeout_s"
    )
