"""The root of a store: made once, checked at every opening."""

from pathlib import Path

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.checksum import check_seal, seal
from histotransfer_pl.store.failure import READ_ONLY, write_failure
from histotransfer_pl.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    HOLDER,
    LOCK,
    METADATA,
    PARTIAL,
    READABLE_VERSIONS,
)
from histotransfer_pl.store.lock import WriteLock
from histotransfer_pl.store.metadata import Json, from_bytes, group_document, to_bytes
from histotransfer_pl.store.scratch import new_partial, scratch, sweep
from histotransfer_pl.store.staging import sync

# Ranks of one run create the store together: the later ones wait for the first, briefly.
_WAIT_SECONDS = 30.0


def root_content(grid: Json | None) -> bytes:
    """The metadata of the root of a new store."""
    attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, "grid": grid}
    return to_bytes(seal(group_document(attributes), ""))


def create_folder(root: Path, content: bytes) -> None:
    """Make an empty store in a folder, unless another process has just made it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in READ_ONLY:
            raise write_failure(error, "a new store", root) from error
        raise StoreError(
            f"{root} cannot be created ({error}): choose a folder that you may write"
        ) from error
    guard = WriteLock(root)
    guard.acquire(_WAIT_SECONDS)
    try:
        if not (root / METADATA).is_file():
            _refuse_foreign(root)
            with scratch(root):
                sweep(root)
                _write_root(root, content)
    finally:
        guard.release()


def _refuse_foreign(root: Path) -> None:
    known = (PARTIAL, LOCK, HOLDER)
    foreign = sorted(p.name for p in root.iterdir() if not p.name.startswith(known))
    if foreign:
        raise StoreError(
            f"{root} is no store but holds {foreign[0]!r} and {len(foreign) - 1} more: choose a "
            "folder that is new or empty"
        )


def _write_root(root: Path, content: bytes) -> None:
    staged = new_partial(root) / METADATA
    try:
        staged.write_bytes(content)
        sync(staged)
        staged.rename(root / METADATA)
        sync(root)
    except OSError as error:
        raise write_failure(error, "a new store", root) from error


def check_root(content: bytes, where: str) -> tuple[Json | None, int]:
    """The grid and the format version of a store that this release reads.

    Args:
        content: The bytes of the root's metadata.
        where: The store, for messages.
    """
    document = from_bytes(content, "group", where)
    attributes = document["attributes"]
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{where} is a Zarr group, but no store of {FORMAT}: import its arrays with "
            "import_arrays, or extract the slides"
        )
    version = attributes.get("format_version")
    if version not in READABLE_VERSIONS:
        raise StoreMismatchError(
            f"{where} has format version {version}, this release reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}: install the release of {FORMAT} that "
            "wrote it, or extract again"
        )
    check_seal(document, "", f"the root of {where}", required=version > 1)
    grid: Json | None = attributes.get("grid")
    return grid, version
