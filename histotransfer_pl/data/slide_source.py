"""The slides of a job and where their coordinates go: found, shared out, tiled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from histotransfer_pl.data.shards import read_shard, shard_of
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings, SlideMpp
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB
from histotransfer_pl.slides.reader import ReaderName
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.files import is_url, url_or_path

if TYPE_CHECKING:
    from histotransfer_pl.data.cohort import SlideEntry
    from histotransfer_pl.data.tile import SlideOutcome

THREADS = 2


class SlideSource:
    """Slides, the grid they are cut into, and the store for their coordinates.

    Args:
        store: Folder of the store, or its URL in an object store (``s3://``, ``gs://``,
            ``az://``); made if missing.
        slides: Folder of the slides.
        cohort: CSV table with ``slide_id`` and optionally ``path`` and ``mpp``; without it every
            slide of the folder is read.
        grid: Patch size, resolution, overlap and tissue settings; one grid per store.
        slide_mpp: Micrometres per pixel of level 0 for slides whose file does not say it;
            ``native`` reads these in their own pixels, as if they had the patches' resolution.
        masks: Folder of ``<slide_id>.geojson`` tissue outlines that replace the detection.
        qc: Draw a thumbnail with tissue outline and grid of each slide, in ``<store>_qc``.
        threads: Threads that tile.
        reader: ``auto`` decodes the tiles of plain TIFF and SVS files directly, with OpenSlide's
            pixels, and leaves the rest to OpenSlide; ``openslide`` and ``direct`` insist on one.
        slide_memory_gib: Memory that one step of reading a slide may take; a slide that needs
            more is reported and left out.
        shard: ``i/n`` takes the i-th (from 0) of n disjoint parts of the slides, of about the
            same bytes; ``auto`` takes the numbers from the array job (SLURM, Kubernetes, AWS and
            Google Batch, Cloud Run, torchrun), ``auto/n`` only i. Shards may run at once.

    Raises:
        ConfigError: Neither slides nor a cohort.
    """

    def __init__(
        self,
        store: str | Path,
        slides: Path | None = None,
        cohort: Path | None = None,
        grid: GridSettings = GridSettings(),
        slide_mpp: SlideMpp = None,
        masks: Path | None = None,
        qc: bool = True,
        threads: int = THREADS,
        reader: ReaderName = "auto",
        slide_memory_gib: float = SLIDE_MEMORY_GIB,
        shard: str | None = None,
    ) -> None:
        # Tables and images are looked at later: the help of a verb needs neither.
        from histotransfer_pl.data.cohort import resolve_mpp

        if slides is None and cohort is None:
            raise ConfigError("give the slides with data.slides (a folder), data.cohort, or both")
        if threads < 1:
            raise ConfigError(f"data.threads is {threads}, expected 1 or more")
        self.store_path = url_or_path(store)
        self.slides = slides
        self.cohort = cohort
        self.grid = grid
        self.slide_mpp = resolve_mpp(slide_mpp, grid.mpp)
        self.masks = masks
        self.qc = qc
        self.threads = threads
        self.reader: ReaderName = reader
        self.slide_memory_gib = slide_memory_gib
        self.shard = None if shard is None else read_shard(shard, os.environ)
        self._entries: list[SlideEntry] | None = None

    @property
    def qc_folder(self) -> Path | None:
        """Where the thumbnails go; of a store behind a URL, into the working folder."""
        if not self.qc:
            return None
        if is_url(self.store_path):
            return Path(f"{PurePosixPath(self.store_path).stem}_qc")
        path = Path(self.store_path)
        return path.with_name(f"{path.stem}_qc")

    def entries(self) -> "list[SlideEntry]":
        """The slides asked for; of a shard its own."""
        from histotransfer_pl.data.cohort import slides_from_cohort, slides_from_folder

        if self._entries is None:
            if self.cohort is not None:
                found = slides_from_cohort(self.cohort, self.slides, self.grid.mpp)
            else:
                found = slides_from_folder(Path(str(self.slides)))
            if self.shard is not None:
                sizes = [_size_of(entry.path) for entry in found]
                found = shard_of(found, sizes, self.shard.index, self.shard.count)
            self._entries = found
        return self._entries

    @contextmanager
    def writing(self, what: str = "", *, lock: bool = True) -> Iterator[FeatureStore]:
        """The store, opened or made, with the right to write for the length of the block.

        Args:
            what: Name of what is written; writers of other things write beside this one.
            lock: See ``FeatureStore.writing``.
        """
        store = FeatureStore.open_or_create(self.store_path, self.grid.for_store())
        own = "" if self.shard is None else f"shard {self.shard}"
        name = " in ".join(part for part in (what, own) if part)
        with store.writing(name, lock=lock):
            yield store

    def tile(self, store: FeatureStore, threads: int | None = None) -> "dict[str, SlideOutcome]":
        """Tile what the store does not have yet; what became of each slide."""
        from histotransfer_pl.data.tile import TileJob, require_outlines, tile_all

        job = TileJob(
            store,
            self.grid,
            self.slide_mpp,
            self.qc_folder,
            self.masks,
            self.reader,
            self.slide_memory_gib,
        )
        entries = self.entries()
        if self.masks is not None:
            require_outlines(self.masks, [entry.slide_id for entry in entries])
        outcomes = tile_all(job, entries, threads=threads or self.threads)
        return {outcome.slide_id: outcome for outcome in outcomes}


def _size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that cannot be read, which reading will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
