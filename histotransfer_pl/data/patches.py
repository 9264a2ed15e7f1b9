"""Patches of slides, in batches, for encoders."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, cast

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import override

from histotransfer_pl.data.cohort import SlideEntry, slides_from_cohort, slides_from_folder
from histotransfer_pl.data.patch_source import PatchBatch, PatchSource, Work
from histotransfer_pl.data.tile import SlideOutcome, TileJob, require_outlines, tile_all
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.reader import ReaderName
from histotransfer_pl.store.feature_store import FeatureStore


class WantsArrays(Protocol):
    """A task that fills arrays of the store, named as ``features/<encoder>/<depth>``."""

    arrays: list[str]


class PatchDataset(IterableDataset[PatchBatch]):
    """Reads the patches of slides, one behind the other, ahead of the encoder.

    Reading runs in threads (OpenSlide works outside Python's lock), and the patches of the next
    slide are read while this one is encoded: a batch may hold the end of one slide and the
    beginning of the next.

    Args:
        store: Store with the coordinates.
        work: The slides.
        settings: The grid.
        batch_size: Patches of a batch.
        threads: Threads that read.
        ahead: Batches read ahead of the encoder.
        reader: Who reads the pixels; see ``ReaderName``.
    """

    def __init__(
        self,
        store: FeatureStore,
        work: Sequence[Work],
        settings: GridSettings,
        batch_size: int,
        threads: int,
        ahead: int,
        reader: ReaderName = "auto",
    ) -> None:
        self.store = store
        self.work = work
        self.settings = settings
        self.batch_size = batch_size
        self.threads = threads
        self.ahead = ahead
        self.reader: ReaderName = reader

    @override
    def __iter__(self) -> Iterator[PatchBatch]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        source = PatchSource(self.store, self.work, self.settings, self.reader)
        with ThreadPoolExecutor(self.threads) as pool:
            coming: deque[Future[PatchBatch]] = deque()
            try:
                for number, pieces in enumerate(self._batches()):
                    if number % step != first:
                        continue
                    coming.append(pool.submit(source.read, pieces))
                    if len(coming) > self.ahead:
                        yield coming.popleft().result()
                while coming:
                    yield coming.popleft().result()
            finally:
                for future in coming:
                    future.cancel()
        source.close()

    def _batches(self) -> Iterator[list[tuple[int, int, int]]]:
        """Pieces (slide, first row, end row) of each batch."""
        pieces: list[tuple[int, int, int]] = []
        room = self.batch_size
        for place, item in enumerate(self.work):
            start = 0
            while start < item.n_patches:
                stop = min(start + room, item.n_patches)
                pieces.append((place, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    yield pieces
                    pieces, room = [], self.batch_size
        if pieces:
            yield pieces


class PatchDataModule(LightningDataModule):
    """Patches of all tissue of the slides, read for ``extract``.

    Args:
        store: Folder of the store; made if missing.
        slides: Folder of the slides.
        cohort: CSV table with ``slide_id`` and optionally ``path`` and ``mpp``; without it every
            slide of the folder is read.
        grid: Patch size, resolution, overlap and tissue settings; one grid a store.
        slide_mpp: Micrometres per pixel of level 0 for slides whose file does not say it.
        masks: Folder of ``<slide_id>.geojson`` tissue outlines that replace the detection.
        qc: Draw a thumbnail with tissue outline and grid of each slide, in ``<store>_qc``.
        batch_size: Patches of a batch.
        num_workers: Processes that read; 0 reads in threads of this process.
        threads: Threads that read, in each process.
        reader: ``auto`` decodes the tiles of plain TIFF and SVS files directly, with OpenSlide's
            pixels, and leaves the rest to OpenSlide; ``openslide`` and ``direct`` insist on one.
    """

    def __init__(
        self,
        store: Path,
        slides: Path | None = None,
        cohort: Path | None = None,
        grid: GridSettings = GridSettings(),
        slide_mpp: float | None = None,
        masks: Path | None = None,
        qc: bool = True,
        batch_size: int = 32,
        num_workers: int = 0,
        threads: int = 2,
        reader: ReaderName = "auto",
    ) -> None:
        super().__init__()
        # One process of the whole job tiles: all nodes see the same store.
        self.prepare_data_per_node = False
        if slides is None and cohort is None:
            raise ConfigError("give the slides with data.slides (a folder), data.cohort, or both")
        if batch_size < 1 or threads < 1:
            raise ConfigError(f"data.batch_size is {batch_size}, data.threads {threads}: from 1 up")
        self.store_path = Path(store)
        self.slides = slides
        self.cohort = cohort
        self.grid = grid
        self.slide_mpp = slide_mpp
        self.masks = masks
        self.qc = qc
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.threads = threads
        self.reader: ReaderName = reader
        self.outcomes: dict[str, SlideOutcome] = {}
        self.work: list[Work] = []
        self._opened: FeatureStore | None = None
        self._lock = ExitStack()

    @property
    def store(self) -> FeatureStore:
        """The store, once the data is prepared."""
        if self._opened is None:
            raise ConfigError("the store is opened by prepare_data and setup: call them first")
        return self._opened

    @property
    def qc_folder(self) -> Path | None:
        """Where the thumbnails go."""
        return self.store_path.with_name(self.store_path.stem + "_qc") if self.qc else None

    def entries(self) -> list[SlideEntry]:
        """The slides asked for."""
        if self.cohort is not None:
            return slides_from_cohort(self.cohort, self.slides)
        return slides_from_folder(Path(str(self.slides)))

    @override
    def prepare_data(self) -> None:
        """Tile what the store does not have yet; holds the store's lock until teardown."""
        self._opened = FeatureStore.open_or_create(self.store_path, self.grid.for_store())
        self._lock.enter_context(self.store.writing())
        job = TileJob(
            self.store, self.grid, self.slide_mpp, self.qc_folder, self.masks, self.reader
        )
        entries = self.entries()
        if self.masks is not None:
            require_outlines(self.masks, [entry.slide_id for entry in entries])
        self.outcomes = {
            outcome.slide_id: outcome for outcome in tile_all(job, entries, threads=self.threads)
        }

    @override
    def setup(self, stage: str) -> None:
        """Find what is missing, before any rank writes."""
        if self._opened is None:
            # A further rank: the first one holds the lock for all.
            self._opened = FeatureStore.open_or_create(self.store_path, self.grid.for_store())
            self._lock.enter_context(self.store.writing(lock=False))
        arrays = self._arrays()
        failed = {s for s, outcome in self.outcomes.items() if outcome.state == "failed"}
        if self.trainer is not None:
            # Only the first rank has tiled, and all must share out the same work.
            failed = self.trainer.strategy.broadcast(failed)
        self.work = []
        for entry in self.entries():
            if entry.slide_id in failed or entry.slide_id not in self.store:
                continue
            slide = self.store.slide(entry.slide_id)
            missing = tuple(name for name in arrays if not slide.has(name))
            if missing and slide.n_patches:
                mpp = float(slide.attributes["slide_mpp"])
                self.work.append(Work(entry, slide.n_patches, mpp, missing))

    @override
    def predict_dataloader(self) -> DataLoader[PatchBatch]:
        trainer = self.trainer
        if trainer is not None and trainer.world_size > 1:
            self.work = share_out(self.work, trainer.world_size)[trainer.global_rank]
        dataset = PatchDataset(
            self.store,
            self.work,
            self.grid,
            self.batch_size,
            self.threads,
            ahead=2 * self.threads,
            reader=self.reader,
        )
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    @override
    def teardown(self, stage: str) -> None:
        self._lock.close()

    @override
    def on_exception(self, exception: BaseException) -> None:
        self._lock.close()

    def _arrays(self) -> list[str]:
        if self.trainer is None:
            return []
        return cast("WantsArrays", self.trainer.lightning_module).arrays


def share_out(work: Sequence[Work], parts: int) -> list[list[Work]]:
    """Slides for each of ``parts`` ranks, with about as many patches each.

    The largest slide goes first, each to the rank with the fewest patches so far; every rank
    computes the same shares.
    """
    shares: list[list[Work]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for item in sorted(work, key=lambda w: (-w.n_patches, w.entry.slide_id)):
        least = loads.index(min(loads))
        shares[least].append(item)
        loads[least] += item.n_patches
    return shares
