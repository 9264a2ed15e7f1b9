"""How arrays and slides appear in a local store: written aside, synced, moved by one rename.

A Zarr array whose writer was killed reads back as zeros without any error, hence the detour. Only
the file's content must be safe before the rename. The rename itself may be lost with the power:
the array is then absent, not half there, and is extracted again; so folders above it are synced
once, at the end of the writing.
"""

import errno
import os
import shutil
import uuid
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from histotransfer_pl.store.layout import METADATA
from histotransfer_pl.store.metadata import group_document, to_bytes
from histotransfer_pl.store.scratch import new_partial, sync_pool

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, pool: Executor) -> None:
    """Wait until a folder and everything in it is on the disk."""
    list(pool.map(sync, [folder, *folder.rglob("*")]))


def publish(
    root: Path, staged: Path, place: Path, groups_from: Path, *, replace: bool = False
) -> bool:
    """Sync a staged node and move it to its place, in one rename.

    Other processes may do the same at the same moment: whoever finds the place, or a group that
    was missing above it, taken in between looks again.

    Args:
        root: The store.
        staged: The complete node, inside the store's folder for partial writes.
        place: Where it belongs.
        groups_from: An existing group above ``place``; groups missing between the two are
            created with the node.
        replace: Whether a node that stands there already gives way.
    """
    bundle = new_partial(root)
    try:
        while replace or not (place / METADATA).is_file():
            parent, missing = _find_parent(place, groups_from)
            staged, top = _wrap(staged, bundle / uuid.uuid4().hex, [*missing, place.name])
            sync_tree(top, sync_pool(root))
            if replace and not missing:
                with suppress(FileNotFoundError):
                    place.rename(bundle / uuid.uuid4().hex)
            try:
                top.rename(parent / top.name)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                if not (parent / top.name / METADATA).is_file():
                    raise  # what stands in the way is neither array nor group
            else:
                return True
        return False
    finally:
        shutil.rmtree(bundle)


def _wrap(staged: Path, within: Path, names: list[str]) -> tuple[Path, Path]:
    """Put a node below new groups: where it lies now, and the outermost folder to move."""
    folder = within
    folder.mkdir()
    for name in names[:-1]:
        folder /= name
        folder.mkdir()
        (folder / METADATA).write_bytes(to_bytes(group_document({})))
    return staged.rename(folder / names[-1]), within / names[0]


def _find_parent(place: Path, groups_from: Path) -> tuple[Path, tuple[str, ...]]:
    """The last existing group above a place, and the names of the groups missing below it."""
    names = place.relative_to(groups_from).parts[:-1]
    parent = groups_from
    for level, name in enumerate(names):
        if not (parent / name / METADATA).is_file():
            return parent, names[level:]
        parent /= name
    return parent, ()
