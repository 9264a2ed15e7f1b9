"""Zip archives, such as torch writes: their own checksums, which torch does not look at."""

import pickle
import struct
import zipfile
from pathlib import Path

UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError, TypeError),
    *(LookupError, AttributeError, ImportError, ArithmeticError, AssertionError, MemoryError),
)
"""What torch.load raises, by the place at which a file is damaged."""


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
