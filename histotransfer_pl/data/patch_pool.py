"""Worker processes that read patches, started once for all slides of a job.

Each has a pipe and slots of its own in memory that all share: patches are never pickled, and a
process that is killed or hangs holds nothing that the others need.
"""

import contextlib
import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.patch_source import PatchSource, ReadCost, SlideFile, stall_reason
from histotransfer_pl.data.patch_worker import (
    Crashed,
    FilledSlot,
    SharedMemory,
    Task,
    TaskDone,
    serve,
)
from histotransfer_pl.errors import WorkerError

_log = logging.getLogger(__name__)

StartMethod = Literal["forkserver", "spawn", "fork"]

_SLOT_BYTES = 4 << 20
_SLOTS = 3
"""Of each worker: one that it fills, one on the way, one that is being copied."""
_TASKS = 2
"""Of each worker at a time, so that it has the next one when it ends the first."""
_PART_PATCHES = (256, 2048)
"""Smallest and largest share of a slide that is one task."""
_LOOK_S = 0.5


class ReadPatches(NamedTuple):
    """Some patches of a slide; they must be copied before the next ones are asked for."""

    place: int
    rows: NDArray[np.int64]  # (K,)
    patches: NDArray[np.uint8]  # (K, P, P, 3)
    cost: ReadCost


class UnreadableSlide(NamedTuple):
    """A slide that could not be read to its end."""

    place: int
    reason: str


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    slots: range
    tasks: deque[Task] = field(default_factory=deque)
    taken: int = 0
    heard: float = field(default_factory=time.monotonic)


class ReaderPool:
    """Reads slides with some worker processes.

    Args:
        source: Where patches come from; it travels to the workers.
        workers: Number of processes.
        timeout_s: Seconds after which a slide that gives nothing is given up.
        start_method: How processes are started; ``fork`` would copy the threads' locks and the
            device's context of this process.

    Raises:
        OSError: If there is no room for the memory that the processes share.
    """

    def __init__(
        self,
        source: PatchSource,
        workers: int,
        timeout_s: float = 300.0,
        start_method: StartMethod | None = None,
    ) -> None:
        side = source.settings.patch_px
        patches = max(1, _SLOT_BYTES // (side * side * 3))
        self.shape = (workers * _SLOTS, patches, side, side, 3)
        self._memory = SharedMemory(int(np.prod(self.shape, dtype=np.int64)))
        self._slots = self._memory.array(self.shape)
        self._source = source
        self._timeout_s = timeout_s
        methods = multiprocessing.get_all_start_methods()
        method = start_method or ("forkserver" if "forkserver" in methods else "spawn")
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":  # what all workers need is imported once
            self._context.set_forkserver_preload([serve.__module__])
        self._lost: set[int] = set()
        self._workers = [
            self._start(range(first, first + _SLOTS))
            for first in range(0, len(self._slots), _SLOTS)
        ]

    def read(
        self, slides: Sequence[SlideFile], counts: Sequence[int]
    ) -> Iterator[ReadPatches | UnreadableSlide]:
        """The patches of slides, in the order in which they arrive.

        Raises:
            WorkerError: If a worker process ended by itself.
        """
        self._lost.clear()
        todo = deque(share_out_slides(slides, counts, len(self._workers)))
        self._hand_out(todo)
        while any(worker.tasks for worker in self._workers):
            by_connection = {worker.connection: worker for worker in self._workers}
            ready = wait(list(by_connection), timeout=min(_LOOK_S, self._timeout_s))
            for connection in ready:
                worker = by_connection[connection]  # type: ignore[index]
                yield from self._take(worker)
            silent = [worker for worker in self._workers if worker.connection not in ready]
            for worker in silent:
                yield from self._give_up_stalled(worker, todo)
            self._hand_out(todo)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            _end(worker.process, patience_s=1.0)
        self._workers.clear()
        del self._slots
        self._memory.close()

    def _start(self, slots: range) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._memory, self.shape, slots, self._source)
        process = self._context.Process(target=serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()  # so that its end is seen here
        return _Worker(process, ours, slots)

    def _hand_out(self, todo: deque[Task]) -> None:
        """Give each worker what to do now and next."""
        for _ in range(_TASKS):
            for worker in self._workers:
                while todo and todo[0].place in self._lost:
                    todo.popleft()
                if todo and len(worker.tasks) < _TASKS:
                    if not worker.tasks:
                        worker.heard = time.monotonic()
                    worker.tasks.append(todo[0])
                    self._send(worker, todo.popleft())

    def _send(self, worker: _Worker, message: Task | int) -> None:
        try:
            worker.connection.send(message)
        except ConnectionError as error:
            raise self._died(worker) from error

    def _take(self, worker: _Worker) -> Iterator[ReadPatches | UnreadableSlide]:
        """Pass on what a worker says."""
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._died(worker) from error
        worker.heard = time.monotonic()
        if isinstance(message, Crashed):
            raise RuntimeError(f"a reading process failed:\n{message.traceback}")
        if isinstance(message, FilledSlot):
            worker.taken += 1
            if message.place not in self._lost:
                patches = self._slots[message.slot][: len(message.rows)]
                yield ReadPatches(message.place, message.rows, patches, message.cost)
            worker.taken -= 1
            worker.heard = time.monotonic()
            self._send(worker, message.slot)
        elif isinstance(message, TaskDone):
            task = worker.tasks.popleft()
            if message.failure is not None:
                yield from self._give_up_slide(task.place, message.failure)

    def _give_up_slide(self, place: int, reason: str) -> Iterator[UnreadableSlide]:
        if place not in self._lost:
            self._lost.add(place)
            yield UnreadableSlide(place, reason)

    def _give_up_stalled(self, worker: _Worker, todo: deque[Task]) -> Iterator[UnreadableSlide]:
        """Leave a slide that gives nothing any more, and go on with the others."""
        if not worker.tasks or time.monotonic() - worker.heard < self._timeout_s:
            return
        task = worker.tasks.popleft()
        todo.extendleft(reversed(worker.tasks))
        worker.connection.close()
        worker.process.kill()  # one that waits for a dead file system ends when that comes back
        self._workers[self._workers.index(worker)] = self._start(worker.slots)
        yield from self._give_up_slide(task.place, stall_reason(task.slide.path, self._timeout_s))

    def _died(self, worker: _Worker) -> WorkerError:
        worker.process.join(1.0)
        code = worker.process.exitcode
        again = "whole slides are kept; run the same command again"
        if code is not None and code < 0:
            return WorkerError(
                f"a reading process was killed by signal {-code}, as the kernel does when memory "
                f"runs out: {again}, with fewer processes (data.num_workers, now "
                f"{len(self._workers)})"
            )
        return WorkerError(
            f"a reading process ended with code {code}, its error stands above: {again}, or read "
            "in threads (data.num_workers 0); a script of your own must start under "
            "if __name__ == '__main__'"
        )


def share_out_slides(
    slides: Sequence[SlideFile], counts: Sequence[int], workers: int
) -> Iterator[Task]:
    """Cut slides into tasks: few for long jobs, enough for all workers to end together."""
    least, most = _PART_PATCHES
    size = min(max(least, sum(counts) // (8 * workers)), most)
    for place, (slide, count) in enumerate(zip(slides, counts, strict=True)):
        parts = max(1, round(count / size))
        for part in range(parts):
            yield Task(place, slide, part, parts)


def _end(process: BaseProcess, patience_s: float) -> None:
    with contextlib.suppress(ValueError):  # already ended
        process.join(patience_s)
        if process.is_alive():
            process.kill()
            process.join(patience_s)
