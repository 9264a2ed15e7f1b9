"""What a store needs from the place where it lies, and which place a path or URL means."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.store.layout import METADATA
from histotransfer_pl.store.metadata import RawLayout

if TYPE_CHECKING:
    from zarr import Array

Layout = tuple[int, RawLayout | None, str | None]
"""Rows of an array, how to read it as plain bytes (None when zarr-python must), its checksum."""

_LOCAL_SCHEMES = ("file://", "local://")
_OBJECT_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "abfss://")
# What Path makes of a URL: "s3://bucket/x" becomes "s3:/bucket/x", which is no local folder.
_MANGLED_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/(?!/)")


class Files(Protocol):
    """A place with keys: relative, with ``/``, as in an object store."""

    location: str
    can_write: bool
    """Whether it is a ``WritableFiles``; what the system allows is another question."""

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
        """How an array lies there: ``load()``, or what it gave while nothing changed."""
        ...

    def rows(
        self, key: str, layout: RawLayout, index: slice | NDArray[np.int64]
    ) -> NDArray[Any] | None:
        """Rows of a plain array, or None where zarr-python must read them."""
        ...

    def is_checked(self, key: str) -> bool:
        """Whether the values of an array were compared with their checksum since they changed."""
        ...

    def mark_checked(self, key: str, values: NDArray[Any]) -> None:
        """Remember that all values of an array were compared."""
        ...


class WritableFiles(Files, Protocol):
    """A place that can be written; arrays and slides appear there whole."""

    def create_root(self, content: bytes) -> None:
        """Write the metadata of a new store, unless another process has just done so."""
        ...

    def writing(self, name: str, *, lock: bool) -> AbstractContextManager[None]:
        """The right to write under a name that no other process may bear at the same time."""
        ...

    def joining(self) -> AbstractContextManager[None]:
        """The right to write beside whoever writes."""
        ...

    def stage(self) -> Path:
        """A fresh local folder for what is being written."""
        ...

    def publish(self, staged: Path, key: str, groups_from: str, *, replace: bool = False) -> bool:
        """Move a staged node to its key, whole, and create the groups missing above it.

        Args:
            staged: What ``stage`` gave, complete.
            key: Where it belongs.
            groups_from: An existing group above ``key``.
            replace: Whether a node that stands there gives way.
        """
        ...

    def replace(self, key: str, content: bytes) -> None:
        """Write a small file; readers see the old bytes or the new ones."""
        ...

    def remove(self, key: str) -> None:
        """Take a node away with all that it holds; its metadata goes first."""
        ...


def is_url(location: str | Path) -> bool:
    """Whether a location is not a folder of this machine."""
    return "://" in url_or_path(location)


def url_or_path(location: str | Path) -> str:
    """The location as text, with the second slash that ``Path`` takes from a URL."""
    text = _MANGLED_URL.sub(r"\1://", str(location))
    for scheme in _LOCAL_SCHEMES:
        if text.startswith(scheme):
            return text.removeprefix(scheme)
    return text


def find_files(location: str | Path, storage_options: dict[str, Any] | None = None) -> Files:
    """The place behind a path or URL; nothing is read yet."""
    text = url_or_path(location)
    # Each is imported where it is needed: a local store starts without any client.
    if text.startswith(_OBJECT_SCHEMES):
        try:
            from histotransfer_pl.store.objects import ObjectFiles
        except ImportError as error:
            raise ConfigError(
                f"{text} needs obstore: pip install 'histotransfer_pl[objects]'"
            ) from error
        return ObjectFiles(text, storage_options or {})
    if "://" in text:
        from histotransfer_pl.store.remote import RemoteFiles

        return RemoteFiles(text, storage_options or {})
    from histotransfer_pl.store.local import LocalFiles

    return LocalFiles(Path(text))


def metadata_key(*parts: str) -> str:
    """The key of the metadata of a node, given the parts of its path."""
    return "/".join([*filter(None, parts), METADATA])
