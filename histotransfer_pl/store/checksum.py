"""The checksums kept in a store: one over the values of each array, one over each metadata.

XXH3 (Collet, https://github.com/Cyan4973/xxHash) runs at 30 to 60 GB/s, faster than a bag comes
from memory, so values are compared whenever a bag is first read; CRC-32, which stores of version
1 have, runs at 1.2 to 4 GB/s. Both find rot, truncation and zeros, and neither is a signature.
"""

import json
import zlib

import xxhash

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.metadata import Json

CHECKSUM = "checksum"
"""The attribute that holds the checksum of an array's values."""

SEAL = "seal"
"""The attribute that holds the checksum of a node's metadata."""

# How the values lie in files may change: a store that another tool has compressed still verifies.
_UNSEALED = ("codecs", "chunk_grid")
_SORTED = json.JSONEncoder(sort_keys=True)  # json.dumps would make one for each slide


class Checksum:
    """A checksum over the values of an array, row by row, little-endian.

    Args:
        recorded: A checksum of the same kind; CRC-32 in stores of version 1, XXH3 by default.
    """

    def __init__(self, recorded: str | None = None) -> None:
        self._crc = 0 if str(recorded).startswith("crc32:") else None
        self._xxh3 = xxhash.xxh3_64()

    def update(self, content: bytes | memoryview) -> None:
        """Add the bytes of the next rows."""
        if self._crc is None:
            self._xxh3.update(content)
        else:
            self._crc = zlib.crc32(content, self._crc)

    @property
    def text(self) -> str:
        """The checksum as it stands in the attributes."""
        if self._crc is None:
            return f"xxh3:{self._xxh3.hexdigest()}"
        return f"crc32:{self._crc:08x}"


def seal(document: Json, node: str) -> Json:
    """The metadata with its checksum among the attributes.

    Args:
        document: The ``zarr.json`` of a group or array.
        node: Which node it is, such as ``slide/features/encoder/depth``: metadata that was moved
            or swapped does not fit its node.
    """
    attributes = {**document["attributes"], SEAL: _digest(document, node)}
    return {**document, "attributes": attributes}


def check_seal(document: Json, node: str, name: str, *, required: bool = False) -> None:
    """Compare the metadata of a node with its seal.

    Args:
        document: What ``seal`` gave, as it was read.
        node: Which node it must be.
        name: The node in words, for the message.
        required: Whether metadata without a seal is refused.
    """
    if SEAL not in document["attributes"] and not required:
        return
    if document["attributes"].get(SEAL) != _digest(document, node):
        raise StoreError(
            f"the metadata of {name} have changed or belong to another slide or array: run "
            "`verify --repair true` on the store, then the extraction again"
        )


def _digest(document: Json, node: str) -> str:
    sealed = {**document, "attributes": {**document["attributes"]}}
    sealed["attributes"].pop(SEAL, None)
    for unsealed in _UNSEALED:
        sealed.pop(unsealed, None)
    text = _SORTED.encode([node, sealed])
    return f"xxh3:{xxhash.xxh3_64_hexdigest(text.encode())}"
