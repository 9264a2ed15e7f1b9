"""The pipeline's own ceiling: an encoder that costs nothing. `python -m benchmarks.pipeline`."""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.extraction import Extraction
from benchmarks.material import write_slides
from benchmarks.program import run
from benchmarks.result import Result, from_times, rounds_in_time, seconds
from histotransfer_pl.data.cores import available_cores
from histotransfer_pl.data.patch_batch import PatchBatch
from histotransfer_pl.data.patches import PatchFeed, Reading
from histotransfer_pl.tasks.extract import FeatureExtractor
from histotransfer_pl.tasks.heap import keep_freed_memory


class FirstPixels(FeatureExtractor):
    """Takes the first pixels of a patch for its features."""

    @override
    def predict_step(self, batch: PatchBatch, batch_idx: int) -> dict[str, Tensor]:
        pixels = batch.patches.flatten(1)  # (B, P * P * 3)
        return {name: pixels[:, :dim].float() for name, dim in self.dims.items()}


class FreeExtraction(Extraction):
    """Extraction with an encoder that costs nothing."""

    @override
    def task(self, depths: object, alias: str) -> FeatureExtractor:
        return FirstPixels(self.encoder, "random", "last", alias=alias)

    def read_in(self, reading: Reading) -> Callable[[], object]:
        """All patches, without an encoder, a Trainer and a store to write to."""
        data = self.prepared_data()

        def read() -> None:
            with closing(PatchFeed(data, reading)) as feed:
                for _ in feed:
                    pass

        return read


def measure(
    patches: int = 6_912, patch_px: int = 224, batch_size: int = 64, rounds: int = 3
) -> list[Result]:
    """Patches per second into the store by those of the reader alone, at its best setting.

    Args:
        patches: Patches of all slides, about.
        patch_px: Side of a patch.
        batch_size: Patches of a batch.
        rounds: Rounds.
    """
    keep_freed_memory()
    # A small slide of today, and slides so small that opening and sealing one counts.
    return [
        result
        for side in (26, 12)
        for result in _by_slide(side, max(1, patches // side**2), patch_px, batch_size, rounds)
    ]


def _by_slide(
    side: int, slides: int, patch_px: int, batch_size: int, rounds: int
) -> Iterator[Result]:
    """The rows for slides of `side` by `side` patches."""
    cores, cpu = available_cores(), torch.device("cpu")
    ways = [Reading(cpu, batch_size, 0, n) for n in sorted({1, 2, cores})]
    ways.append(Reading(cpu, batch_size, cores, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "slides"
        (first,) = write_slides(folder, 1, side * patch_px)
        for number in range(1, slides):
            os.link(first, folder / f"slide_{number:03d}.tiff")
        work = FreeExtraction(
            Path(name), folder, patch_px, batch_size, "cpu", "timm:test_resnet", num_workers=cores
        )
        alone: dict[Reading, list[float]] = {way: [] for way in ways}
        ours: list[float] = []
        for _ in rounds_in_time(rounds + 1, least=3):  # the first one warms up
            for way, times in alone.items():
                times.append(seconds(work.read_in(way)))
            ours.append(seconds(work.prepare([])))
        timings = work.writer.timings
    best = min(alone, key=lambda way: statistics.median(alone[way]))
    readers = f"{best.workers} processes" if best.workers else f"{best.threads} threads"
    what = f"slides of {side**2} patches, {cores} processes reading"
    yield from_times(
        f"extraction with an encoder that costs nothing, {what}, vs the reader alone at its best",
        *(0.9, ours[1:], alone[best][1:]),
        speedup=True,
        notes=f"{slides} slides, {cores} cores; the reader is best in {readers}",
        amount=work.patches,
        unit="patches",
    )
    yield Result(
        f"tile decodes per file tile, {what}",
        timings.decodes / max(1, timings.tiles),
        1.15,
        "decodes / tiles",
        notes=f"{timings.decodes} decodes of {timings.tiles} tiles; counted, not timed",
    )


if __name__ == "__main__":
    run("pipeline", measure, {"patches": 700, "patch_px": 64, "rounds": 2})
