"""Patches on their way from the readers to the device."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from histotransfer_pl.data.ahead import read_ahead
from histotransfer_pl.data.patch_batch import PatchBatch, SlideWork, wanted_arrays
from histotransfer_pl.data.patch_pool import ReaderPool, ReadPatches, UnreadableSlide
from histotransfer_pl.data.patch_source import ReadCost

_AHEAD = 2
"""Batches that lie on the device before they are asked for."""


class Batches(Protocol):
    """Batches, and a way to stop in the middle: that of generators."""

    def __iter__(self) -> Generator[PatchBatch, None, None]: ...


@dataclass(eq=False)
class PoolBatches:
    """Batches of what worker processes read, in the order in which it arrives."""

    pool: ReaderPool
    work: Sequence[SlideWork]
    batch_size: int
    pin: bool = field(default=False, kw_only=True)

    def __iter__(self) -> Generator[PatchBatch, None, None]:
        batch = _Batch(self)
        files = [item.file for item in self.work]
        for piece in self.pool.read(files, [item.n_patches for item in self.work]):
            if isinstance(piece, UnreadableSlide):
                batch.failures.append((piece.place, piece.reason))
                continue
            taken = 0
            while taken < len(piece.rows):
                taken += batch.take(piece, taken)
                if batch.size == self.batch_size:
                    yield batch.finish()
                    batch = _Batch(self)
        if batch.size or batch.failures:
            yield batch.finish()


class _Batch:
    """A batch that is being filled."""

    def __init__(self, batches: PoolBatches) -> None:
        self.size = 0
        self.failures: list[tuple[int, str]] = []
        self._work = batches.work
        shape = (batches.batch_size, *batches.pool.shape[2:])
        self._patches = torch.empty(shape, dtype=torch.uint8, pin_memory=batches.pin)
        self._slides = torch.empty(batches.batch_size, dtype=torch.long)  # (B,)
        self._rows = torch.empty(batches.batch_size, dtype=torch.long)  # (B,)
        self._cost = ReadCost()

    def take(self, piece: ReadPatches, taken: int) -> int:
        """Copy what there is room for, from the place up to which a piece was taken."""
        count = min(len(piece.rows) - taken, len(self._rows) - self.size)
        own, theirs = slice(self.size, self.size + count), slice(taken, taken + count)
        self._patches.numpy()[own] = piece.patches[theirs]
        self._rows.numpy()[own] = piece.rows[theirs]
        self._slides[own] = piece.place
        if not taken:
            self._cost.add(piece.cost)
        self.size += count
        return count

    def finish(self) -> PatchBatch:
        slides = self._slides[: self.size]
        return PatchBatch(
            patches=self._patches[: self.size],  # (B, P, P, 3)
            slides=slides,  # (B,)
            rows=self._rows[: self.size],  # (B,)
            wanted=wanted_arrays(self._work, set(slides.tolist())),
            failures=self.failures,
            cost=self._cost,
        )


class DeviceFeed:
    """Copies batches to a device beside what the device computes.

    A thread takes batches from their readers and sends them off on a stream of its own; the
    stream that encodes waits for the copy, the program does not. Slide numbers and rows stay on
    the host.

    Args:
        batches: Batches on the host.
        device: Where to.
        streams: ``torch.cuda``, or what stands in for it.
    """

    def __init__(self, batches: Batches, device: torch.device, streams: Any = torch.cuda) -> None:
        self.batches = batches
        self.device = device
        self.copying_s = 0.0
        """Seconds that the thread spent on sending, not on waiting for readers."""
        self._streams = streams

    def __iter__(self) -> Generator[PatchBatch, None, None]:
        with closing(read_ahead(self._sent(), _AHEAD)) as sent:
            for batch, copied in sent:
                encoding = self._streams.current_stream(self.device)
                encoding.wait_event(copied)
                # Its memory belongs to the copying stream, and must not be reused too early.
                batch.patches.record_stream(encoding)
                yield batch

    def _sent(self) -> Generator[tuple[PatchBatch, Any], None, None]:
        """Batches on their way, each with the event of its arrival; runs in the thread."""
        copying = self._streams.Stream(self.device)
        with closing(iter(self.batches)) as batches:
            for batch in batches:
                start = time.perf_counter()
                sent = self._send(batch, copying)
                self.copying_s += time.perf_counter() - start
                yield sent

    def _send(self, batch: PatchBatch, copying: Any) -> tuple[PatchBatch, Any]:
        patches = batch.patches if batch.patches.is_pinned() else _pinned(batch.patches)
        with self._streams.stream(copying):
            # torch keeps the pinned memory until the copy has run.
            on_device = patches.to(self.device, non_blocking=True)  # (B, P, P, 3)
            copied = self._streams.Event()
            copied.record(copying)
        return batch._replace(patches=on_device), copied


def _pinned(patches: Tensor) -> Tensor:
    return patches.pin_memory() if torch.cuda.is_available() else patches
