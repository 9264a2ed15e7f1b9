"""Work that a thread does ahead of whoever asks for its results."""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")
_PATIENCE_S = 2.0


def read_ahead(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """Give what an iterator gives, while a thread asks it for the next ones.

    What it raises is raised here. Leaving early closes it, if it is a generator.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()
    thread = threading.Thread(
        target=_run, args=(items, ready, stop), daemon=True, name="reading ahead"
    )
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stop.set()
        patience = time.monotonic() + _PATIENCE_S
        # Not for ever: it may wait for a disk that no longer answers.
        while thread.is_alive() and time.monotonic() < patience:
            _drain(ready)
            thread.join(0.05)


class AheadLoader(Generic[T]):
    """A DataLoader whose batches are read and put together outside the training loop.

    Its sampler and length are those of the loader, which Lightning looks at.
    """

    def __init__(self, loader: DataLoader[T], ahead: int = 2) -> None:
        self.loader = loader
        self.ahead = ahead
        self.dataset = loader.dataset
        self.sampler = loader.sampler
        self.batch_sampler = loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[T]:
        # Begun here: a loader draws a seed when it begins, which must not happen at some other
        # moment of another thread.
        return read_ahead(iter(self.loader), self.ahead)


def _run(items: Iterator[T], ready: "queue.Queue[Any]", stop: threading.Event) -> None:
    try:
        with closing(items) if isinstance(items, Generator) else nullcontext():
            for item in items:
                if stop.is_set():
                    return
                ready.put((item,))
        ready.put(None)
    except BaseException as error:  # noqa: BLE001 - raised again by whoever asks
        ready.put(error)


def _drain(ready: "queue.Queue[Any]") -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
