"""The store of a cohort: one Zarr group per slide, one grid for all of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.compare import differences
from histotransfer_pl.store.create import check_root, create_store
from histotransfer_pl.store.files import Files, LocalFiles, RemoteFiles, find_files, metadata_key
from histotransfer_pl.store.layout import METADATA, decode_key, encode_key
from histotransfer_pl.store.lock import WriteLock
from histotransfer_pl.store.metadata import Json, plain_json
from histotransfer_pl.store.new_slide import add_slide
from histotransfer_pl.store.slide import StoredSlide
from histotransfer_pl.store.staging import remove_empty_partial, sweep, sync
from histotransfer_pl.store.verify import Problem, verify_slide


class FeatureStore:
    """Coordinates, features, attention and selections of the slides of a cohort.

    Opening reads one small file; nothing is cached, so slides added by a running extraction are
    seen at once. It pickles as its location and works in forked and spawned workers.
    """

    def __init__(self, files: Files, grid: Json | None) -> None:
        """Use ``open`` or ``open_or_create``."""
        self.files = files
        self.grid = grid
        self._writers = 0

    @classmethod
    def open(
        cls, location: str | Path, storage_options: Mapping[str, Any] | None = None
    ) -> "FeatureStore":
        """Open a store that exists.

        Args:
            location: A folder, or a URL that fsspec understands (read only).
            storage_options: What fsspec needs for the URL (credentials, endpoint).

        Raises:
            StoreError: There is no store of this program.
            StoreMismatchError: It was written in a format that this release does not read.
        """
        files = find_files(location, dict(storage_options or {}))
        try:
            content = files.read(METADATA)
        except FileNotFoundError as error:
            raise StoreError(
                f"no store at {files.location}: check the path, or extract slides into it first"
            ) from error
        return cls(files, check_root(content, files.location))

    @classmethod
    def open_or_create(cls, location: str | Path, grid: Mapping[str, Any] | None) -> "FeatureStore":
        """Open a store for a grid, and create it if there is none.

        Args:
            location: A local folder.
            grid: Settings that all slides share; None for arrays that are not from slides.

        Raises:
            StoreMismatchError: The store was made with another grid; the message lists in what.
            StoreError: The folder holds something else, or cannot be written.
        """
        files = find_files(location)
        asked = None if grid is None else plain_json(grid, "the grid")
        if isinstance(files, LocalFiles) and not (files.root / METADATA).is_file():
            create_store(files.root, asked)
        store = cls.open(location)
        wrong = differences({"grid": store.grid}, {"grid": asked})
        if wrong:
            raise StoreMismatchError(
                f"{files.location} was made with another patch grid:\n  "
                + "\n  ".join(wrong)
                + "\nUse the same grid settings, or write to another store"
            )
        return store

    @property
    def location(self) -> str:
        """The folder or URL as text."""
        return self.files.location

    @property
    def path(self) -> Path:
        """The folder; StoreError for a remote store."""
        return self._local_files().root

    def slide_ids(self) -> list[str]:
        """All slides, sorted; one listing of the folder, whatever the slides hold."""
        return sorted(map(decode_key, self.files.folders("")))

    def __contains__(self, slide_id: object) -> bool:
        if not isinstance(slide_id, str) or not slide_id:
            return False
        return self.files.exists(metadata_key(encode_key(slide_id)))

    def slide(self, slide_id: str) -> StoredSlide:
        """A slide by its id; nothing is read before it is asked for something."""
        return StoredSlide(self, slide_id)

    @contextmanager
    def writing(self, *, lock: bool = True) -> Iterator[Self]:
        """The right to write, for the length of a block; blocks may be nested.

        Args:
            lock: False in the further processes of one run (ranks of DDP), after the first
                process has entered its block and until it leaves it.

        Raises:
            StoreLockedError: Another run is writing.
            StoreError: The store is remote, or cannot be written.
        """
        root = self._local_files().root
        if self._writers:  # nested: the outer block holds the lock
            yield self
            return
        guard = WriteLock(root)
        if lock:
            guard.acquire()
        else:
            guard.check_held_elsewhere()
        self._writers += 1
        try:
            if lock:
                sweep(root)
            yield self
        finally:
            self._writers -= 1
            if lock:
                _finish(root, guard)

    def add_slide(
        self,
        slide_id: str,
        coords: NDArray[np.integer[Any]] | None,
        n_patches: int | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> StoredSlide:
        """Add a slide; one that is there already and equal is left as it is.

        Args:
            slide_id: Any text.
            coords: Top-left corners of its patches in level-0 pixels (N, 2), or None for bags
                that are not from slides.
            n_patches: N; needed when there are no coordinates.
            attributes: Plain JSON: patch size, mpp, dimensions, fingerprint, path ...

        Raises:
            StoreMismatchError: The slide is there and differs; the message lists in what.
            StoreError: Coordinates that do not fit, or a store not open for writing.
        """
        return add_slide(self, slide_id, coords, n_patches, attributes or {})

    def verify(self) -> list[Problem]:
        """Read everything; what is damaged, by slide and array. None is good news."""
        return [p for slide_id in self.slide_ids() for p in verify_slide(self.slide(slide_id))]

    def files_for_writing(self) -> LocalFiles:
        """The local folder, once the store is open for writing."""
        if not self._writers:
            raise StoreError(
                f"{self.location} is not open for writing: write inside `with store.writing():`"
            )
        return self._local_files()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        options = self.files.storage_options if isinstance(self.files, RemoteFiles) else None
        return FeatureStore.open, (self.location, options)

    @override
    def __repr__(self) -> str:
        return f"FeatureStore({self.location!r})"

    def _local_files(self) -> LocalFiles:
        if not isinstance(self.files, LocalFiles):
            raise StoreError(
                f"{self.location} is remote and read only: write to a local folder, then copy the "
                "folder there"
            )
        return self.files


def _finish(root: Path, guard: WriteLock) -> None:
    try:
        sync(root)
        remove_empty_partial(root)
    finally:
        guard.release()
