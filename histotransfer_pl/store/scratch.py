"""Where unfinished arrays lie, and what tells a living writer's from a dead one's.

Every writing process has a folder of its own below ``.partial`` and holds a lock beside it, which
the system gives back when the process dies. Whoever opens the store for writing removes the
folders whose lock is free, so several processes may write one store at once.
"""

import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from histotransfer_pl.store.failure import write_failure
from histotransfer_pl.store.layout import PARTIAL

_HELD = ".held"
# Some network file systems lock within one machine only: what another machine left is removed
# only when no work could still be going on there.
_FOREIGN_SECONDS = 24 * 3600.0
# On ext4 one fsync waits for one journal commit, and fsyncs that wait together share it: eight
# threads take a small slide from 40 ms to 8 ms.
_SYNC_THREADS = 8


@dataclass
class _Scratch:
    """The folder of this process in a store, and how many blocks use it."""

    folder: Path
    lock: FileLock
    users: int = 0
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_SYNC_THREADS))


_own: dict[tuple[int, str], _Scratch] = {}
_guard = threading.RLock()


@contextmanager
def scratch(root: Path) -> Iterator[None]:
    """The right to call ``new_partial`` for the length of a block; blocks may be nested.

    Raises:
        StoreReadOnlyError: The store cannot be written.
    """
    key = (os.getpid(), str(root))
    with _guard:
        own = _own.get(key)
        if own is None:
            own = _own[key] = _begin(root)
        own.users += 1
    try:
        yield
    finally:
        with _guard:
            own.users -= 1
            if own.users == 0:
                del _own[key]
                own.pool.shutdown()
                _remove(own.folder, own.lock)


def new_partial(root: Path) -> Path:
    """A fresh folder inside the store for what is being written; inside ``scratch`` only."""
    folder = _own[os.getpid(), str(root)].folder / uuid.uuid4().hex
    try:
        folder.mkdir()
    except OSError as error:
        raise write_failure(error, "a new array", root) from error
    return folder


def sync_pool(root: Path) -> ThreadPoolExecutor:
    """Threads to sync with, kept for the next array; inside ``scratch`` only."""
    return _own[os.getpid(), str(root)].pool


def sweep(root: Path) -> int:
    """Remove what killed writers left."""
    removed = 0
    # a writer killed as it began leaves a lock alone
    names = {path.name.removesuffix(_HELD) for path in (root / PARTIAL).glob("*")}
    for folder in [root / PARTIAL / name for name in sorted(names)]:
        if _is_from_this_machine(folder):
            lock = _lock_of(folder)
            with suppress(Timeout):  # its writer lives
                lock.acquire(timeout=0)
                _remove(folder, lock)
                removed += 1
    return removed


def _begin(root: Path) -> _Scratch:
    name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}"
    folder = root / PARTIAL / name
    lock = _lock_of(folder)
    for _ in range(100):  # a writer that ends removes the empty folder above, maybe just now
        try:
            folder.parent.mkdir(exist_ok=True)
            # before there is a folder that a sweep could take for dead; a sweep may hold it briefly
            lock.acquire(timeout=10)
            folder.mkdir()
        except FileNotFoundError:
            lock.release()
            continue
        except OSError as error:
            raise write_failure(error, "a new array", root) from error
        break
    return _Scratch(folder, lock)


def _lock_of(folder: Path) -> FileLock:
    # thread_local off: a thread that writes beside the encoder shares the folder
    return FileLock(folder.with_name(folder.name + _HELD), thread_local=False)


def _is_from_this_machine(folder: Path) -> bool:
    if folder.name.startswith(f"{platform.node()}-"):
        return True
    with suppress(FileNotFoundError):
        return time.time() - folder.stat().st_mtime > _FOREIGN_SECONDS
    return False


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    with suppress(OSError):  # others still write
        folder.parent.rmdir()
