"""A process that reads patches into memory that it shares with the process that encodes them.

It imports no torch and starts in a fraction of a second. It talks through a pipe of its own, so
that whatever happens to it, no lock is left behind that others wait for.
"""

import contextlib
import mmap
import os
import signal
import tempfile
import traceback
from collections import deque
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.data.patch_source import PatchSource, ReadCost, SlideFile
from histotransfer_pl.errors import SlideError, StoreError

_PARENT_LOOK_S = 5.0


class Task(NamedTuple):
    """A share of the blocks of a slide; ``place`` is the slide's place in the list of work."""

    place: int
    slide: SlideFile
    part: int
    parts: int


class FilledSlot(NamedTuple):
    """Patches that lie in a slot of the shared memory."""

    slot: int
    place: int
    rows: NDArray[np.int64]  # (K,)
    cost: ReadCost


class TaskDone(NamedTuple):
    """A task has ended; ``failure`` says why it could not be done, if it could not."""

    failure: str | None = None


class Crashed(NamedTuple):
    """A mistake of the program itself, with its traceback."""

    traceback: str


class SharedMemory:
    """Bytes that processes share, without a file that a killed process would leave behind.

    It does not lie in /dev/shm, which is 64 MB small in many containers, where there is a better
    way (Linux).

    Args:
        size: Bytes, reserved at once: memory that is missing is an error here, and not a process
            that the kernel kills when it writes.

    Raises:
        OSError: If there is no room.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._descriptor = _anonymous_file()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, size)
            else:
                os.ftruncate(self._descriptor, size)
            self._map = mmap.mmap(self._descriptor, size)
        except OSError:
            os.close(self._descriptor)
            raise

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "descriptor": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.size = state["size"]
        self._descriptor = state["descriptor"].detach()
        self._map = mmap.mmap(self._descriptor, self.size)

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The memory as uint8 of some shape."""
        return np.frombuffer(self._map, np.uint8, count=int(np.prod(shape))).reshape(shape)

    def close(self) -> None:
        """Give the descriptor back; the memory goes when the last array over it does."""
        os.close(self._descriptor)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("histotransfer_pl patches")
    with tempfile.TemporaryFile() as file:  # unlinked, so that it goes with its last user
        return os.dup(file.fileno())


def serve(
    connection: Connection,
    memory: SharedMemory,
    shape: tuple[int, ...],
    slots: range,
    source: PatchSource,
) -> None:
    """Do tasks until the other end closes; the target of a worker process.

    Args:
        connection: Brings tasks and the numbers of slots that are free again, takes messages.
        memory: All slots of all workers.
        shape: (slots, K, P, P, 3).
        slots: The slots of this worker.
        source: Where patches come from.
    """
    # Ctrl-C reaches the whole group: the process that encodes decides, and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = _Worker(connection, memory.array(shape), slots, source)
    with contextlib.suppress(EOFError, ConnectionError):  # the other end has gone
        try:
            while True:
                worker.run(worker.next_task())
        except (EOFError, ConnectionError):
            raise
        except Exception:  # noqa: BLE001 - told to the process that waits for it
            connection.send(Crashed(traceback.format_exc()))


class _Worker:
    def __init__(
        self,
        connection: Connection,
        memory: NDArray[np.uint8],
        slots: range,
        source: PatchSource,
    ) -> None:
        self._connection = connection
        self._memory = memory
        self._free = deque(slots)
        self._tasks: deque[Task] = deque()
        self._source = source
        self._parent = os.getppid()

    def next_task(self) -> Task:
        while not self._tasks:
            self._receive()
        return self._tasks.popleft()

    def run(self, task: Task) -> None:
        try:
            rows = self._source.blocks(task.slide).share(task.part, task.parts)
            room = self._memory.shape[1]
            for start in range(0, len(rows), room):
                self._fill(task, rows[start : start + room])
        except (SlideError, StoreError) as error:
            self._connection.send(TaskDone(str(error)))
        else:
            self._connection.send(TaskDone())

    def _fill(self, task: Task, rows: NDArray[np.int64]) -> None:
        slot = self._free_slot()
        try:
            patches = self._memory[slot]  # (K, P, P, 3)
            cost = self._source.read_into(patches, task.place, task.slide, rows.tolist())
        except (SlideError, StoreError):
            self._free.append(slot)
            raise
        self._connection.send(FilledSlot(slot, task.place, rows, cost))

    def _free_slot(self) -> int:
        while not self._free:
            self._receive()
        return self._free.popleft()

    def _receive(self) -> None:
        while not self._connection.poll(_PARENT_LOOK_S):
            # A forked sibling may hold the other end open after the parent was killed.
            if os.getppid() != self._parent:
                raise EOFError
        message = self._connection.recv()
        if isinstance(message, Task):
            self._tasks.append(message)
        else:
            self._free.append(message)
