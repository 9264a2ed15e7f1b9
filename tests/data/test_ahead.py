"""Reading ahead: in another thread, in order, not without end, with what went wrong."""

import threading
import time
from collections.abc import Generator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from histotransfer_pl.data import ahead
from histotransfer_pl.data.ahead import AheadLoader, read_ahead


class Numbers(Dataset[torch.Tensor]):
    """Notes which thread reads, and when."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.read = 0

    def __len__(self) -> int:
        return 12

    @override
    def __getitem__(self, place: int) -> torch.Tensor:
        self.threads.add(threading.current_thread().name)
        self.read += 1
        return torch.tensor(place)


def test_batches_of_a_loader_are_read_outside_the_loop() -> None:
    numbers = Numbers()
    plain = DataLoader(numbers, batch_size=3)
    loader = AheadLoader(plain)
    assert len(loader) == 4
    assert loader.batch_sampler is plain.batch_sampler
    for _ in range(2):
        batches = [batch.tolist() for batch in loader]
        assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert numbers.threads == {"reading ahead"}


def test_no_more_than_was_said_is_read_and_leaving_ends_the_thread() -> None:
    numbers = Numbers()
    running = iter(AheadLoader(DataLoader(numbers, batch_size=1)))
    next(running)
    deadline = time.monotonic() + 10
    while numbers.read < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert numbers.read == 4  # one given, two that wait, one for which there is no room
    assert isinstance(running, Generator)
    running.close()
    assert "reading ahead" not in {thread.name for thread in threading.enumerate()}


def test_what_goes_wrong_ahead_is_raised_here() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise ZeroDivisionError("ahead")

    running = read_ahead(broken(), 2)
    assert next(running) == 1
    with pytest.raises(ZeroDivisionError, match="ahead"):
        next(running)


def test_leaving_does_not_wait_for_what_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_PATIENCE_S", 0.1)
    released = threading.Event()

    def stalled() -> Generator[int, None, None]:
        yield 1
        released.wait(30)

    running = read_ahead(stalled(), 1)
    assert next(running) == 1
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 10
    released.set()
