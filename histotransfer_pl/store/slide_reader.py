"""One slide of a store, read: its coordinates, and arrays whose row i is ``coords[i]``."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.checksum import CHECKSUM, SEAL, Checksum, check_seal
from histotransfer_pl.store.files import Layout, metadata_key
from histotransfer_pl.store.layout import (
    CONTENTS,
    COORDS,
    SECTION_LEVELS,
    check_array_path,
    decode_key,
    encode_key,
    nearest,
    rows_of,
)
from histotransfer_pl.store.locations import find_path
from histotransfer_pl.store.metadata import (
    ArrayInfo,
    Json,
    array_dtype,
    differences,
    from_bytes,
    raw_layout,
)
from histotransfer_pl.store.rows import Rows, row_index

if TYPE_CHECKING:
    from histotransfer_pl.store.feature_store import FeatureStore


class SlideReader:
    """The reading half of a stored slide; making one reads nothing."""

    def __init__(self, store: "FeatureStore", slide_id: str) -> None:
        self._store = store
        self._key = encode_key(slide_id)
        self.slide_id = slide_id

    @cached_property
    def attributes(self) -> Json:
        """What was recorded when the slide was added; ``path`` is where its file lies now."""
        attributes = dict(self._group()["attributes"])
        for internal in (SEAL, CONTENTS):
            attributes.pop(internal, None)
        if (recorded := attributes.get("path")) is not None:
            attributes["path"] = find_path(str(recorded), self._store.files.location)
        return attributes

    def fact(self, name: str) -> Any:
        """An attribute that only slides have whose file was at hand.

        Args:
            name: Such as ``path``, ``slide_mpp`` or ``patch_size_level0``.

        Raises:
            StoreError: It was not recorded.
        """
        if self.attributes.get(name) is None:
            raise StoreError(
                f"{self._store.location} does not record the {name} of slide {self.slide_id!r}: "
                "its features came without the slide; import them with --slides"
            )
        return self.attributes[name]

    @property
    def contents(self) -> list[str] | None:
        """Arrays that belong to the slide, there or not; None in a store of version 1.

        Attention and selections belong to runs and are not listed.
        """
        found: list[str] | None = self._group()["attributes"].get(CONTENTS)
        return found

    @property
    def n_patches(self) -> int:
        """How many patches (rows) the slide has; 0 for a slide without tissue."""
        if "n_patches" not in self.attributes:
            raise StoreError(
                f"slide {self.slide_id!r} has no n_patches: did another program write it?"
            )
        n_patches = self.attributes["n_patches"]
        if not isinstance(n_patches, int):
            raise StoreError(
                f"slide {self.slide_id!r} has {n_patches!r} patches, a whole number was expected: "
                "run `verify --repair true` on the store, then the extraction again"
            )
        return n_patches

    def coords(self) -> NDArray[np.int32]:
        """Top-left corners of the patches in level-0 pixels, x and y (N, 2)."""
        return self.read(COORDS)

    def arrays(self) -> list[str]:
        """Paths of all arrays but the coordinates, sorted."""
        files, found = self._store.files, []
        for section, levels in SECTION_LEVELS.items():
            paths = [section]
            for _ in range(levels):
                paths = [f"{p}/{n}" for p in paths for n in files.folders(f"{self._key}/{p}")]
            found += paths
        return sorted(found)

    def features(self, section: str = "features") -> list[tuple[str, str]]:
        """Encoder and depth of all features, or ``means``, that the slide has."""
        names = [name.split("/") for name in self.arrays() if name.startswith(f"{section}/")]
        return [(decode_key(encoder), decode_key(depth)) for _, encoder, depth in names]

    def has(self, array: str) -> bool:
        """Whether the slide has this array; an array is there whole or not at all."""
        return self._store.files.exists(metadata_key(self._key, check_array_path(array)))

    def info(self, array: str) -> ArrayInfo:
        """Shape, type and attributes of an array, without its values."""
        document = self._document(array)
        dtype = array_dtype(document)
        if dtype is None:
            dtype = self._store.files.array(f"{self._key}/{array}").dtype
        return ArrayInfo(tuple(document["shape"]), dtype, document["attributes"])

    def matches(self, array: str, expected: Mapping[str, Any]) -> bool:
        """Whether an array is there and was made with these settings.

        Args:
            array: Path of the array.
            expected: Attributes it must have; further ones are not looked at. ``dtype`` stands
                for the type of its values.

        Returns:
            False when the array is not there, True when it is and matches.
        """
        if not self.has(array):
            return False
        info = self.info(array)
        found = {**info.attributes, "dtype": info.dtype.name}
        wrong = differences({k: v for k, v in found.items() if k in expected}, expected)
        if wrong:
            raise StoreMismatchError(
                f"{self._name(array)} is there already but was made otherwise ({wrong}): use the "
                "same settings, another name for this encoder or run, or another store"
            )
        return True

    def read(self, array: str, rows: Rows | None = None, *, check: bool = True) -> NDArray[Any]:
        """Values of an array; the first time that all are read, their checksum is compared.

        Args:
            array: Path of the array.
            rows: Which rows, in which order (see ``row_index``); all by default. Only these are
                read from the disk.
            check: Whether the checksum is compared.

        Returns:
            The rows (K, ...) in a new array of the stored type.

        Raises:
            StoreError: No such slide, array or row, or a damaged file.
        """
        files, key = self._store.files, f"{self._key}/{array}"
        n_rows, layout, checksum = files.layout(key, lambda: self._layout(array))
        index = row_index(rows, n_rows)
        values = None if layout is None else files.rows(key, layout, index)  # (K, ...)
        if values is None:
            stored = files.array(key)
            return np.asarray(stored[index] if isinstance(index, slice) else stored.oindex[index])
        whole = isinstance(index, slice) and index == slice(0, n_rows)
        if check and whole and checksum is not None:
            self._check_values(array, values, checksum)
        return values  # (K, ...)

    def _group(self) -> Json:
        """The metadata of the slide, as written for this very slide."""
        try:
            content = self._store.files.read(metadata_key(self._key))
        except FileNotFoundError as error:
            raise self._no_slide() from error
        name = f"slide {self.slide_id!r}"
        document = from_bytes(content, "group", name)
        recorded = document["attributes"].get("slide_id", self.slide_id)
        if recorded != self.slide_id:
            raise StoreError(
                f"{name}: its group says it is slide {recorded!r}: give its folder in "
                f"{self._store.files.location} back its name, or delete it and extract again"
            )
        check_seal(document, self._key, name)
        return document

    def _layout(self, array: str) -> Layout:
        document = self._document(array)
        n_rows = int(document["shape"][0])
        sealed = SEAL in document["attributes"]  # else an older store, whose rows are compared
        if not sealed and rows_of(array, self.n_patches) not in (None, n_rows):
            raise StoreError(
                f"{self._name(array)} has {n_rows} rows for {self.n_patches} patches: run "
                "`verify --repair true` on the store, then the extraction again"
            )
        return n_rows, raw_layout(document), document["attributes"].get(CHECKSUM)

    def _check_values(self, array: str, values: NDArray[Any], recorded: str) -> None:
        files, key = self._store.files, f"{self._key}/{array}"
        if files.is_checked(key):
            return
        found = Checksum(recorded)
        found.update(values.reshape(-1).view(np.uint8).data)
        if found.text != recorded:
            raise StoreError(
                f"{self._name(array)}: its values have changed since they were written (checksum "
                f"{found.text}, recorded {recorded}): run `verify --repair true` on the store, "
                "then the extraction again"
            )
        files.mark_checked(key, values)

    def _document(self, array: str) -> Json:
        try:
            content = self._store.files.read(metadata_key(self._key, check_array_path(array)))
        except FileNotFoundError as error:
            raise self._no_array(array) from error
        document = from_bytes(content, "array", self._name(array))
        check_seal(document, f"{self._key}/{array}", self._name(array))
        return document

    def _no_slide(self) -> StoreError:
        if self.slide_id in self._store.slide_ids():
            return StoreError(
                f"the folder of slide {self.slide_id!r} in {self._store.files.location} has lost "
                "its zarr.json: delete the folder and extract the slide again"
            )
        return StoreError(
            f"no slide {self.slide_id!r} in {self._store.files.location}: "
            f"{nearest(self.slide_id, self._store.slide_ids())}"
        )

    def _no_array(self, array: str) -> StoreError:
        if not self._store.files.exists(metadata_key(self._key)):
            return self._no_slide()
        return StoreError(
            f"{self._name(array)} does not exist: the slide has "
            f"{', '.join(self.arrays()) or 'no arrays yet'}; extract it first"
        )

    def _name(self, array: str) -> str:
        return f"slide {self.slide_id!r}, {array}"
