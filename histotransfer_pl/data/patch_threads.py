"""Reads patches in threads of this process, in the order of the slides and their rows."""

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import torch
from torch.utils.data import IterableDataset
from typing_extensions import override

from histotransfer_pl.data.patch_batch import (
    PatchBatch,
    Piece,
    SlideWork,
    wanted_arrays,
)
from histotransfer_pl.data.patch_source import PatchSource, ReadCost, stall_reason
from histotransfer_pl.errors import SlideError, StoreError

_BEAT_PATCHES = 16
"""Patches after which a thread shows that it lives."""
_LOOK_S = 0.5
_JOIN_S = 5.0


@dataclass(eq=False)
class _Job:
    """A batch that a thread reads."""

    pieces: Sequence[Piece]
    batch: Future[PatchBatch] = field(default_factory=Future)
    place: int = -1
    beat: float | None = None


@dataclass(eq=False)
class PatchDataset(IterableDataset[PatchBatch]):
    """Reads the patches of slides, one behind the other, ahead of the encoder.

    OpenSlide and the decoders work outside Python's lock. The patches of the next slide are read
    while this one is encoded: a batch may hold the end of one slide and the beginning of the next.

    Args:
        source: What reads them.
        work: The slides.
        batches: Pieces (slide, first row, end row) of each batch.
        threads: Threads that read.
        ahead: Batches read ahead of the encoder.
        timeout_s: Seconds after which a slide that gives nothing is given up.
    """

    source: PatchSource
    work: Sequence[SlideWork]
    batches: Sequence[Sequence[Piece]]
    threads: int
    ahead: int
    timeout_s: float = 300.0

    @override
    def __iter__(self) -> Generator[PatchBatch, None, None]:
        reading = _Reading(self)
        coming: deque[_Job] = deque()
        try:
            for pieces in self.batches:
                coming.append(reading.submit(pieces))
                if len(coming) > self.ahead:
                    yield reading.result(coming.popleft())
            while coming:
                yield reading.result(coming.popleft())
        finally:
            for job in coming:
                job.batch.cancel()
            reading.close()


class _Reading:
    """The threads of one pass; those of a pool would hold up the end of the program."""

    def __init__(self, data: PatchDataset) -> None:
        self._data = data
        self._lost: set[int] = set()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        for _ in range(data.threads):
            self._start()

    def submit(self, pieces: Sequence[Piece]) -> _Job:
        job = _Job(pieces)
        self._jobs.put(job)
        return job

    def result(self, job: _Job) -> PatchBatch:
        """The batch of a job; a slide that stalls is given up, and the others are read anew."""
        look = min(_LOOK_S, self._data.timeout_s)
        failures: list[tuple[int, str]] = []
        while True:
            try:
                batch = job.batch.result(look)
            except NotYet:
                if job.beat is None or time.monotonic() - job.beat < self._data.timeout_s:
                    continue
                if job.place not in self._lost:
                    self._lost.add(job.place)
                    failures.append((job.place, self._stalled(job.place)))
                job = _Job(job.pieces)
                self._start(job)  # the thread that waits may never come back
            else:
                return batch._replace(failures=failures + batch.failures)

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        if not self._lost:
            for thread in self._threads:
                thread.join(_JOIN_S)
        self._data.source.close()

    def _start(self, first: _Job | None = None) -> None:
        thread = threading.Thread(target=self._run, args=(first,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, job: _Job | None) -> None:
        job = job or self._jobs.get()
        while job is not None:
            if job.batch.set_running_or_notify_cancel():
                try:
                    job.batch.set_result(self._read(job))
                except BaseException as error:  # noqa: BLE001 - raised again by result()
                    job.batch.set_exception(error)
            job = self._jobs.get()

    def _read(self, job: _Job) -> PatchBatch:
        side = self._data.source.settings.patch_px
        total = sum(stop - start for _, start, stop in job.pieces)
        images = np.empty((total, side, side, 3), np.uint8)
        slides: list[int] = []
        rows: list[int] = []
        failures: list[tuple[int, str]] = []
        cost = ReadCost()
        for place, start, stop in job.pieces:
            job.place, job.beat = place, time.monotonic()
            if place in self._lost:
                continue
            try:
                for first in range(start, stop, _BEAT_PATCHES):
                    some = range(first, min(first + _BEAT_PATCHES, stop))
                    target = images[len(rows) + first - start :]
                    file = self._data.work[place].file
                    cost.add(self._data.source.read_into(target, place, file, some))
                    job.beat = time.monotonic()
            except (SlideError, StoreError) as error:
                # The rest of the slide would be lost work: its arrays must be whole.
                self._lost.add(place)
                failures.append((place, str(error)))
                continue
            slides += [place] * (stop - start)
            rows += range(start, stop)
        return PatchBatch(
            patches=torch.from_numpy(images[: len(rows)]),  # (B, P, P, 3)
            slides=torch.tensor(slides, dtype=torch.long),  # (B,)
            rows=torch.tensor(rows, dtype=torch.long),  # (B,)
            wanted=wanted_arrays(self._data.work, set(slides)),
            failures=failures,
            cost=cost,
        )

    def _stalled(self, place: int) -> str:
        return stall_reason(self._data.work[place].entry.path, self._data.timeout_s)
