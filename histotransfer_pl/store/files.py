"""Where a store lies: a local folder, or a URL that fsspec can read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
from typing_extensions import override

from histotransfer_pl.store.layout import METADATA
from histotransfer_pl.store.metadata import RawLayout

if TYPE_CHECKING:
    from zarr import Array

Layout = tuple[int, RawLayout | None]
"""Rows of an array, and how to read it as plain bytes; None when zarr-python must."""

_LOCAL_SCHEMES = ("file://", "local://")


class Files(Protocol):
    """What reading a store needs from the place where it lies; keys are relative, with ``/``."""

    location: str

    def read(self, key: str) -> bytes:
        """The bytes of a small file; FileNotFoundError if there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        ...

    def folders(self, key: str) -> list[str]:
        """Names of the folders inside a folder, hidden ones left out; none if it is missing."""
        ...

    def array(self, key: str) -> "Array[Any]":
        """An array opened by zarr-python, whatever its codecs are."""
        ...

    def layout(self, key: str, load: Callable[[], Layout]) -> Layout:
        """How an array lies on the disk: ``load()``, or what it gave while nothing changed."""
        ...


class LocalFiles(Files):
    """A store in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        self._layouts: dict[str, tuple[tuple[int, int, int], Layout]] = {}

    @override
    def read(self, key: str) -> bytes:
        # os instead of pathlib: this runs for every bag of every epoch
        try:
            descriptor = os.open(f"{self.location}/{key}", os.O_RDONLY)
        except NotADirectoryError as error:
            raise FileNotFoundError(key) from error
        try:
            return os.read(descriptor, os.fstat(descriptor).st_size)
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
    def array(self, key: str) -> "Array[Any]":
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


class RemoteFiles(Files):
    """A store behind a URL, read only.

    The file system object is asked for at every use: fsspec caches it per process, and an object
    kept over a fork would refuse to work in a DataLoader's worker.
    """

    def __init__(self, url: str, storage_options: dict[str, Any]) -> None:
        self.location = url.rstrip("/")
        self.storage_options = storage_options

    def _open(self, key: str) -> tuple[Any, str]:
        system, root = fsspec.url_to_fs(self.location, **self.storage_options)
        return system, f"{root}/{key}"

    @override
    def read(self, key: str) -> bytes:
        system, path = self._open(key)
        content: bytes = system.cat_file(path)
        return content

    @override
    def exists(self, key: str) -> bool:
        system, path = self._open(key)
        return bool(system.exists(path))

    @override
    def folders(self, key: str) -> list[str]:
        system, path = self._open(key)
        try:
            entries = system.ls(path.rstrip("/"), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [e["name"].rstrip("/").rpartition("/")[2] for e in entries if _is_folder(e)]
        return [name for name in names if name[0] != "."]

    @override
    def array(self, key: str) -> "Array[Any]":
        import zarr
        from zarr.storage import FsspecStore

        store = FsspecStore.from_url(
            self.location, storage_options=self.storage_options, read_only=True
        )
        return zarr.open_array(store, path=key, mode="r", zarr_format=3)

    @override
    def layout(self, key: str, load: Callable[[], Layout]) -> Layout:
        return load()


def _is_folder(entry: dict[str, Any]) -> bool:
    return bool(entry["type"] == "directory")


def find_files(location: str | Path, storage_options: dict[str, Any] | None = None) -> Files:
    """The place behind a path or URL; nothing is read yet."""
    text = str(location)
    for scheme in _LOCAL_SCHEMES:
        if text.startswith(scheme):
            return LocalFiles(Path(text.removeprefix(scheme)))
    if "://" in text:
        return RemoteFiles(text, storage_options or {})
    return LocalFiles(Path(location))


def metadata_key(*parts: str) -> str:
    """The key of the metadata of a node, given the parts of its path."""
    return "/".join([*parts, METADATA])
