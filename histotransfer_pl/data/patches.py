"""Patches of slides, in batches, for encoders."""

import logging
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from lightning import LightningDataModule, Trainer
from typing_extensions import override

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.data.cores import available_cores
from histotransfer_pl.data.patch_batch import PatchBatch, SlideWork, cut_into_batches
from histotransfer_pl.data.patch_feed import Batches, DeviceFeed, PoolBatches
from histotransfer_pl.data.patch_pool import ReaderPool
from histotransfer_pl.data.patch_source import PatchSource
from histotransfer_pl.data.patch_threads import PatchDataset
from histotransfer_pl.data.shards import shard_of
from histotransfer_pl.data.slide_source import SlideSource
from histotransfer_pl.data.tile import SlideOutcome
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import decode_key

_log = logging.getLogger(__name__)

_DEVICE_BATCH, _CPU_BATCH = 256, 32
_CPU_THREADS = 2
"""The encoder wants the cores for itself; two threads read ten times as fast as it encodes."""


class WantsArrays(Protocol):
    """A task that fills arrays of the store, named as ``features/<encoder>/<depth>``."""

    arrays: list[str]


class PatchDataModule(LightningDataModule):
    """Patches of all tissue of the slides, read for ``extract``.

    Args:
        store: Folder of the store, or its URL in an object store; made if missing.
        batch_size: Patches of a batch; by default 256 on a GPU and 32 on the CPU.
        num_workers: Processes that read; 0 reads in threads of this process. By default 0 where
            the CPU encodes, and elsewhere one less than the cores that this process may use.
        threads: Threads that tile, and that read where no processes do; by default 2, or the
            cores that this process may use where a GPU encodes.
        timeout_s: Seconds after which a slide that gives nothing is left out, and named.
        **slides: Further settings of ``SlideSource``: slides, cohort, grid and how they are read.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        threads: int | None = None,
        timeout_s: float = 300.0,
        **slides: Any,
    ) -> None:
        super().__init__()
        # One process of the whole job tiles: all nodes see the same store.
        self.prepare_data_per_node = False
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("threads", threads, 1),
            ("num_workers", num_workers, 0),
            ("timeout_s", timeout_s, 0.001),
        ):
            if value is not None and value < least:
                raise ConfigError(f"data.{name} is {value}, expected {least:g} or more")
        self.source = SlideSource(store, **slides)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.threads = threads
        self.timeout_s = timeout_s
        self.feed: PatchFeed | None = None
        self.outcomes: dict[str, SlideOutcome] = {}
        self.work: list[SlideWork] = []
        self._opened: FeatureStore | None = None
        self._closing = ExitStack()

    @property
    def store(self) -> FeatureStore:
        """The store, once the data is prepared."""
        if self._opened is None:
            raise ConfigError("the store is opened by prepare_data and setup: call them first")
        return self._opened

    @property
    def store_path(self) -> str | Path:
        """Where the store is."""
        return self.source.store_path

    @property
    def grid(self) -> GridSettings:
        """How slides are cut into patches."""
        return self.source.grid

    def entries(self) -> list[SlideEntry]:
        """The slides asked for; of a shard its own."""
        return self.source.entries()

    @override
    def prepare_data(self) -> None:
        """Tile what the store does not have yet; holds the store's lock until teardown."""
        self._opened = self._closing.enter_context(self.source.writing(self._what()))
        self.outcomes = self.source.tile(self._opened, self._reading().threads)

    @override
    def setup(self, stage: str) -> None:
        """Find what is missing, before any rank writes."""
        if self._opened is None:
            # A further rank: the first one holds the lock for all.
            self._opened = self._closing.enter_context(
                self.source.writing(self._what(), lock=False)
            )
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
                mpp = float(slide.fact("slide_mpp"))
                self.work.append(SlideWork(entry, slide.n_patches, mpp, missing))

    @override
    def predict_dataloader(self) -> "PatchFeed":
        trainer = self.trainer
        if trainer is not None and trainer.world_size > 1:
            sizes = [item.n_patches for item in self.work]
            self.work = shard_of(self.work, sizes, trainer.global_rank, trainer.world_size)
        self.feed = PatchFeed(self, self._reading())
        self._closing.callback(self.feed.close)
        return self.feed

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Slide numbers and rows stay on the host: reading them back would wait for the device."""
        if not isinstance(batch, PatchBatch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return batch._replace(patches=batch.patches.to(device, non_blocking=True))

    @override
    def teardown(self, stage: str) -> None:
        self._closing.close()

    @override
    def on_exception(self, exception: BaseException) -> None:
        self._closing.close()

    def _reading(self) -> "Reading":
        chosen = reading_of(self.trainer)
        return Reading(
            chosen.device,
            self.batch_size or chosen.batch_size,
            chosen.workers if self.num_workers is None else self.num_workers,
            self.threads or chosen.threads,
        )

    def _what(self) -> str:
        """Whose features are written: extractions with other encoders write the store as well."""
        keys = sorted({array.split("/")[1] for array in self._arrays() if "/" in array})
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return f"{decode_key(keys[0])[:60]}{more}" if keys else ""

    def _arrays(self) -> list[str]:
        if self.trainer is None:
            return []
        return cast("WantsArrays", self.trainer.lightning_module).arrays


class Reading(NamedTuple):
    """How patches are read: for which device, in what batches, by how many."""

    device: torch.device
    batch_size: int
    workers: int
    threads: int


def choose_reading(device: torch.device, devices: int = 1) -> Reading:
    """How to read for a device where nothing is said."""
    cores = max(1, available_cores() // devices)
    if device.type == "cpu":
        return Reading(device, _CPU_BATCH, 0, min(_CPU_THREADS, cores))
    return Reading(device, _DEVICE_BATCH, max(1, cores - 1), cores)


def reading_of(trainer: Trainer | None) -> Reading:
    """How to read for the device of a trainer where nothing is said; the CPU's without one."""
    if trainer is None:
        return choose_reading(torch.device("cpu"))
    return choose_reading(trainer.strategy.root_device, trainer.num_devices)


class PatchFeed:
    """Batches of the patches that are left to encode, on the device that encodes them."""

    def __init__(self, data: PatchDataModule, reading: Reading) -> None:
        self.data = data
        self.reading = reading
        self._open = ExitStack()
        self._batches = self._readers()
        if reading.device.type == "cuda":
            self._batches = DeviceFeed(self._batches, reading.device)

    def __iter__(self) -> Generator[PatchBatch, None, None]:
        batches = iter(self._batches)
        self._open.callback(batches.close)
        return batches

    @property
    def copying_s(self) -> float:
        """Seconds spent on sending batches to the device, beside everything else."""
        return self._batches.copying_s if isinstance(self._batches, DeviceFeed) else 0.0

    def close(self) -> None:
        """Stop reading, wherever it is."""
        self._open.close()

    def _readers(self) -> Batches:
        data, reading = self.data, self.reading
        slides = data.source
        source = PatchSource(data.store, slides.grid, slides.reader, slides.slide_memory_gib)
        if reading.workers and data.work:
            try:
                pool = ReaderPool(source, reading.workers, data.timeout_s)
            except OSError as error:
                _log.warning(
                    "no memory for %d reading processes to share (%s): reading in %d threads, "
                    "which is slower; free memory or lower data.num_workers",
                    *(reading.workers, error, reading.threads),
                )
                self.reading = reading._replace(workers=0)
            else:
                self._open.callback(pool.close)
                pin = reading.device.type == "cuda"
                return PoolBatches(pool, data.work, reading.batch_size, pin=pin)
        counts = [item.n_patches for item in data.work]
        batches = list(cut_into_batches(counts, reading.batch_size))
        threads = reading.threads
        return PatchDataset(source, data.work, batches, threads, 2 * threads, data.timeout_s)
