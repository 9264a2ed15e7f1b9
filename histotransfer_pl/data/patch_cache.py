"""Patches of stored slides by row: each decoded once and kept as long as there is room."""

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.patch_shelf import DiskShelf, MemoryShelf, PatchShelf, Place
from histotransfer_pl.data.tile import check_unmoved, grid_of
from histotransfer_pl.errors import ConfigError, SlideError
from histotransfer_pl.slides.reader import SlideReader, open_slide
from histotransfer_pl.store.joined import Store

_log = logging.getLogger(__name__)
_OPEN_SLIDES = 8


class PatchCache:
    """Reads patches from the slides of a store.

    Args:
        store: Store with coordinates and a grid.
        limit_bytes: Bytes of pixels to keep.
        slides: Files of slides that were moved since the store was made; others are where the
            store says.
        folder: Keep them in files of this folder instead of in memory.

    Attributes:
        unreadable: Reason for each (slide, row) that could not be read.
    """

    def __init__(
        self,
        store: Store,
        limit_bytes: float,
        slides: Mapping[str, Path] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.grid = grid_of(store)
        self.store = store
        self.shelf = self._shelf(limit_bytes, folder)
        self.unreadable: dict[tuple[str, int], str] = {}
        self._slides = dict(slides or {})
        self._open: OrderedDict[str, tuple[SlideReader, NDArray[np.int32]]] = OrderedDict()
        self._lock = threading.Lock()

    def check_slide(self, slide_id: str) -> None:
        """Refuse a slide whose file is not the one that was tiled.

        Raises:
            SlideError: If there is no such file.
            StoreMismatchError: If its content differs.
        """
        check_unmoved(self._path(slide_id), self.store.slide(slide_id).attributes)

    def read(self, slide_id: str, row: int) -> NDArray[np.uint8] | None:
        """A patch (P, P, 3), or None where the file is damaged: recorded, and said once."""
        key = (slide_id, row)
        if key in self.unreadable:
            return None
        kept = self.shelf.get(slide_id, row)
        if kept is not None:
            return kept
        try:
            reader, coords = self._reader(slide_id)
            x, y = (int(value) for value in coords[row])
            patch = reader.read_patch(x, y, self.grid.patch_px, self.grid.mpp)
        except SlideError as error:
            self.unreadable[key] = str(error)
            _log.warning("patch %d of slide %s cannot be read: %s", row, slide_id, error)
            return None
        self.shelf.put(slide_id, row, patch)
        return patch

    def close(self) -> None:
        """Close the files that are still open."""
        self.shelf.close()
        with self._lock:
            while self._open:
                self._open.popitem()[1][0].close()

    def _reader(self, slide_id: str) -> tuple[SlideReader, NDArray[np.int32]]:
        with self._lock:
            found = self._open.get(slide_id)
            if found is None:
                slide = self.store.slide(slide_id)
                mpp = float(slide.fact("slide_mpp"))
                found = open_slide(self._path(slide_id), mpp), slide.coords()
                self._open[slide_id] = found
                while len(self._open) > _OPEN_SLIDES:
                    # Threads may still read it: its last reference closes the file.
                    self._open.popitem(last=False)
            self._open.move_to_end(slide_id)
        return found

    def _shelf(self, limit_bytes: float, folder: Path | None) -> PatchShelf:
        if folder is None:
            return MemoryShelf(limit_bytes)
        try:
            return DiskShelf(folder, limit_bytes, self.grid.patch_px, self._place)
        except OSError as error:
            raise ConfigError(
                f"no patches can be kept in {folder} ({error.strerror}): give a folder that can "
                "be written with data.cache_dir, or take data.cache memory"
            ) from error

    def _place(self, slide_id: str) -> Place:
        """Where a slide's patches are kept: under all that decides about their pixels."""
        slide = self.store.slide(slide_id)
        attributes = slide.attributes
        facts = [
            slide_id,
            {key: attributes["fingerprint"][key] for key in ("size", "quick_hash")},
            slide.fact("slide_mpp"),
            [self.grid.patch_px, self.grid.mpp],
            hashlib.sha256(slide.coords().tobytes()).hexdigest(),
        ]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return Place(f"{digest[:32]}.patches", slide.n_patches)

    def _path(self, slide_id: str) -> Path:
        known = self._slides.get(slide_id)
        return known or Path(str(self.store.slide(slide_id).fact("path")))
