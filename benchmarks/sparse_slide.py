"""A slide that is huge on paper only."""

import os
import struct
from pathlib import Path

import imagecodecs
import numpy as np

from benchmarks.material import painted
from histotransfer_pl.slides.synthetic import SYNTHETIC_MPP

_TILE = 256
_DOWNSAMPLES = (1, 4, 16, 64)
_LONG, _SHORT, _RATIONAL = 4, 3, 5


def write_large_slides(folder: Path, count: int, side_px: int) -> list[Path]:
    """Slides of the same few tiles, written in no time whatever their side."""
    first = folder / "slide_000.tiff"
    write_sparse(first, side_px, side_px)
    others = [folder / f"slide_{number:03d}.tiff" for number in range(1, count)]
    for path in others:
        os.link(first, path)
    return [first, *others]


def write_sparse(path: Path, width: int, height: int) -> None:
    """A pyramid all of whose tiles are the same few bytes of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = painted()
    corners = [(512 + 256 * i, 512 + 256 * j) for i in range(4) for j in range(4)]
    tiles = [
        bytes(
            imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels[y : y + _TILE, x : x + _TILE]), 85)
        )
        for x, y in corners
    ]
    offsets, place = [], 8
    for tile in tiles:
        offsets.append(place)
        place += len(tile)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, place + place % 2))
        file.write(b"".join(tiles) + b"\0" * (place % 2))
        for number, downsample in enumerate(_DOWNSAMPLES):
            size = (width // downsample, height // downsample)
            last = number == len(_DOWNSAMPLES) - 1
            file.write(_directory(file.tell(), size, downsample, offsets, tiles, last=last))


def _directory(
    start: int,
    size: tuple[int, int],
    downsample: int,
    offsets: list[int],
    tiles: list[bytes],
    *,
    last: bool,
) -> bytes:
    """An image file directory with its arrays behind it."""
    count = -(-size[0] // _TILE) * -(-size[1] // _TILE)
    chosen = np.random.default_rng(0).integers(0, len(tiles), count)
    where = np.asarray(offsets, "<u4")[chosen].tobytes()
    lengths = np.asarray([len(tile) for tile in tiles], "<u4")[chosen].tobytes()
    resolution = struct.pack("<II", round(10_000 / (SYNTHETIC_MPP * downsample)), 1)
    arrays = {258: struct.pack("<HHH", 8, 8, 8), 282: resolution, 283: resolution}
    arrays |= {324: where, 325: lengths}
    # tag, type, number of values, value
    entries = [
        (254, _LONG, 1, int(downsample > 1)),
        (256, _LONG, 1, size[0]),
        (257, _LONG, 1, size[1]),
        (258, _SHORT, 3, None),
        (259, _SHORT, 1, 7),
        (262, _SHORT, 1, 6),
        (277, _SHORT, 1, 3),
        (282, _RATIONAL, 1, None),
        (283, _RATIONAL, 1, None),
        (284, _SHORT, 1, 1),
        (296, _SHORT, 1, 3),
        (322, _LONG, 1, _TILE),
        (323, _LONG, 1, _TILE),
        (324, _LONG, count, None),
        (325, _LONG, count, None),
        (530, _SHORT, 2, 2 | 2 << 16),
    ]
    table = b""
    place = start + 2 + 12 * len(entries) + 4
    behind = b""
    for tag, kind, number, value in entries:
        content = value
        if content is None and len(arrays[tag]) == 4:
            content = struct.unpack("<I", arrays[tag])[0]
        elif content is None:
            content = place + len(behind)
            behind += arrays[tag] + b"\0" * (len(arrays[tag]) % 2)
        table += struct.pack("<HHII", tag, kind, number, content)
    following = 0 if last else place + len(behind)
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + behind
