"""A store behind a URL that only fsspec knows (http, memory ...): read only."""

from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.store.files import Files, Layout
from histotransfer_pl.store.metadata import RawLayout


class RemoteFiles(Files):
    """Files below a URL.

    The file system object is asked for at every use: fsspec caches it per process, and an object
    kept over a fork would refuse to work in a DataLoader's worker.
    """

    can_write = False

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
        names = [
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == "directory"
        ]
        return [name for name in names if name[0] != "."]

    @override
    def array(self, key: str) -> Any:
        import zarr
        from zarr.storage import FsspecStore

        store = FsspecStore.from_url(
            self.location, storage_options=self.storage_options, read_only=True
        )
        return zarr.open_array(store, path=key, mode="r", zarr_format=3)

    @override
    def layout(self, key: str, load: Callable[[], Layout]) -> Layout:
        return load()

    @override
    def rows(
        self, key: str, layout: RawLayout, index: slice | NDArray[np.int64]
    ) -> NDArray[Any] | None:
        return None

    @override
    def is_checked(self, key: str) -> bool:
        return False

    @override
    def mark_checked(self, key: str, values: NDArray[Any]) -> None:
        """Nothing is remembered: these stores are read now and then."""
