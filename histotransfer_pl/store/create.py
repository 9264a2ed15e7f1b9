"""The root of a store: made once, checked at every opening."""

from pathlib import Path

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.layout import FORMAT, FORMAT_VERSION, HOLDER, LOCK, METADATA, PARTIAL
from histotransfer_pl.store.lock import WriteLock
from histotransfer_pl.store.metadata import Json, from_bytes, group_document, to_bytes
from histotransfer_pl.store.staging import new_partial, remove_empty_partial, sweep, sync

# Ranks of one run create the store together: the later ones wait for the first, briefly.
_WAIT_SECONDS = 30.0


def create_store(root: Path, grid: Json | None) -> None:
    """Make an empty store, unless another process has just made it.

    Args:
        root: A folder that does not exist, or is empty.
        grid: Settings that all slides will share.

    Raises:
        StoreError: The folder holds something else, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{root} cannot be created ({error}): choose a folder that you may write"
        ) from error
    guard = WriteLock(root)
    guard.acquire(_WAIT_SECONDS)
    try:
        if not (root / METADATA).is_file():
            _write_root(root, grid)
    finally:
        guard.release()


def _write_root(root: Path, grid: Json | None) -> None:
    foreign = sorted({p.name for p in root.iterdir()} - {PARTIAL, LOCK, HOLDER})
    if foreign:
        raise StoreError(
            f"{root} is no store but holds {foreign[0]!r} and {len(foreign) - 1} more: choose a "
            "folder that is new or empty"
        )
    sweep(root)
    attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, "grid": grid}
    staged = new_partial(root) / METADATA
    try:
        staged.write_bytes(to_bytes(group_document(attributes)))
        sync(staged)
        staged.rename(root / METADATA)
        sync(root)
    except OSError as error:
        raise StoreError(f"the store {root} cannot be written: {error}") from error
    finally:
        sweep(root)
        remove_empty_partial(root)


def check_root(content: bytes, where: str) -> Json | None:
    """The grid of a store whose format this release reads.

    Args:
        content: The bytes of the root's metadata.
        where: The store, for messages.

    Raises:
        StoreError: It is not a store of this program.
        StoreMismatchError: It has another format version.
    """
    attributes = from_bytes(content, "group", where)["attributes"]
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{where} is a Zarr group, but no store of {FORMAT}: import its arrays with "
            "import_arrays, or extract the slides"
        )
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreMismatchError(
            f"{where} has format version {version}, this release reads {FORMAT_VERSION}: "
            f"install the release of {FORMAT} that wrote it, or extract again"
        )
    grid: Json | None = attributes.get("grid")
    return grid
