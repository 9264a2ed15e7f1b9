"""One writer per name in a store, also when an earlier writer was killed."""

import json
import os
import platform
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from histotransfer_pl.errors import StoreError, StoreLockedError
from histotransfer_pl.store.failure import READ_ONLY, write_failure
from histotransfer_pl.store.layout import HOLDER, LOCK, encode_key


class WriteLock:
    """The right to write a store under a name, given back by the system when its holder dies.

    It spares double work and guards nothing: arrays appear whole whoever writes. So a whole
    extraction (no name) and shards (``shard 2/8``) may write beside each other.
    """

    def __init__(self, root: Path, name: str = "") -> None:
        self._root = root
        self._what = f"{name} of {root}" if name else str(root)
        suffix = f"-{encode_key(name)}" if name else ""
        self._holder = root / f"{HOLDER}{suffix}"
        # thread_local off: a thread that writes beside the encoder shares the holder's lock
        self._lock = FileLock(root / f"{LOCK}{suffix}", thread_local=False)

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
                f"{self._what} is being written by {self._describe_holder()}: wait until it has "
                "finished or stop it, then run the same command again; it continues there"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise self._refusal(error) from error
        holder = {"process": os.getpid(), "machine": platform.node()}
        self._holder.write_text(json.dumps(holder), encoding="utf-8")

    def release(self) -> None:
        """Give the lock back and remove its traces, which Zarr tools would warn about."""
        with suppress(FileNotFoundError):
            self._holder.unlink()
        # Removed while still held: whoever opened it meanwhile sees that it has no name any more
        # and starts over.
        with suppress(OSError):
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def check_held_elsewhere(self) -> None:
        """For helpers of the holder."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return
        self._lock.release()
        raise StoreError(
            f"nobody holds the lock of {self._what}: the main process opens writing() first, "
            "its helpers join with writing(lock=False) afterwards"
        )

    def _refusal(self, error: OSError | NotImplementedError) -> StoreError:
        if isinstance(error, OSError) and error.errno in READ_ONLY:
            return write_failure(error, "the lock", self._root)
        return StoreError(
            f"{self._root} cannot be locked for writing ({error}): choose a folder that you may "
            "write"
        )

    def _describe_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_text(encoding="utf-8"))
            return f"process {holder['process']} on {holder['machine']}"
        except (OSError, ValueError, KeyError):
            return "another process"
