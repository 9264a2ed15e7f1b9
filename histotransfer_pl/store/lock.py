"""One writer per store, also when an earlier writer was killed."""

import json
import os
import platform
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from histotransfer_pl.errors import StoreError, StoreLockedError
from histotransfer_pl.store.layout import HOLDER, LOCK


class WriteLock:
    """The exclusive right to write a store, given back by the system when its holder dies."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # thread_local off: a thread that writes beside the encoder shares the holder's lock
        self._lock = FileLock(root / LOCK, thread_local=False)

    def acquire(self, wait_seconds: float = 0.0) -> None:
        """Take the lock.

        Raises:
            StoreLockedError: Another writer holds it.
            StoreError: The folder cannot be written.
        """
        try:
            self._lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            raise StoreLockedError(
                f"{self._root} is being written by {self._describe_holder()}: wait until it has "
                "finished or stop it, then run the same command again; it continues there"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise StoreError(
                f"{self._root} cannot be locked for writing ({error}): choose a folder that you "
                "may write"
            ) from error
        holder = {"process": os.getpid(), "machine": platform.node()}
        (self._root / HOLDER).write_text(json.dumps(holder), encoding="utf-8")

    def release(self) -> None:
        """Give the lock back and remove its traces, which Zarr tools would warn about."""
        with suppress(FileNotFoundError):
            (self._root / HOLDER).unlink()
        # Removed while still held: whoever opened it meanwhile sees that it has no name any more
        # and starts over.
        with suppress(OSError):
            (self._root / LOCK).unlink()
        self._lock.release()

    def check_held_elsewhere(self) -> None:
        """For helpers of the holder.

        Raises:
            StoreError: Nobody holds the lock.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return
        self._lock.release()
        raise StoreError(
            f"nobody holds the lock of {self._root}: the main process opens writing() first, "
            "its helpers join with writing(lock=False) afterwards"
        )

    def _describe_holder(self) -> str:
        try:
            holder = json.loads((self._root / HOLDER).read_text(encoding="utf-8"))
            return f"process {holder['process']} on {holder['machine']}"
        except (OSError, ValueError, KeyError):
            return "another process"
