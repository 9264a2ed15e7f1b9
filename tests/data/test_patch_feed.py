"""Batches on their way to a device: full, copied once, beside the work, and never waited for."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import override

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.data.patch_batch import PatchBatch, SlideWork
from histotransfer_pl.data.patch_feed import DeviceFeed, PoolBatches
from histotransfer_pl.data.patch_pool import ReadPatches, UnreadableSlide
from histotransfer_pl.data.patch_source import ReadCost


class Pool:
    """Pieces of 5 patches of two slides, the last one short, and a third slide that is lost."""

    shape = (3, 5, 2, 2, 3)

    def read(self, *_: object) -> Generator[ReadPatches | UnreadableSlide, None, None]:
        slot = np.empty((5, 2, 2, 3), np.uint8)  # the same memory again and again
        for place, total in ((0, 12), (1, 8)):
            for start in range(0, total, 5):
                rows = np.arange(start, min(start + 5, total))
                slot[: len(rows)] = (100 * place + rows)[:, None, None, None]
                yield ReadPatches(place, rows, slot[: len(rows)], ReadCost(1.0))
        yield UnreadableSlide(2, "gone")


def _work() -> list[SlideWork]:
    names = (("a",), ("a", "b"), ("c",))
    return [SlideWork(SlideEntry(str(i), Path()), 1, 0.5, names[i]) for i in range(3)]


def test_pieces_become_full_batches() -> None:
    batches = list(PoolBatches(Pool(), _work(), 8))  # type: ignore[arg-type]
    assert [len(batch.patches) for batch in batches] == [8, 8, 4]
    for batch in batches:
        expected = (100 * batch.slides + batch.rows).to(torch.uint8)  # (B,)
        torch.testing.assert_close(batch.patches, expected[:, None, None, None].expand(-1, 2, 2, 3))
    assert [batch.wanted for batch in batches] == [["a"], ["a", "b"], ["a", "b"]]
    assert batches[-1].failures == [(2, "gone")]
    assert sum(batch.cost.reading for batch in batches) == 5.0


class FakeStream:
    def __init__(self, log: list[tuple[Any, ...]], name: str) -> None:
        self.log, self.name = log, name

    def wait_event(self, event: "FakeEvent") -> None:
        self.log.append(("wait", self.name, event.number, threading.current_thread().name))


class FakeEvent:
    number = -1

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log = log

    def record(self, stream: FakeStream) -> None:
        self.number = sum(entry[0] == "copied" for entry in self.log)
        self.log.append(("copied", stream.name, self.number, threading.current_thread().name))

    def synchronize(self) -> None:
        raise AssertionError("the program must not wait for the device")


class Streams:
    """Stands in for torch.cuda."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def Stream(self, _: torch.device) -> FakeStream:  # noqa: N802 - torch's name
        return FakeStream(self.log, "copying")

    def Event(self) -> FakeEvent:  # noqa: N802
        return FakeEvent(self.log)

    @contextmanager
    def stream(self, stream: FakeStream) -> Generator[None, None, None]:
        self.log.append(("enter", stream.name))
        yield
        self.log.append(("leave", stream.name))

    def current_stream(self, _: torch.device) -> FakeStream:
        return FakeStream(self.log, "encoding")


def _batch(number: int) -> PatchBatch:
    patches = torch.full((4, 2, 2, 3), number, dtype=torch.uint8)
    places = torch.zeros(4, dtype=torch.long)
    return PatchBatch(patches, places, places + number, ["a"], [], ReadCost())


def _batches(count: int) -> Generator[PatchBatch, None, None]:
    for number in range(count):
        yield _batch(number)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Streams for which a batch's memory was kept."""
    found: list[str] = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _, stream: found.append(stream.name), raising=False
    )
    return found


def test_each_batch_is_copied_once_on_a_stream_of_its_own(kept: list[str]) -> None:
    streams = Streams()
    feed = DeviceFeed(_Batches(5), torch.device("meta"), streams)
    seen = []
    for batch in feed:
        assert batch.patches.is_meta  # on the device
        assert not batch.slides.is_meta  # on the host
        assert not batch.rows.is_meta
        seen.append(int(batch.rows[0]))
        assert ("wait", "encoding", len(seen) - 1, threading.current_thread().name) in streams.log
    assert seen == list(range(5))
    copies = [entry for entry in streams.log if entry[0] == "copied"]
    waits = [entry for entry in streams.log if entry[0] == "wait"]
    assert [entry[1] for entry in copies] == ["copying"] * 5
    assert [entry[2] for entry in waits] == list(range(5))
    assert kept == ["encoding"] * 5
    assert {entry[3] for entry in copies}.isdisjoint(entry[3] for entry in waits)
    assert feed.copying_s > 0


class _Batches:
    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = False
        self.given = 0

    def __iter__(self) -> Generator[PatchBatch, None, None]:
        try:
            for batch in _batches(self.count):
                self.given += 1
                yield batch
        finally:
            self.closed = True


def test_batches_are_sent_ahead_but_not_without_end(kept: list[str]) -> None:
    batches = _Batches(50)
    running = iter(DeviceFeed(batches, torch.device("meta"), Streams()))
    next(running)
    deadline = time.monotonic() + 10
    while batches.given < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert batches.given == 4  # one given, two that lie on the device, one that waits for room
    running.close()
    assert batches.closed
    assert not [t for t in threading.enumerate() if "ahead" in t.name]


def test_what_goes_wrong_in_the_thread_is_raised_here(kept: list[str]) -> None:
    class Broken(_Batches):
        @override
        def __iter__(self) -> Generator[PatchBatch, None, None]:
            yield _batch(0)
            raise ZeroDivisionError("while reading")

    feed = DeviceFeed(Broken(2), torch.device("meta"), Streams())
    with pytest.raises(ZeroDivisionError, match="while reading"):
        list(feed)
