"""The tile tables of a TIFF, checked before a library believes them.

Libraries allocate what a header asks for, and glib, on which OpenSlide stands, ends the whole
process when it cannot. So sides, types, table lengths and the bytes of each tile are read here
first, with nothing but ``struct`` and numpy, and no number of the file is trusted.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.limits import require_memory

_SCALARS = {
    256: "ImageWidth",
    257: "ImageLength",
    259: "Compression",
    262: "PhotometricInterpretation",
    277: "SamplesPerPixel",
    284: "PlanarConfiguration",
    322: "TileWidth",
    323: "TileLength",
}
_TABLES = {324: "TileOffsets", 325: "TileByteCounts"}
_STRIPS_FOR_TILES = {273: 324, 279: 325}
"""Some writers name the tables of their tiles as those of strips."""

_HAMAMATSU = 65420
_INTEGERS = {3: "H", 4: "I", 16: "Q"}
"""TIFF's types of whole numbers: SHORT, LONG, LONG8."""

_BYTES_PER_TILE_PIXEL = 16
"""A compressed tile is at hand as coded bytes, as RGBA and as RGB, in several threads."""

_PIXELS_PER_FILE_BYTE = 16_384
"""White glass takes 170 pixels a byte in JPEG, a sparse table of 256 px tiles 8,192."""

_MOST_DIRECTORIES, _MOST_TAGS = 1000, 1000


@dataclass(frozen=True)
class _Tag:
    kind: int
    count: int
    value: bytes
    """What stands in the directory: the value itself, or where it lies."""


Directory = dict[int, _Tag]


def check_tiff(path: Path, memory_gib: float) -> None:
    """Refuse a TIFF whose tile tables cannot be, or whose tiles would take too much memory.

    Raises:
        SlideError: If a side, a type or a length cannot be.
        OSError: If the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        order, directories = _directories(file)
        for number, tags in enumerate(directories):
            if not {322, 323} & tags.keys():
                continue  # no tiles: OpenSlide takes no pixels from it
            try:
                width, height, tile_width, tile_height = _check_tiles(file, order, tags, size)
            except ValueError as error:
                raise SlideError(
                    f"slide {path} is damaged: directory {number} of its TIFF has {error}; copy "
                    "it again from its source"
                ) from error
            tile = f"a tile of {tile_width} x {tile_height} px"
            require_memory(path, tile, tile_width * tile_height * _BYTES_PER_TILE_PIXEL, memory_gib)
            if width * height > _PIXELS_PER_FILE_BYTE * size:
                raise SlideError(
                    f"slide {path} promises {width} x {height} px in a file of {size} bytes, which "
                    "cannot be; copy it again from its source"
                )


def _check_tiles(
    file: BinaryIO, order: str, tags: Directory, file_size: int
) -> tuple[int, int, int, int]:
    """Width and height of the picture and of its tiles."""
    numbers = {code: _number(order, code, tags[code]) for code in _SCALARS if code in tags}
    for code in (256, 257, 322, 323):
        if numbers.get(code, 0) < 1:
            raise ValueError(f"no {_SCALARS[code]}")
    width, height, tile_width, tile_height = (numbers[code] for code in (256, 257, 322, 323))
    needed = -(-width // tile_width) * -(-height // tile_height)
    if numbers.get(284) == 2:  # each channel has tiles of its own
        needed *= numbers.get(277, 1)
    for code, name in _TABLES.items():
        table = tags.get(code)
        if table is None or table.kind not in _INTEGERS:
            raise ValueError(f"no {name} in whole numbers")
        if table.count < needed:
            raise ValueError(f"{table.count} {name} for {needed} tiles")
        length = table.count * struct.calcsize(_INTEGERS[table.kind])
        if length > len(table.value) and _offset(order, table) + length > file_size:
            raise ValueError(f"{name} that reach beyond its end")
    # OpenSlide allocates a tile's bytes before it reads them.
    longest = int(_table(file, order, tags[325]).max())
    if longest > file_size:
        raise ValueError(f"a tile of {longest} bytes in a file of {file_size}")
    return width, height, tile_width, tile_height


def _number(order: str, code: int, tag: _Tag) -> int:
    """The one whole number of a tag."""
    size = struct.calcsize(_INTEGERS.get(tag.kind, "16x"))
    if tag.count != 1 or size > len(tag.value):
        found = f"{tag.count} values of type {tag.kind}"
        raise ValueError(f"{found} as {_SCALARS[code]}, expected one whole number")
    number: int = struct.unpack_from(order + _INTEGERS[tag.kind], tag.value)[0]
    return number


def _table(file: BinaryIO, order: str, tag: _Tag) -> NDArray[np.integer]:
    """The values (n,) of a table that lies inside the file; the file stays where it is."""
    kind = np.dtype(f"{order}u{struct.calcsize(_INTEGERS[tag.kind])}")
    length = tag.count * kind.itemsize
    if length <= len(tag.value):
        return np.frombuffer(tag.value[:length], kind)
    place = file.tell()
    file.seek(_offset(order, tag))
    data = file.read(length)
    file.seek(place)
    return np.frombuffer(data, kind)


def _offset(order: str, tag: _Tag) -> int:
    offset: int = struct.unpack(order + ("Q" if len(tag.value) == 8 else "I"), tag.value)[0]
    return offset


def _directories(file: BinaryIO) -> tuple[str, Iterator[Directory]]:
    """Byte order and the directories of a TIFF in order; none of another file."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack_from(order + "H", head, 2)[0] if order and len(head) >= 8 else 0
    if version == 42:
        return order, _walk(file, order, struct.unpack_from(order + "I", head, 4)[0], big=False)
    if version == 43 and len(head) == 16:
        return order, _walk(file, order, struct.unpack_from(order + "Q", head, 8)[0], big=True)
    return order, iter(())


def _walk(file: BinaryIO, order: str, offset: int, *, big: bool) -> Iterator[Directory]:
    """One directory after the other; a chain that is cut or turns back ends."""
    length, entry = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    entry_size, seen = struct.calcsize("=" + entry), set[int]()
    while offset and offset not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(offset)
        file.seek(offset)
        head = file.read(struct.calcsize(length))
        if len(head) < struct.calcsize(length):
            return
        count = min(struct.unpack(order + length, head)[0], _MOST_TAGS)
        data = file.read(count * entry_size)
        entries = struct.iter_unpack(order + entry, data[: len(data) // entry_size * entry_size])
        tags = {code: _Tag(kind, n, value) for code, kind, n, value in entries}
        if _HAMAMATSU in tags:
            return  # its chain has offsets of its own kind, and it has no tiles
        for strips, tiles in _STRIPS_FOR_TILES.items():
            if tiles not in tags and strips in tags:
                tags[tiles] = tags[strips]
        yield tags
        pointer = file.read(8 if big else 4)
        if len(pointer) < (8 if big else 4):
            return
        offset = struct.unpack(order + ("Q" if big else "I"), pointer)[0]
