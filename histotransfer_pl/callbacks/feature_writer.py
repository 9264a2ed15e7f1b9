"""Writes features into the store, row by row, beside the encoder."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.data.patch_batch import PatchBatch
from histotransfer_pl.data.patches import PatchDataModule, Reading
from histotransfer_pl.data.tile import SlideOutcome
from histotransfer_pl.errors import ConfigError, StoreError
from histotransfer_pl.store.layout import rows_of
from histotransfer_pl.store.mean_writer import MeanWriter
from histotransfer_pl.store.writer import ArrayWriter
from histotransfer_pl.tasks.extract import FeatureExtractor
from histotransfer_pl.tasks.metrics import from_all_ranks

_log = logging.getLogger(__name__)
_QUEUE = 4
# What must agree when an array exists already; versions and dates may differ.
_BINDING = ("architecture", "weights_sha256", "input_px", "precision", "mean", "std", "pooling")


@dataclass
class _OpenSlide:
    """A slide whose rows are arriving."""

    writers: dict[str, ArrayWriter | MeanWriter]
    left: int
    seconds: float = 0.0


@dataclass
class Timings:
    """Seconds of this process, by what it did, and what was counted.

    Attributes:
        waiting: The program waited for patches.
        encoding: It encoded, or waited for the device or for the writing thread.
        reading: Threads or processes read, beside it.
        file: Of that, the file.
        decoding: Of that, decoding tiles.
        copying: A thread sent patches to the device.
        writing: A thread wrote features.
        patches: Patches encoded.
        decodes: Tiles decoded.
        tiles: Different ones among them.
        reading_in: In which batches, and by how many, patches were read.
        started: When the first batch was asked for.
    """

    waiting: float = 0.0
    encoding: float = 0.0
    reading: float = 0.0
    file: float = 0.0
    decoding: float = 0.0
    copying: float = 0.0
    writing: float = 0.0
    patches: int = 0
    decodes: int = 0
    tiles: int = 0
    reading_in: Reading | None = None
    started: float = field(default_factory=time.perf_counter)


class _Features(NamedTuple):
    """Features on their way from the device to the host."""

    arrays: dict[str, Tensor]
    arrived: torch.cuda.Event | None

    def wait(self) -> dict[str, NDArray[np.float32]]:
        """The features (B, D) of each array, once the device has computed and sent them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return {name: values.numpy() for name, values in self.arrays.items()}


class FeatureWriter(Callback):
    """Assigns the features of each batch to the rows they belong to.

    Arrays appear in the store when their last row is there. A thread beside the encoder waits for
    the device and writes; the program goes on to the next batch at once. A slide that cannot be
    read loses only its own features.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, SlideOutcome] = {}
        self.timings = Timings()
        self._open: dict[int, _OpenSlide] = {}
        self._failed: set[int] = set()
        self._tiles: dict[int, set[tuple[int, int, int]]] = {}
        self._queue: deque[Future[None]] = deque()
        self._last = self._arrived = 0.0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, FeatureExtractor) or stage != "predict":
            raise ConfigError("FeatureWriter writes what FeatureExtractor predicts")
        # Otherwise Lightning keeps the features of the whole cohort in memory.
        trainer.predict_loop.return_predictions = False
        self._data = patch_data(trainer)
        self._extractor = pl_module
        self._provenance = pl_module.provenance(str(trainer.precision))
        self._binding = {
            name: {key: facts[key] for key in _BINDING}
            | {"dtype": "float32" if name.startswith("means/") else pl_module.dtype_in_store}
            for name, facts in self._provenance.items()
        }
        self._check_present()
        # No rank may write before all know what is missing, else they share it out differently.
        trainer.strategy.barrier("what is missing")

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pool = ThreadPoolExecutor(1)
        self.timings = Timings()
        self._last = self._arrived = time.perf_counter()

    @override
    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress = _progress(disable=not trainer.is_global_zero)
        total = sum(item.n_patches for item in self._data.work)
        self._bar = self._progress.add_task("patches", total=total, slides=0, rate=0.0)
        self._progress.start()

    @override
    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.timings.waiting += now - self._last
        self._last = now

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PatchBatch,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        features = _send_to_host(outputs)
        self._queue.append(self._pool.submit(self._write, batch, features))
        # On a GPU this is where the program waits for it, a few batches behind.
        while len(self._queue) > _QUEUE:
            self._queue.popleft().result()
        now = time.perf_counter()
        self.timings.encoding += now - self._last
        self.timings.patches += len(batch.patches)
        rate = self.timings.patches / (now - self.timings.started)
        self._progress.update(
            self._bar, advance=len(batch.patches), slides=len(self.outcomes), rate=rate
        )
        self._last = time.perf_counter()

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.stop()
        while self._queue:
            self._queue.popleft().result()
        self._pool.shutdown()
        if self._data.feed is not None:
            self.timings.copying = self._data.feed.copying_s
            self.timings.reading_in = self._data.feed.reading
        self._gather(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no half-written array behind; what was complete stays."""
        if hasattr(self, "_progress"):
            self._progress.stop()
        if hasattr(self, "_pool"):
            self._pool.shutdown(cancel_futures=True)
        for slide in self._open.values():
            for writer in slide.writers.values():
                writer.abort()
        self._open.clear()

    def _write(self, batch: PatchBatch, sent: "_Features") -> None:
        features = sent.wait()
        start = time.perf_counter()
        seconds, self._arrived = start - self._arrived, start
        self._count(batch)
        for place, reason in batch.failures:
            self._fail(place, reason)
        places, rows = batch.slides.numpy(), batch.rows.numpy()
        for place in np.unique(places).tolist():
            if place in self._failed:
                continue
            mine = places == place
            try:
                self._assign(place, rows[mine], {n: v[mine] for n, v in features.items()})
            except StoreError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                    # A full or broken disk fails every slide that follows: stop here.
                    raise
                self._fail(place, str(error))
                continue
            slide = self._open[place]
            slide.seconds += seconds * float(mine.mean())
            if slide.left == 0:
                self._commit(place)
        self.timings.writing += time.perf_counter() - start

    def _count(self, batch: PatchBatch) -> None:
        self.timings.reading += batch.cost.reading
        self.timings.file += batch.cost.file
        self.timings.decoding += batch.cost.decoding
        self.timings.decodes += len(batch.cost.tiles)
        for place, tiles in groupby(batch.cost.tiles, itemgetter(0)):
            seen = self._tiles.setdefault(place, set())
            before = len(seen)
            seen.update(tiles)
            self.timings.tiles += len(seen) - before

    def _assign(
        self, place: int, rows: NDArray[np.int64], features: dict[str, NDArray[np.float32]]
    ) -> None:
        if place not in self._open:
            self._open[place] = self._begin(place)
        slide = self._open[place]
        for name, writer in slide.writers.items():
            writer.assign(rows, features[self._extractor.sources[name]])
        slide.left -= len(rows)

    def _begin(self, place: int) -> _OpenSlide:
        item = self._data.work[place]
        stored = self._data.store.slide(item.entry.slide_id)
        dtype, dims = self._extractor.dtype_in_store, self._extractor.dims
        writers: dict[str, ArrayWriter | MeanWriter] = {}
        for name in item.missing:
            shape = (rows_of(name, item.n_patches) or 0, dims[name])
            facts = self._provenance[name]
            if name.startswith("means/"):
                array = stored.writer(name, shape, np.float32, facts)
                writers[name] = MeanWriter(array, item.n_patches, dims[name])
            else:
                writers[name] = stored.writer(name, shape, dtype, facts)
        return _OpenSlide(writers, left=item.n_patches)

    def _commit(self, place: int) -> None:
        slide = self._open.pop(place)
        self._tiles.pop(place, None)
        for writer in slide.writers.values():
            writer.commit()
        item = self._data.work[place]
        self.outcomes[item.entry.slide_id] = SlideOutcome(
            item.entry.slide_id, "done", item.n_patches, slide.seconds
        )

    def _fail(self, place: int, reason: str) -> None:
        self._failed.add(place)
        self._tiles.pop(place, None)
        slide = self._open.pop(place, None)
        for writer in slide.writers.values() if slide else ():
            writer.abort()
        item = self._data.work[place]
        _log.warning("%s: %s", item.entry.slide_id, reason)
        self.outcomes[item.entry.slide_id] = SlideOutcome(
            item.entry.slide_id, "failed", item.n_patches, reason=reason
        )

    def _check_present(self) -> None:
        """Features that exist, or that another shard has begun, must be as they would be here."""
        for entry in self._data.entries():
            if entry.slide_id in self._data.store:
                slide = self._data.store.slide(entry.slide_id)
                for name, expected in self._binding.items():
                    slide.matches(name, expected)
        for name, expected in self._binding.items():
            self._data.store.declare(name, expected)

    def _gather(self, trainer: Trainer) -> None:
        """Join the outcomes of all ranks with those of tiling."""
        joined = dict(self._data.outcomes)
        for share in from_all_ranks(trainer, self.outcomes):
            for slide_id, outcome in share.items():
                tiling = joined.get(slide_id)
                outcome.seconds += tiling.seconds if tiling else 0.0
                joined[slide_id] = outcome
        self.outcomes = joined


def _send_to_host(outputs: Mapping[str, Tensor]) -> _Features:
    """Begin to copy features to the host, behind what the device has still to compute."""
    if not any(values.is_cuda for values in outputs.values()):
        return _Features({name: values.cpu() for name, values in outputs.items()}, None)
    arrays = {
        # Without pinned memory the copy would wait for the device.
        name: torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(
            values, non_blocking=True
        )
        for name, values in outputs.items()
    }
    arrived = torch.cuda.Event(blocking=True)  # sleeps, where another one would burn a core
    arrived.record()
    return _Features(arrays, arrived)


def patch_data(trainer: Trainer) -> PatchDataModule:
    """The trainer's datamodule, which must read patches."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, PatchDataModule):
        raise ConfigError(f"extraction needs PatchDataModule as data, got {type(data).__name__}")
    return data


def _progress(*, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[slides]} slides"),
        TextColumn("{task.fields[rate]:.0f} patches/s"),
        TimeRemainingColumn(),
        disable=disable,
    )
