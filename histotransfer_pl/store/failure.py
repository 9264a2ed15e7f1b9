"""What a user reads when the system refuses to write."""

import errno
from pathlib import Path

from histotransfer_pl.errors import StoreError, StoreReadOnlyError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def write_failure(error: OSError, name: str, where: Path | str) -> StoreError:
    """The error to raise instead of the system's."""
    if isinstance(error, StoreError):
        return error
    if error.errno in _FULL:
        return StoreError(
            f"{name} could not be written, the disk of {where} is full or its quota used up "
            f"({error.strerror}): what was finished before is kept; make room and run the same "
            "command again, it continues there"
        )
    if error.errno in READ_ONLY:
        return StoreReadOnlyError(
            f"{name} could not be written, {where} is read only for you ({error.strerror}): get "
            "the right to write there, or write to a store of your own"
        )
    return StoreError(f"{name} could not be written to {where}: {error}")
