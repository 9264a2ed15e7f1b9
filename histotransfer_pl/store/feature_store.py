"""The store of a cohort: one Zarr group per slide, one grid for all of them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import StoreError, StoreMismatchError, StoreReadOnlyError
from histotransfer_pl.store.attention import attention_of, attention_runs
from histotransfer_pl.store.checksum import SEAL, check_seal, seal
from histotransfer_pl.store.create import check_root, root_content
from histotransfer_pl.store.files import Files, WritableFiles, find_files, metadata_key
from histotransfer_pl.store.layout import (
    METADATA,
    SETTINGS,
    attention_path,
    check_array_path,
    decode_key,
    encode_key,
)
from histotransfer_pl.store.local import LocalFiles
from histotransfer_pl.store.metadata import (
    Json,
    differences,
    from_bytes,
    group_document,
    plain_json,
    to_bytes,
)
from histotransfer_pl.store.new_slide import add_slide
from histotransfer_pl.store.slide import StoredSlide
from histotransfer_pl.store.verify import Problem, repair_slide, verify_slide


class FeatureStore:
    """Coordinates, features, attention and selections of the slides of a cohort.

    Opening reads one small file; nothing is cached, so slides added by a running extraction are
    seen at once. It pickles as its location and works in forked and spawned workers.
    """

    def __init__(self, files: Files, grid: Json | None, version: int) -> None:
        """Use ``open`` or ``open_or_create``."""
        self.files = files
        self.grid = grid
        self.version = version
        self._writers = 0

    @classmethod
    def open(
        cls, location: str | Path, storage_options: Mapping[str, Any] | None = None
    ) -> "FeatureStore":
        """Open a store that exists.

        Args:
            location: A folder, a URL of an object store (``s3://``, ``gs://``, ``az://``), or
                another URL that fsspec understands (read only).
            storage_options: What the URL needs (credentials, endpoint), where the environment
                does not say it.

        Raises:
            StoreError: There is no store of this program.
            StoreMismatchError: It was written in a format that this release does not read.
        """
        return cls._open(find_files(location, dict(storage_options or {})))

    @classmethod
    def _open(cls, files: Files) -> "FeatureStore":
        try:
            content = files.read(METADATA)
        except FileNotFoundError as error:
            raise StoreError(
                f"no store at {files.location}: check the path, or extract slides into it first"
            ) from error
        return cls(files, *check_root(content, files.location))

    @classmethod
    def open_or_create(
        cls,
        location: str | Path,
        grid: Mapping[str, Any] | None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> "FeatureStore":
        """Open a store for a grid, and create it if there is none.

        Args:
            location: A local folder, or a URL of an object store.
            grid: Settings that all slides share; None for arrays that are not from slides.
            storage_options: What the URL needs.

        Raises:
            StoreMismatchError: The store was made with another grid; the message lists in what.
            StoreError: The folder holds something else, or cannot be written.
        """
        files = find_files(location, dict(storage_options or {}))
        asked = None if grid is None else plain_json(grid, "the grid")
        if not files.exists(METADATA):
            writable(files).create_root(root_content(asked))
        store = cls._open(files)
        wrong = differences({"grid": store.grid}, {"grid": asked})
        if wrong:
            raise StoreMismatchError(
                f"{files.location} was made with another patch grid ({wrong}): use the same grid "
                "settings, or write to another store"
            )
        return store

    @property
    def location(self) -> str:
        """The folder or URL as text."""
        return self.files.location

    @property
    def path(self) -> Path:
        """The folder; StoreError for a remote store."""
        if not isinstance(self.files, LocalFiles):
            raise StoreError(f"{self.location} is no folder of this machine")
        return self.files.root

    def slide_ids(self) -> list[str]:
        """All slides, sorted; one listing of the folder, whatever the slides hold."""
        return sorted(map(decode_key, self.files.folders("")))

    def __contains__(self, slide_id: object) -> bool:
        if not isinstance(slide_id, str) or not slide_id:
            return False
        return self.files.exists(metadata_key(encode_key(slide_id)))

    def __len__(self) -> int:
        return len(self.slide_ids())

    def __iter__(self) -> Iterator[StoredSlide]:
        return (self.slide(slide_id) for slide_id in self.slide_ids())

    def __getitem__(self, slide_id: str) -> StoredSlide:
        if slide_id not in self:
            raise StoreError(f"{self.location} has no slide {slide_id!r}")
        return self.slide(slide_id)

    def slide(self, slide_id: str) -> StoredSlide:
        """A slide by its id; nothing is read before it is asked for something."""
        return StoredSlide(self, slide_id)

    @contextmanager
    def writing(self, name: str = "", *, lock: bool = True) -> Iterator[Self]:
        """The right to write, for the length of a block; blocks may be nested.

        Args:
            name: Writers of different names (shards) write beside each other; a second one of
                the same name is refused.
            lock: False in the further processes of one run (ranks of DDP), after the first
                process has entered its block and until it leaves it.

        Raises:
            StoreLockedError: Another run is writing under this name.
            StoreReadOnlyError: The store cannot be written.
        """
        files = writable(self.files)
        # nested: the outer block holds the lock
        with nullcontext() if self._writers else files.writing(name, lock=lock):
            self._writers += 1
            try:
                yield self
            finally:
                self._writers -= 1

    @contextmanager
    def joining(self) -> Iterator[Self]:
        """The right to write single arrays (attention, selections) beside whoever else writes.

        Raises:
            StoreReadOnlyError: The store cannot be written.
        """
        with writable(self.files).joining():
            self._writers += 1
            try:
                yield self
            finally:
                self._writers -= 1

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

    def declare(self, array: str, settings: Mapping[str, Any]) -> None:
        """Say with which settings an array is made, for all slides and all writers of the store.

        Args:
            array: Path of the array, such as ``features/<encoder>/<depth>``.
            settings: Plain JSON.

        Raises:
            StoreMismatchError: Another writer declared others; the message lists in what.
        """
        files, key = self.files_for_writing(), f"{SETTINGS}/{check_array_path(array)}"
        asked = plain_json(settings, array)
        if not files.exists(metadata_key(key)):
            staged = files.stage()
            content = to_bytes(seal(group_document(asked), key))
            (staged / METADATA).write_bytes(content)
            files.publish(staged, key, "")  # whoever is first
        document = from_bytes(files.read(metadata_key(key)), "group", f"the settings of {array}")
        check_seal(document, key, f"the settings of {array}")
        declared = {k: v for k, v in document["attributes"].items() if k != SEAL}
        wrong = differences(declared, asked)
        if wrong:
            raise StoreMismatchError(
                f"{array} of {self.location} is made with other settings ({wrong}): use the same "
                "settings, another name for this encoder, or another store; where no slide has it "
                f"any more, delete {self.location}/{key}"
            )

    def verify(self, *, repair: bool = False) -> list[Problem]:
        """Read everything; what is damaged, by slide and array. None is good news."""
        problems = []
        with self.writing() if repair else nullcontext():
            for slide_id in self.slide_ids():
                try:
                    slide = self.slide(slide_id)
                except StoreError as error:  # a folder whose name no slide can have
                    problems.append(Problem(slide_id, "", str(error), foreign=True))
                    continue
                found = verify_slide(slide, self.files, self.version)
                if repair and found:
                    repair_slide(slide, found)
                problems += found
        return problems

    def write_attention(
        self,
        run_id: str,
        slide_id: str,
        values: NDArray[Any],
        attributes: Mapping[str, Any],
    ) -> None:
        """Store what a run attends to in a slide; that of an earlier prediction gives way.

        No lock is needed: several predictions may write one store at once.

        Args:
            run_id: SHA-256 of the run's checkpoint: a run's name or folder may be used twice.
            slide_id: The slide.
            values: One row per patch (N, columns).
            attributes: Plain JSON: names of the columns, provenance.

        Raises:
            StoreReadOnlyError: The store cannot be written.
        """
        with self.joining():
            path = attention_path(run_id)
            self.slide(slide_id).write(path, values, attributes, overwrite=True)

    def read_attention(self, run_id: str, slide_id: str) -> NDArray[Any]:
        """What a run attends to in a slide (N, columns).

        Raises:
            StoreError: There is none; the message names the runs of which there is some.
        """
        slide = self.slide(slide_id)
        return slide.read(attention_of(slide, run_id))

    def attention_runs(self, slide_ids: Iterable[str] | None = None) -> list[str]:
        """Ids of the runs that have attention in any of the slides (all by default), sorted."""
        chosen = self.slide_ids() if slide_ids is None else slide_ids
        return sorted({run for slide_id in chosen for run in attention_runs(self.slide(slide_id))})

    def files_for_writing(self) -> WritableFiles:
        """The place to write to, once the store is open for writing."""
        if not self._writers:
            raise StoreError(
                f"{self.location} is not open for writing: write inside `with store.writing():`"
            )
        return writable(self.files)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore.open, (self.location, getattr(self.files, "storage_options", None))

    @override
    def __repr__(self) -> str:
        return f"FeatureStore({self.location!r})"


def writable(files: Files) -> WritableFiles:
    """The files of a store that can be written.

    Raises:
        StoreReadOnlyError: They lie behind a URL that can only be read.
    """
    if not files.can_write:
        raise StoreReadOnlyError(
            f"{files.location} can only be read: write to a local folder or an object store "
            "(s3://, gs://, az://)"
        )
    return cast("WritableFiles", files)
