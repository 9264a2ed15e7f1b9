"""Arrays and groups appear whole or not at all: written aside, synced, renamed into their place.

A Zarr array whose writer was killed reads back as zeros without any error, hence the detour. Only
the file's content must be safe before the rename. The rename itself may be lost with the power:
the array is then absent, not half there, and is extracted again; so folders above it are synced
once, at the end of the writing.
"""

import errno
import os
import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.layout import METADATA, PARTIAL
from histotransfer_pl.store.metadata import group_document, to_bytes

# On ext4 one fsync waits for one journal commit, and fsyncs that wait together share it: eight
# threads take a small slide from 40 ms to 8 ms.
_SYNC_THREADS = 8
# Two threads that add the first array of a slide must not both create its groups.
_ONE_AT_A_TIME = threading.Lock()


def new_partial(root: Path) -> Path:
    """A fresh folder inside the store for what is being written."""
    folder = root / PARTIAL / uuid.uuid4().hex
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise write_failure(error, "a new array", root) from error
    return folder


def write_failure(error: OSError, name: str, root: Path) -> StoreError:
    """What a user reads when the system refuses to write.

    Args:
        error: What the system said, or a StoreError, which says enough.
        name: What was being written.
        root: The store.
    """
    if isinstance(error, StoreError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"{name} could not be written, the disk of {root} is full or its quota used up "
            f"({error.strerror}): what was finished before is kept; make room and run the same "
            "command again, it continues there"
        )
    return StoreError(f"{name} could not be written to {root}: {error}")


def sweep(root: Path) -> int:
    """Remove what killed writers left; only for the holder of the lock.

    Returns:
        How many unfinished arrays or slides were removed.
    """
    stale = list((root / PARTIAL).glob("*"))
    for folder in stale:
        shutil.rmtree(folder)
    return len(stale)


def remove_empty_partial(root: Path) -> None:
    """Leave nothing in a finished store that Zarr tools would wonder about."""
    folder = root / PARTIAL
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it is on the disk."""
    paths = [folder, *folder.rglob("*")]
    with ThreadPoolExecutor(min(_SYNC_THREADS, len(paths))) as pool:
        list(pool.map(sync, paths))


def publish(
    root: Path, staged: Path, place: Path, groups_from: Path, *, replace: bool = False
) -> None:
    """Sync a staged node and move it to its place, in one rename.

    Args:
        root: The store.
        staged: The complete node, inside the store's folder for partial writes.
        place: Where it belongs.
        groups_from: An existing group above ``place``; groups missing between the two are
            created with the node.
        replace: Whether a node that stands there already gives way; otherwise that is an OSError.
    """
    bundle = new_partial(root)
    try:
        with _ONE_AT_A_TIME:
            parent, missing = _find_parent(place, groups_from)
            folder = bundle
            for name in missing:
                folder /= name
                folder.mkdir()
                (folder / METADATA).write_bytes(to_bytes(group_document({})))
            staged.rename(folder / place.name)
            top = next(bundle.iterdir())
            sync_tree(top)
            if replace and not missing and place.exists():
                place.rename(bundle / ".replaced")
            top.rename(parent / top.name)
    finally:
        shutil.rmtree(bundle)


def _find_parent(place: Path, groups_from: Path) -> tuple[Path, tuple[str, ...]]:
    """The last existing group above a place, and the names of the groups missing below it."""
    names = place.relative_to(groups_from).parts[:-1]
    parent = groups_from
    for level, name in enumerate(names):
        if not (parent / name / METADATA).is_file():
            return parent, names[level:]
        parent /= name
    return parent, ()
