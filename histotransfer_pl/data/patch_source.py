"""Reads patches of slides into batches."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.errors import SlideError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.reader import ReaderName, SlideReader, open_slide
from histotransfer_pl.slides.tiled_file import spent
from histotransfer_pl.store.feature_store import FeatureStore

_OPEN_SLIDES = 4


class PatchBatch(NamedTuple):
    """Patches of one or several slides.

    Attributes:
        patches: (B, P, P, 3) uint8.
        slides: (B,) places in the list of work.
        rows: (B,) rows of the slides' arrays.
        wanted: Arrays that at least one slide of the batch lacks.
        failures: Place and reason of slides that could not be read.
        read_seconds: Time one thread spent on getting the patches.
        file_seconds: Of that, time spent on the file.
        decode_seconds: Of that, time spent on decoding its tiles; OpenSlide does not say either.
    """

    patches: Tensor
    slides: Tensor
    rows: Tensor
    wanted: list[str]
    failures: list[tuple[int, str]]
    read_seconds: float
    file_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """A slide to read: its file, coordinates in the store, and the arrays it lacks."""

    entry: SlideEntry
    n_patches: int
    slide_mpp: float
    missing: tuple[str, ...]


class PatchSource:
    """Reads pieces of slides; keeps the last few slides open."""

    def __init__(
        self,
        store: FeatureStore,
        work: Sequence[Work],
        settings: GridSettings,
        reader: ReaderName = "auto",
    ) -> None:
        self.store = store
        self.work = work
        self.settings = settings
        self.reader: ReaderName = reader
        self._open: OrderedDict[int, tuple[SlideReader, np.ndarray]] = OrderedDict()
        self._failed: set[int] = set()

    def read(self, pieces: Sequence[tuple[int, int, int]]) -> PatchBatch:
        """Read the patches of the pieces; a slide that fails gives a failure instead."""
        start_time, file_before, decode_before = time.perf_counter(), spent.file, spent.decoding
        side = self.settings.patch_px
        images = np.empty((sum(stop - start for _, start, stop in pieces), side, side, 3), np.uint8)
        slides: list[int] = []
        rows: list[int] = []
        failures: list[tuple[int, str]] = []
        for place, start, stop in pieces:
            if place in self._failed:
                continue
            try:
                self._read_into(images[len(rows) :], place, start, stop)
            except SlideError as error:
                # The rest of the slide would be lost work: its arrays must be whole.
                self._failed.add(place)
                failures.append((place, str(error)))
                continue
            slides += [place] * (stop - start)
            rows += range(start, stop)
        wanted = {name for place in set(slides) for name in self.work[place].missing}
        return PatchBatch(
            patches=torch.from_numpy(images[: len(rows)]),  # (B, P, P, 3)
            slides=torch.tensor(slides, dtype=torch.long),  # (B,)
            rows=torch.tensor(rows, dtype=torch.long),  # (B,)
            wanted=sorted(wanted),
            failures=failures,
            read_seconds=time.perf_counter() - start_time,
            file_seconds=spent.file - file_before,
            decode_seconds=spent.decoding - decode_before,
        )

    def close(self) -> None:
        """Close the slides that are still open."""
        while self._open:
            self._open.popitem()[1][0].close()

    def _read_into(self, images: np.ndarray, place: int, start: int, stop: int) -> None:
        reader, coords = self._reader(place)
        px, mpp = self.settings.patch_px, self.settings.mpp
        for image, (x, y) in zip(images, coords[start:stop].tolist(), strict=False):
            image[...] = reader.read_patch(x, y, px, mpp)

    def _reader(self, place: int) -> tuple[SlideReader, np.ndarray]:
        found = self._open.get(place)
        if found is None:
            item = self.work[place]
            reader = open_slide(item.entry.path, item.slide_mpp, self.reader)
            coords = self.store.slide(item.entry.slide_id).coords()
            # Two threads may open the same slide at once; the first one stays.
            found = self._open.setdefault(place, (reader, coords))
            while len(self._open) > _OPEN_SLIDES:
                # Threads may still read it: its last reference closes the file.
                self._open.popitem(last=False)
        return found
