"""Slides to patch coordinates in the store."""

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.errors import ConfigError, SlideError, StoreMismatchError
from histotransfer_pl.records.files import replacing, sha256_of
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.files import fingerprint, unicode_twin
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB, slide_errors
from histotransfer_pl.slides.qc import draw_qc, is_whole_png, sharp_thumbnail
from histotransfer_pl.slides.reader import ReaderName
from histotransfer_pl.slides.tiling import TiledSlide, tile_slide
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.joined import Store
from histotransfer_pl.store.layout import encode_key
from histotransfer_pl.store.slide import StoredSlide

_log = logging.getLogger(__name__)

State = Literal["done", "skipped", "no tissue", "failed"]


@dataclass
class SlideOutcome:
    """What became of a slide in a run.

    Attributes:
        slide_id: Its name.
        state: ``skipped`` means that everything asked for was in the store already.
        n_patches: Patches of its grid.
        seconds: Time spent on it.
        reason: Why it failed or has no patch; empty otherwise.
    """

    slide_id: str
    state: State
    n_patches: int = 0
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class TileJob:
    """What tiling needs to know besides the slide.

    Attributes:
        store: Where coordinates go.
        settings: The grid.
        slide_mpp: Micrometres per pixel of level 0 for slides that neither the cohort nor the
            file gives one.
        qc_folder: Where thumbnails with tissue outline and grid go; None draws none.
        masks: Folder of ``<slide_id>.geojson`` tissue outlines that replace the detection.
        reader: Who reads the pixels; see ``ReaderName``.
        memory_gib: Memory that one step of reading a slide may take.
    """

    store: FeatureStore
    settings: GridSettings
    slide_mpp: float | None = None
    qc_folder: Path | None = None
    masks: Path | None = None
    reader: ReaderName = "auto"
    memory_gib: float = SLIDE_MEMORY_GIB

    def run(self, entry: SlideEntry) -> SlideOutcome:
        """Tile one slide; a slide that cannot be read is an outcome, not an error."""
        start = time.perf_counter()
        try:
            outcome = self._tile(entry)
        except (SlideError, StoreMismatchError) as error:
            outcome = SlideOutcome(entry.slide_id, "failed", reason=str(error))
        outcome.seconds = time.perf_counter() - start
        return outcome

    def _tile(self, entry: SlideEntry) -> SlideOutcome:
        entry.require_sound()
        if entry.slide_id in self.store:
            return self._known(entry)
        with slide_errors(entry.path):
            mark = fingerprint(entry.path)
            outline = self._outline(entry.slide_id)
            tiled, shown = self._read(entry, outline)
            attributes = self._attributes(entry, tiled, mark, outline)
        n = len(tiled.coords)
        self.store.add_slide(entry.slide_id, tiled.coords, n, attributes)
        self._draw(entry, tiled, shown)
        return SlideOutcome(entry.slide_id, "done" if n else "no tissue", n, reason=tiled.reason)

    def _read(
        self, entry: SlideEntry, outline: Path | None
    ) -> tuple[TiledSlide, NDArray[np.uint8] | None]:
        """The patches of a slide, and the slide as its picture shows it."""
        with closing(entry.open(self.slide_mpp, self.reader, self.memory_gib)) as reader:
            tiled = tile_slide(reader, self.settings, outline)
            return tiled, None if self.qc_folder is None else sharp_thumbnail(reader)

    def _known(self, entry: SlideEntry) -> SlideOutcome:
        """A slide of the store; file, resolution and outline must be those it was tiled with."""
        slide = self.store.slide(entry.slide_id)
        mark = check_unmoved(entry.path, slide.attributes)
        self._check_same(entry, slide.attributes)
        if self.qc_folder is not None and not is_whole_png(self._picture(entry)):
            self._draw_again(entry, slide.coords())
        place = os.path.abspath(entry.path)  # noqa: PTH100 - as the store says it
        if mark != slide.attributes["fingerprint"] or place != slide.attributes["path"]:
            slide.renew({"path": place, "fingerprint": mark})
        reason = str(slide.attributes.get("reason", ""))
        state: State = "skipped" if slide.n_patches else "no tissue"
        return SlideOutcome(entry.slide_id, state, slide.n_patches, reason=reason)

    def _draw_again(self, entry: SlideEntry, coords: NDArray[np.int32]) -> None:
        """The picture of a slide that was tiled before, with the patches that the store has."""
        try:
            tiled, shown = self._read(entry, self._outline(entry.slide_id))
        except SlideError as error:
            _log.warning("%s: its picture cannot be drawn: %s", entry.slide_id, error)
        else:
            self._draw(entry, replace(tiled, coords=coords), shown)

    def _draw(self, entry: SlideEntry, tiled: TiledSlide, shown: NDArray[np.uint8] | None) -> None:
        """Write the slide's picture, whole or not at all; the next run draws what is missing."""
        if self.qc_folder is None:
            return
        try:
            with replacing(self._picture(entry)) as aside:
                # Level 1: a quarter of the time of level 6, which tiling of small slides is about,
                # for 30 % more bytes.
                draw_qc(tiled, entry.slide_id, shown).save(aside, "PNG", compress_level=1)
        except OSError as error:
            _log.warning("%s: its picture cannot be written: %s", entry.slide_id, error)

    def _picture(self, entry: SlideEntry) -> Path:
        return Path(str(self.qc_folder)) / f"{encode_key(entry.slide_id)}.png"

    def _check_same(self, entry: SlideEntry, stored: dict[str, Any]) -> None:
        mpp = entry.mpp
        if mpp is None and stored.get("slide_mpp_given"):
            mpp = self.slide_mpp
        wrong = []
        if mpp is not None and not math.isclose(mpp, stored["slide_mpp"]):
            wrong.append(f"mpp: there {stored['slide_mpp']:g}, now {mpp:g}")
        outline = self._outline(entry.slide_id)
        if outline is not None and sha256_of(outline) != stored.get("tissue_outline_sha256"):
            there = stored.get("tissue_outline") or "none"
            wrong.append(f"tissue outline: there {there}, now {outline.name} of other content")
        if wrong:
            raise StoreMismatchError(
                f"slide {entry.slide_id!r} was tiled otherwise ({'; '.join(wrong)}): delete its "
                f"folder in {self.store.location} to tile it again, or use a new store"
            )

    def _outline(self, slide_id: str) -> Path | None:
        return None if self.masks is None else find_outline(self.masks, slide_id)

    def _attributes(
        self, entry: SlideEntry, tiled: TiledSlide, mark: dict[str, Any], outline: Path | None
    ) -> dict[str, Any]:
        return {
            "path": str(entry.path),
            "fingerprint": mark,
            "slide_mpp": tiled.slide_mpp,
            "slide_mpp_given": entry.mpp is None and tiled.slide_mpp == self.slide_mpp,
            "dimensions_level0": list(tiled.dimensions_level0),
            "patch_size_level0": tiled.patch_size_level0,
            "tissue_share": float(tiled.mask.mean()),
            "tissue_outline": "" if outline is None else outline.name,
            "tissue_outline_sha256": "" if outline is None else sha256_of(outline),
            "reason": tiled.reason,
        }


def find_outline(masks: Path, slide_id: str) -> Path | None:
    """The tissue outline of a slide: a GeoJSON file of its name, or of the name's key."""
    names = [slide_id] if Path(slide_id).name == slide_id else []
    paths = [unicode_twin(masks / f"{name}.geojson") for name in (*names, encode_key(slide_id))]
    return next((path for path in paths if path.is_file()), None)


def require_outlines(masks: Path, slide_ids: list[str]) -> None:
    """Refuse a folder of outlines that has none for any of the slides."""
    if not masks.is_dir():
        raise ConfigError(f"no folder {masks}: data.masks holds <slide_id>.geojson outlines")
    if not any(find_outline(masks, slide_id) for slide_id in slide_ids):
        raise ConfigError(
            f"{masks} has no outline of any of the {len(slide_ids)} slides: its files must be "
            f"called as the slides are, such as {slide_ids[0]}.geojson"
        )


def grid_of(store: Store) -> GridSettings:
    """The patch grid of a store."""
    if store.grid is None:
        raise StoreMismatchError(
            f"{store.location} was imported from arrays and has no patches to read: extract "
            "slides into a store"
        )
    return GridSettings.from_json(store.grid)


def check_unmoved(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    """Raise when the file is not the one that was tiled; its date may differ, as in a copy.

    A file of the same size and date is taken for the same; only others are read.

    Raises:
        StoreMismatchError: If size or content differ.
        SlideError: If there is no such file.
    """
    stored: dict[str, Any] = attributes["fingerprint"]
    try:
        status = path.stat()
    except OSError as error:
        raise SlideError(
            f"slide {path} cannot be read ({error.strerror}): give the folder that "
            "holds the slides now with data.slides (--slides of select); extract with it records it"
        ) from error
    if (status.st_size, status.st_mtime_ns) == (stored["size"], stored.get("mtime_ns")):
        return stored
    found = fingerprint(path)
    if any(stored[key] != found[key] for key in ("size", "quick_hash")):
        raise StoreMismatchError(
            f"{path} is not the file that was tiled ({stored['size']} bytes then, "
            f"{found['size']} now): its coordinates would be wrong; use a new store, or bring "
            "the old file back"
        )
    return found


def slide_file(slide: StoredSlide) -> Path:
    """The file of a stored slide, the very one that was tiled.

    Call it before a picture or a patch is taken: another slide may lie at the same path by now.

    Raises:
        StoreMismatchError: If another file lies there.
        StoreError: If the store does not record which it was.
        SlideError: If there is none.
    """
    path = Path(str(slide.fact("path")))
    if "fingerprint" in slide.attributes:  # slides added by hand may have none
        check_unmoved(path, slide.attributes)
    return path


def tile_all(
    job: TileJob, entries: Iterable[SlideEntry], threads: int = 2
) -> Iterator[SlideOutcome]:
    """Tile slides, a few at once; OpenSlide works outside Python's lock."""
    with ThreadPoolExecutor(threads) as pool:
        for outcome in pool.map(job.run, entries):
            if outcome.state == "failed":
                _log.warning("%s: %s", outcome.slide_id, outcome.reason)
            yield outcome
