"""The headers of JPEG and JPEG 2000 tiles, read before anything is decoded.

A header of a few bytes may promise 65,500 x 65,500 px, and its decoder allocates them: a tile that
is larger than the TIFF says is refused unseen.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

_START, _SCAN = b"\xff\xd8", 0xDA
_TABLES = (0xDB, 0xC4)
"""Quantisation and Huffman tables."""

_NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""Markers among those of frames, C0 to CF, that are none."""

_SIZE_OF_J2K = struct.Struct(">IHHIIIIIIIIH")
_J2K_START = b"\xff\x4f\xff\x51"


class TileCodeError(ValueError):
    """A tile whose header cannot be read."""


class OversizedTileError(ValueError):
    """A tile that promises more pixels than the TIFF says; no decoder may see it."""


class Frame(NamedTuple):
    """What a tile says of itself."""

    width: int
    height: int
    channels: int


def jpeg_frame(data: bytes) -> tuple[Frame, bytes]:
    """Size of a JPEG, and the JPEG without its start and its application marks.

    OpenSlide takes the colours from the TIFF, whatever a tile says. In libjpeg a JFIF mark means
    YCbCr and beats Adobe's, so every mark goes and the TIFF's is put in front.
    """
    frame, parts = None, []
    for marker, segment, start in _segments(data):
        if marker == _SCAN:
            if frame is None:
                break
            return frame, b"".join([*parts, data[start:]])
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES and len(segment) >= 10:
            height, width, channels = struct.unpack_from(">HHB", segment, 5)
            frame = Frame(width, height, channels)
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # application marks and comments
            parts.append(segment)
    raise TileCodeError("a JPEG without a frame")


def jpeg_tables(data: bytes) -> bytes:
    """The tables that a TIFF holds once for all its tiles, without marks and restart intervals."""
    if not data:
        return b""
    return b"".join(segment for marker, segment, _ in _segments(data) if marker in _TABLES)


def jpeg2000_frame(data: bytes) -> Frame:
    """Size of a JPEG 2000 codestream."""
    if not data.startswith(_J2K_START) or len(data) < 2 + _SIZE_OF_J2K.size:
        raise TileCodeError("no JPEG 2000 codestream")
    _, _, _, right, bottom, left, top, *_, channels = _SIZE_OF_J2K.unpack_from(data)
    return Frame(right - left, bottom - top, channels)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, whole segment and its place, up to the first scan."""
    if not data.startswith(_START):
        raise TileCodeError("no JPEG")
    place = len(_START)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        length: int = struct.unpack_from(">H", data, place + 2)[0]
        yield marker, data[place : place + 2 + length], place
        place += 2 + length
