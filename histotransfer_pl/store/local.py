"""A store in a folder of this machine."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.create import create_folder
from histotransfer_pl.store.failure import write_failure
from histotransfer_pl.store.files import Layout, WritableFiles
from histotransfer_pl.store.layout import METADATA
from histotransfer_pl.store.lock import WriteLock
from histotransfer_pl.store.metadata import RawLayout
from histotransfer_pl.store.rows import read_raw
from histotransfer_pl.store.scratch import new_partial, scratch, sweep
from histotransfer_pl.store.staging import publish, sync

_Signature = tuple[int, int, int]


class LocalFiles(WritableFiles):
    """Files below a folder."""

    can_write = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        self._layouts: dict[str, tuple[_Signature, Layout]] = {}
        self._checked: dict[str, _Signature] = {}

    @override
    def read(self, key: str) -> bytes:
        # os instead of pathlib: this runs for every bag of every epoch. NONBLOCK: the opening of
        # a pipe would wait for its other end.
        try:
            descriptor = os.open(f"{self.location}/{key}", os.O_RDONLY | os.O_NONBLOCK)
        except NotADirectoryError as error:
            raise FileNotFoundError(key) from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise StoreError(
                    f"{self.location}/{key} is no regular file: remove it, or copy the store again"
                )
            return os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)

    @override
    def exists(self, key: str) -> bool:
        return os.path.isfile(f"{self.location}/{key}")  # noqa: PTH113

    @override
    def folders(self, key: str) -> list[str]:
        try:
            with os.scandir(f"{self.location}/{key}") as entries:
                return [e.name for e in entries if e.name[0] != "." and e.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    @override
    def array(self, key: str) -> "Any":
        import zarr

        return zarr.open_array(self.root / key, mode="r", zarr_format=3)

    @override
    def layout(self, key: str, load: Callable[[], Layout]) -> Layout:
        # Parsing the metadata takes half as long as reading a small bag; asking whether it has
        # changed takes a tenth of that. A replaced array has another inode.
        try:
            found = os.stat(f"{self.location}/{key}/{METADATA}")  # noqa: PTH116
        except FileNotFoundError:
            return load()  # which knows what to say
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._layouts.get(key)
        if known is None or known[0] != signature:
            known = self._layouts[key] = (signature, load())
        return known[1]

    @override
    def rows(
        self, key: str, layout: RawLayout, index: slice | NDArray[np.int64]
    ) -> NDArray[Any] | None:
        return read_raw(f"{self.location}/{key}", layout, index)

    @override
    def is_checked(self, key: str) -> bool:
        return self._checked.get(key) == self._layouts[key][0]

    @override
    def mark_checked(self, key: str, values: NDArray[Any]) -> None:
        self._checked[key] = self._layouts[key][0]

    @override
    def create_root(self, content: bytes) -> None:
        create_folder(self.root, content)

    @override
    @contextmanager
    def writing(self, name: str, *, lock: bool) -> Iterator[None]:
        guard = WriteLock(self.root, name)
        if not lock:
            guard.check_held_elsewhere()
            with scratch(self.root):
                yield
            return
        guard.acquire()
        try:
            with scratch(self.root):
                sweep(self.root)
                yield
                sync(self.root)
        finally:
            guard.release()

    @override
    @contextmanager
    def joining(self) -> Iterator[None]:
        with scratch(self.root):
            yield

    @override
    def stage(self) -> Path:
        return new_partial(self.root)

    @override
    def publish(self, staged: Path, key: str, groups_from: str, *, replace: bool = False) -> bool:
        place, above = self.root / key, self.root / groups_from
        return publish(self.root, staged, place, above, replace=replace)

    @override
    def replace(self, key: str, content: bytes) -> None:
        aside = self.stage() / METADATA
        try:
            aside.write_bytes(content)
            sync(aside)
            aside.replace(self.root / key)
        except OSError as error:
            raise write_failure(error, key, self.location) from error
        finally:
            shutil.rmtree(aside.parent)

    @override
    def remove(self, key: str) -> None:
        bin_ = self.stage()
        try:
            with suppress(FileNotFoundError):
                (self.root / key).rename(bin_ / "removed")  # gone at once, then deleted
        except OSError as error:
            raise write_failure(error, key, self.location) from error
        finally:
            shutil.rmtree(bin_, ignore_errors=True)
