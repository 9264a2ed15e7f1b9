"""Files that appear whole or not at all, their hashes, and the checksums of zip archives."""

import hashlib
import os
import pickle
import struct
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError, TypeError),
    *(LookupError, AttributeError, ImportError, ArithmeticError, AssertionError, MemoryError),
)
"""What torch.load raises, by the place at which a file is damaged."""


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside the target to write to; it takes the target's place when the block ends.

    It lies in the same folder, so that taking the place is one rename: a move from another file
    system would be a copy over the old file, and a kill within it would leave a part. Whatever
    ends the block by an error leaves the target as it was and nothing beside it.

    Raises:
        OSError: Of the system, with the target's name where it names the path beside it or, as
            HDF5, none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex}")
    try:
        aside.touch()  # as readable as the user's mask says, whoever writes it then
        mode = aside.stat().st_mode
        yield aside
        aside.chmod(mode)
        descriptor = os.open(aside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        aside.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(aside), aside):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_part(file: Path) -> str | None:
    """The first part of an archive that is not as it was written; None if all are.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip()
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - by the place of the damage anything is raised
        return "its table of contents"
