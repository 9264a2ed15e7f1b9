"""How fast an extraction will run here, from a few seconds of reading and of encoding."""

import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.data.patch_batch import SlideWork
from histotransfer_pl.data.patch_feed import Batches, PoolBatches
from histotransfer_pl.data.patch_pool import ReaderPool
from histotransfer_pl.data.patch_source import PatchSource
from histotransfer_pl.data.patch_threads import PatchDataset
from histotransfer_pl.data.patches import Reading, choose_reading
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.tiling import tile_slide
from histotransfer_pl.store.feature_store import FeatureStore

_SLIDES = 3


@dataclass(frozen=True)
class Throughput:
    """Rates in patches per second, each measured alone.

    Attributes:
        reading: Of the readers that an extraction would use; 0 if there was no patch to read.
        encoding: Of the encoder, in the precision that an extraction would use.
        reading_in: By how many, in which batches, for which device.
    """

    reading: float
    encoding: float
    reading_in: Reading

    @property
    def patches_per_s(self) -> float:
        """What both together reach: on the CPU they share its cores, on a GPU the slower counts."""
        if not self.reading:
            return self.encoding
        if self.reading_in.device.type == "cpu":
            return 1 / (1 / self.reading + 1 / self.encoding)
        return min(self.reading, self.encoding)

    def describe(self) -> str:
        """Both rates and the limit, in one line."""
        who = self.reading_in
        readers = f"{who.workers} processes" if who.workers else f"{who.threads} threads"
        limit = "reading" if self.reading < self.encoding else "encoding"
        return (
            f"reading {self.reading:.0f} patches/s in {readers}, encoding {self.encoding:.0f} on "
            f"{who.device.type}: about {self.patches_per_s:.0f} together, {limit} is the limit"
        )


def measure_throughput(
    encoder: PatchEncoder,
    entries: Sequence[SlideEntry],
    grid: GridSettings,
    device: torch.device,
    slide_mpp: float | None = None,
    seconds: float = 3.0,
) -> Throughput:
    """Read some slides and encode made-up patches, for a few seconds each.

    Args:
        encoder: The encoder; moved to the device.
        entries: Slides that can be read; the first few are tiled and read.
        grid: The patches.
        device: Where the extraction would encode.
        slide_mpp: Micrometres per pixel for slides that know none.
        seconds: How long each of the two is measured, at most.

    Raises:
        SlideError: If a slide cannot be read.
        EncoderError: If the encoder cannot take such patches.
    """
    reading = choose_reading(device)
    with tempfile.TemporaryDirectory() as folder:
        store, work = _tiled(Path(folder) / "some.zarr", entries[:_SLIDES], grid, slide_mpp)
        with _readers(store, work, grid, reading) as batches:
            read = _reading_rate(batches, seconds) if work else 0.0
    side = grid.patch_px
    return Throughput(read, _encoding_rate(encoder, side, reading, seconds), reading)


def _tiled(
    location: Path, entries: Sequence[SlideEntry], grid: GridSettings, slide_mpp: float | None
) -> tuple[FeatureStore, list[SlideWork]]:
    """A store with the coordinates of some slides."""
    store = FeatureStore.open_or_create(location, grid.for_store())
    work = []
    with store.writing():
        for entry in entries:
            with closing(entry.open(slide_mpp)) as reader:
                coords = tile_slide(reader, grid).coords
                if len(coords):
                    store.add_slide(entry.slide_id, coords, len(coords), {"path": str(entry.path)})
                    work.append(SlideWork(entry, len(coords), reader.mpp, ()))
    return store, work


@contextmanager
def _readers(
    store: FeatureStore, work: list[SlideWork], grid: GridSettings, reading: Reading
) -> Generator[Batches, None, None]:
    if reading.workers:
        with closing(ReaderPool(PatchSource(store, grid), reading.workers)) as pool:
            yield PoolBatches(pool, work, reading.batch_size)
    else:
        yield PatchDataset(
            store, work, grid, reading.batch_size, reading.threads, 2 * reading.threads
        )


def _reading_rate(batches: Batches, seconds: float) -> float:
    """Patches per second; the start of processes and the opening of slides count in short jobs."""
    start, patches = time.perf_counter(), 0
    with closing(iter(batches)) as running:
        for batch in running:
            patches += len(batch.patches)
            if time.perf_counter() - start > seconds:
                break
    return patches / (time.perf_counter() - start)


@torch.inference_mode()
def _encoding_rate(encoder: PatchEncoder, side: int, reading: Reading, seconds: float) -> float:
    device, size = reading.device, reading.batch_size
    encoder.to(device).eval()
    random = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8)
    patches = torch.from_numpy(random).to(device)  # (B, P, P, 3)
    on_gpu = device.type == "cuda"
    with torch.autocast(device.type, torch.float16, enabled=on_gpu):
        encoder(patches[: max(1, size // 8)])  # the first pass prepares what the others use
        start, done = time.perf_counter(), 0
        while not done or time.perf_counter() - start < seconds:
            encoder(patches)
            done += size
            if on_gpu:
                torch.cuda.synchronize(device)
    return done / (time.perf_counter() - start)
