"""One slide of a store: its coordinates, and arrays whose row i is the patch at ``coords[i]``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.checksum import seal
from histotransfer_pl.store.files import metadata_key
from histotransfer_pl.store.layout import CONTENTS, check_array_path, rows_of
from histotransfer_pl.store.locations import record_path
from histotransfer_pl.store.metadata import Json, plain_json, plan_layout, to_bytes
from histotransfer_pl.store.slide_reader import SlideReader
from histotransfer_pl.store.writer import ArrayWriter

MAX_CHUNK_BYTES = 500_000_000
"""Above this an array is split by rows, so that no single file becomes unwieldy."""


class StoredSlide(SlideReader):
    """A slide in a store. Making one reads nothing, so it costs the same in a store of any size."""

    def write(
        self,
        array: str,
        values: NDArray[Any],
        attributes: Mapping[str, Any],
        *,
        dtype: DTypeLike | None = None,
        overwrite: bool = False,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        """Write an array at once: ``writer``, one ``assign``, ``commit``.

        Args:
            array: Path of the array.
            values: Its values (N, ...).
            attributes: Plain JSON to be kept with it.
            dtype: The type to store; the type of ``values`` by default.
            overwrite: Replace an array that exists.
            max_chunk_bytes: Arrays above this size are split.
        """
        kind = values.dtype if dtype is None else np.dtype(dtype)
        with self.writer(
            array,
            values.shape,
            kind,
            attributes,
            overwrite=overwrite,
            max_chunk_bytes=max_chunk_bytes,
        ) as writer:
            writer.assign(slice(None), values)
            writer.commit()

    def writer(
        self,
        array: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        attributes: Mapping[str, Any],
        *,
        overwrite: bool = False,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> ArrayWriter:
        """Start an array that is filled row by row; use it as a context manager.

        Args:
            array: Path of the array.
            shape: Its shape (N, ...); N is the slide's number of patches, except in selections.
            dtype: The type to store.
            attributes: Plain JSON to be kept with it.
            overwrite: Replace an array that exists.
            max_chunk_bytes: Arrays above this size are split.

        Raises:
            StoreError: The store is not open for writing, the array exists, or N is wrong.
        """
        name = self._name(check_array_path(array))
        files = self._store.files_for_writing()
        rows = rows_of(array, self.n_patches)
        if rows is not None and shape[:1] != (rows,):
            raise StoreError(
                f"{name}: shape {shape} for {self.n_patches} patches: one row per patch, in order"
            )
        if self.has(array) and not overwrite:
            raise StoreError(f"{name} exists already: pass overwrite=True to replace it")
        layout = plan_layout(shape, np.dtype(dtype), max_chunk_bytes)
        key = f"{self._key}/{array}"

        def publish(staged: Path) -> None:
            files.publish(staged, key, self._key, replace=overwrite)
            if array.startswith(("features/", "means/")):
                self._list(array)

        return ArrayWriter(
            name,
            files.stage(),
            layout,
            attributes,
            lambda document: seal(document, key),
            publish,
            files.location,
        )

    def renew(self, changes: Mapping[str, Any]) -> None:
        """Record other facts about the slide, such as where its file lies now.

        Args:
            changes: Plain JSON; ``path`` as ``add_slide`` takes it.
        """
        plain = plain_json(changes, f"slide {self.slide_id!r}")
        if "path" in plain:
            plain["path"] = record_path(str(plain["path"]), self._store.files.location)
        self._rewrite(plain)

    def remove(self, array: str | None = None) -> None:
        """Take an array (or group of arrays) away, or the whole slide.

        Args:
            array: Path of the array or group; None removes the slide.
        """
        files = self._store.files_for_writing()
        if array is None:
            files.remove(self._key)
            return
        files.remove(f"{self._key}/{array}")
        listed = self.contents
        if listed is not None:
            left = [path for path in listed if path != array and not path.startswith(f"{array}/")]
            self._rewrite({CONTENTS: left})

    def _list(self, array: str) -> None:
        """Put an array on the list of what belongs to the slide."""
        while (listed := self.contents) is not None and array not in listed:
            # another process may do the same at this moment: look again until it is there
            self._rewrite({CONTENTS: sorted({*listed, array})})

    def _rewrite(self, changes: Json) -> None:
        document = self._group()
        document["attributes"] = {**document["attributes"], **changes}
        content = to_bytes(seal(document, self._key))
        self._store.files_for_writing().replace(metadata_key(self._key), content)
        self.__dict__.pop("attributes", None)
