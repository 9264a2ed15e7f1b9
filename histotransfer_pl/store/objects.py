"""A store in an object store (``s3://``, ``gs://``, ``az://``), read and written by obstore.

There is no rename: the metadata of a node are uploaded last, so a node is whole or not there.
Measured against s3fs on the same server (docs/decisions.md), obstore reads a bag in half the
time and small files in a tenth. Its threads do not survive a fork, so workers must be spawned.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import obstore
from numpy.typing import NDArray
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore, from_url
from typing_extensions import override

from histotransfer_pl.errors import StoreError, StoreReadOnlyError
from histotransfer_pl.store.bag_cache import BagCache
from histotransfer_pl.store.files import Layout, WritableFiles, metadata_key
from histotransfer_pl.store.layout import METADATA
from histotransfer_pl.store.metadata import RawLayout, group_document, to_bytes
from histotransfer_pl.store.rows import read_raw

_T = TypeVar("_T")
_CLIENT = {
    # a transfer that stands still is cut and tried again; a long one may take its time; http is
    # used only where an endpoint says so
    "client_options": {
        "connect_timeout": "10s",
        "read_timeout": "30s",
        "timeout": "3600s",
        "allow_http": True,
    },
    "retry_config": {"max_retries": 8, "retry_timeout": timedelta(minutes=5)},
}
_TRIES = 5
_PAUSES = (0.1, 0.4, 1.6, 6.4)
"""Seconds between the tries of a request."""


class ObjectFiles(WritableFiles):
    """Objects below a prefix.

    Credentials and endpoint come from the usual environment (``AWS_...``, ``GOOGLE_...``,
    ``AZURE_...``) or from ``storage_options``, which obstore's ``from_url`` takes.
    """

    can_write = True

    def __init__(self, url: str, storage_options: dict[str, Any]) -> None:
        self.location = url.rstrip("/")
        self.storage_options = storage_options
        self._cache = BagCache.from_environment()
        self._layouts: dict[str, Layout] = {}
        self._checked: set[str] = set()
        self._opened: ObjectStore | None = None

    @property
    def _store(self) -> ObjectStore:
        _refuse_fork()
        if self._opened is None:
            options = {**_CLIENT, **self.storage_options}
            self._opened = self._request("opened", "", lambda: from_url(self.location, **options))
        return self._opened

    @override
    def read(self, key: str) -> bytes:
        return self._request("read", key, lambda: bytes(obstore.get(self._store, key).bytes()))

    @override
    def exists(self, key: str) -> bool:
        return self._etag(key) is not None

    @override
    def folders(self, key: str) -> list[str]:
        prefix = f"{key}/" if key else None
        listing = self._request(
            "listed", key, lambda: obstore.list_with_delimiter(self._store, prefix)
        )
        names = [path.rpartition("/")[2] for path in listing["common_prefixes"]]
        return [name for name in names if name[0] != "."]

    @override
    def array(self, key: str) -> Any:
        import zarr
        from zarr.storage import ObjectStore as ZarrObjectStore

        store = ZarrObjectStore(self._store, read_only=True)
        return self._request("read", key, lambda: zarr.open_array(store, path=key, mode="r"))

    @override
    def layout(self, key: str, load: Callable[[], Layout]) -> Layout:
        if key not in self._layouts:
            self._layouts[key] = load()
        return self._layouts[key]

    @override
    def rows(
        self, key: str, layout: RawLayout, index: slice | NDArray[np.int64]
    ) -> NDArray[Any] | None:
        folder = self._cache.find(self._name_in_cache(key))
        if folder is not None:
            return read_raw(str(folder), layout, index)
        if not isinstance(index, slice):
            return self._gather(key, layout, index)
        return self._read_run(key, layout, index)

    @override
    def is_checked(self, key: str) -> bool:
        return key in self._checked

    @override
    def mark_checked(self, key: str, values: NDArray[Any]) -> None:
        self._checked.add(key)
        layout = self._layouts[key][1]
        if layout is not None:  # only sound values are kept on the disk
            self._cache.add(self._name_in_cache(key), layout, values)

    @override
    def create_root(self, content: bytes) -> None:
        self._put_new(METADATA, content)

    @override
    def writing(self, name: str, *, lock: bool) -> AbstractContextManager[None]:
        return nullcontext()  # nodes are whole or absent whoever writes; locks there are none

    @override
    def joining(self) -> AbstractContextManager[None]:
        return nullcontext()

    @override
    def stage(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="histotransfer-"))

    @override
    def publish(self, staged: Path, key: str, groups_from: str, *, replace: bool = False) -> bool:
        document = metadata_key(key)
        if replace:
            self._delete([document])
        elif self.exists(document):
            shutil.rmtree(staged)
            return False
        self._put_groups(key, groups_from)
        for _ in range(_TRIES):
            etags = self._upload(staged, key)
            self._forget(key)
            # Another writer of the same node may have replaced a chunk since: then ours are not
            # what our metadata say, and the later one of us uploads again.
            if all(self._etag(chunk) == etag for chunk, etag in etags.items()):
                shutil.rmtree(staged)
                return True
        raise StoreError(
            f"{self.location}/{key} is being written by another process again and again: stop "
            "it, then run the same command again"
        )

    @override
    def replace(self, key: str, content: bytes) -> None:
        self._request("written", key, lambda: obstore.put(self._store, key, content))

    @override
    def remove(self, key: str) -> None:
        self._delete([metadata_key(key)])
        pages = self._request("listed", key, lambda: list(obstore.list(self._store, f"{key}/")))
        self._delete([entry["path"] for page in pages for entry in page])
        self._forget(key)

    def _name_in_cache(self, key: str) -> str:
        return f"{self.location}/{key}@{self._layouts[key][2]}"  # another checksum, another bag

    def _upload(self, staged: Path, key: str) -> dict[str, str]:
        """Send the files of a node, its own metadata last; the etags of its chunks."""
        files = [path for path in staged.rglob("*") if path.is_file()]
        files.sort(key=lambda path: (path.name == METADATA, -len(path.parts)))
        etags: dict[str, str] = {}
        for path in files:
            target = f"{key}/{path.relative_to(staged).as_posix()}"
            etag = self._send(path, target)
            if path.name != METADATA:
                etags[target] = etag
        return etags

    def _send(self, path: Path, target: str) -> str:
        sent = self._request("written", target, lambda: obstore.put(self._store, target, path))
        return sent["e_tag"] or ""

    def _put_groups(self, key: str, groups_from: str) -> None:
        names = key.split("/")[:-1]
        for level in range(len([n for n in groups_from.split("/") if n]) + 1, len(names) + 1):
            self._put_new(metadata_key(*names[:level]), to_bytes(group_document({})))

    def _put_new(self, key: str, content: bytes) -> None:
        if not self.exists(key):
            with _ignoring_existing():
                self._request(
                    "written", key, lambda: obstore.put(self._store, key, content, mode="create")
                )

    def _delete(self, keys: list[str]) -> None:
        def delete() -> None:
            try:
                obstore.delete(self._store, keys)
            except FileNotFoundError:
                return

        self._request("removed", keys[0] if keys else "", delete)

    def _forget(self, key: str) -> None:
        self._layouts.pop(key, None)
        self._checked.discard(key)

    def _etag(self, key: str) -> str | None:
        try:
            found = self._request("read", key, lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return None
        return found["e_tag"] or ""

    def _read_run(self, key: str, layout: RawLayout, index: slice) -> NDArray[Any]:
        out = np.empty((index.stop - index.start, *layout.shape[1:]), layout.dtype)  # (K, ...)
        view = out.reshape(-1).view(np.uint8)
        row = index.start
        while row < index.stop:
            chunk, offset = divmod(row, layout.chunk_rows)
            end = min(index.stop, (chunk + 1) * layout.chunk_rows)
            span = slice(*((r - index.start) * layout.row_bytes for r in (row, end)))
            start, length = offset * layout.row_bytes, (end - row) * layout.row_bytes
            path = f"{key}/{layout.chunk_key(chunk)}"
            view[span] = np.frombuffer(self._range(path, start, length), np.uint8)
            row = end
        return out

    def _range(self, path: str, start: int, length: int) -> bytes | memoryview:
        def fetch() -> Any:
            return obstore.get_range(self._store, path, start=start, length=length)

        for _ in range(_TRIES):
            got = self._request("read", path, fetch)
            if len(got) == length:
                return memoryview(got)
        raise StoreError(
            f"{self.location}/{path} ends before its metadata say, at {start + len(got)} bytes: "
            "run `verify --repair true` on the store, then the extraction again"
        )

    def _gather(self, key: str, layout: RawLayout, index: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(index), *layout.shape[1:]), layout.dtype)  # (K, ...)
        flat = out.reshape(len(index), -1).view(np.uint8)  # (K, bytes)
        chunks = index // layout.chunk_rows  # (K,)
        for chunk in np.unique(chunks):
            places = np.flatnonzero(chunks == chunk)
            path = f"{key}/{layout.chunk_key(int(chunk))}"
            got = self._ranges(path, layout.row_bytes, index[places] - chunk * layout.chunk_rows)
            for place, content in zip(places, got, strict=True):
                flat[place] = np.frombuffer(content, np.uint8)
        return out

    def _ranges(self, path: str, size: int, rows: NDArray[np.int64]) -> Sequence[Any]:
        """The bytes of rows of a chunk, near ones in one request."""
        starts, lengths = (rows * size).tolist(), [size] * len(rows)
        return self._request(
            "read",
            path,
            # fetches what is less than 1 MiB apart in one request
            lambda: obstore.get_ranges(self._store, path, starts=starts, lengths=lengths),
        )

    def _request(self, what: str, key: str, request: Callable[[], _T]) -> _T:
        """The answer of a request, with what a user can do where it failed."""
        try:
            return _retry(request)
        except (FileNotFoundError, AlreadyExistsError):
            raise
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            kind = StoreError if what in ("read", "listed") else StoreReadOnlyError
            raise kind(
                f"{self.location}/{key} may not be {what}: check the credentials in the "
                f"environment and the rights they give ({_short(error)})"
            ) from error
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{self.location}/{key} could not be {what} ({_short(error)}): check address, "
                "endpoint and network, then run the same command again; it continues there"
            ) from error


_FORBIDDEN = "403 Forbidden"
"""In what obstore raises where a listing is refused; of other requests it says so by its type."""


def _retry(request: Callable[[], _T]) -> _T:
    """The answer of a request, asked again where the connection broke.

    obstore asks again by itself, but not after every broken connection, and every request made
    here may be carried out twice.
    """
    for pause in _PAUSES:
        try:
            return request()
        except GenericError as error:
            if _FORBIDDEN in str(error):
                raise PermissionError(_FORBIDDEN) from error
            time.sleep(pause)
    return request()


@contextmanager
def _ignoring_existing() -> Iterator[None]:
    """Let whoever was first have it."""
    try:
        yield
    except AlreadyExistsError:
        return


_used_in: list[int] = []


def _refuse_fork() -> None:
    """Say what would otherwise hang: obstore's threads are gone after a fork."""
    if not _used_in:
        _used_in.append(os.getpid())
    elif _used_in[0] != os.getpid():
        raise StoreError(
            "an object store was opened before this worker was forked: use data.num_workers 0, "
            "or workers that are spawned"
        )


def _short(error: Exception) -> str:
    """The first line of what the client says, without its debugging print."""
    return " ".join(str(error).partition("\n\nDebug")[0].split())[:300]
