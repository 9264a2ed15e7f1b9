"""Small painted slides, and damage to their bytes by seed."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

SIDE_PX = 384
"""Side of level 0: 3 x 3 tiles of 128 px, and a coarser level."""

_TILE_PX = 128
_EXTREMES = (0, 1, 3, 255, 65_500, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
_TYPES = (0, 1, 2, 3, 4, 5, 7, 9, 12, 16, 18, 65_535)


@dataclass(frozen=True)
class Sound:
    """A sound slide and where its parts lie.

    Attributes:
        name: Codec and colours.
        data: The file.
        entries: Offsets of the entries of its directories.
        entry_bytes: Length of one of them, 12 or 20.
        values: Offset and length of values that stand outside of the directories.
        tiles: Offset and length of the tiles.
    """

    name: str
    data: bytes
    entries: list[int]
    entry_bytes: int
    values: list[tuple[int, int]]
    tiles: list[tuple[int, int]]


def paint_slides() -> list[Sound]:
    """One slide of each codec: JPEG in both colours, Aperio's JPEG 2000, lossless, BigTIFF."""
    kinds: dict[str, dict[str, object]] = {
        "jpeg_ycbcr.tif": {"compression": "jpeg", "photometric": "rgb"},
        "jpeg_rgb.svs": {
            "compression": "jpeg",
            "photometric": "rgb",
            "compressionargs": {"outcolorspace": "rgb"},
            "description": _aperio(),
        },
        "jpeg2000.svs": {"compression": 33005, "photometric": "rgb", "description": _aperio()},
        "deflate.tif": {"compression": "deflate", "photometric": "rgb"},
        "jpeg_big.tif": {"compression": "jpeg", "photometric": "rgb", "bigtiff": True},
    }
    return [_sound(name, settings) for name, settings in kinds.items()]


def mutate(sound: Sound, rng: np.random.Generator) -> tuple[str, bytes]:
    """A damaged copy, and what was done to it."""
    data = bytearray(sound.data)
    kinds: list[Callable[[Sound, bytearray, np.random.Generator], str]] = [
        *(_header, _cut, _splice, _values),
        *(_tag, _tag, _tag, _tile, _tile),  # as often as there is something to break
    ]
    done = kinds[int(rng.integers(len(kinds)))](sound, data, rng)
    return done, bytes(data)


def _aperio() -> str:
    return f"Aperio Image Library v12.0\r\n{SIDE_PX}x{SIDE_PX}|AppMag = 20|MPP = 0.5"


def _sound(name: str, settings: dict[str, object]) -> Sound:
    buffer = io.BytesIO()
    big = bool(settings.pop("bigtiff", False))
    picture = _picture()
    with tifffile.TiffWriter(buffer, bigtiff=big) as tiff:
        for level in (1, 2):
            tiff.write(
                np.ascontiguousarray(picture[::level, ::level]),
                tile=(_TILE_PX, _TILE_PX),
                subfiletype=0 if level == 1 else 1,
                resolution=(20_000 / level, 20_000 / level),
                resolutionunit="CENTIMETER",
                metadata=None,
                **settings,  # type: ignore[arg-type]
            )
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
        tags = [tag for page in pages for tag in page.tags]
        entry = 20 if big else 12
        outside = [tag for tag in tags if tag.valueoffset >= tag.offset + entry]
        sizes = [tag.valuebytecount for tag in outside]
        return Sound(
            name=name,
            data=buffer.getvalue(),
            entries=[tag.offset for tag in tags],
            entry_bytes=entry,
            values=[(tag.valueoffset, size) for tag, size in zip(outside, sizes, strict=True)],
            tiles=[
                tile
                for page in pages
                for tile in zip(page.dataoffsets, page.databytecounts, strict=True)
            ],
        )


def _picture() -> NDArray[np.uint8]:
    """A violet field with nuclei, and glass around it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX - 0.5
    fine = ndimage.gaussian_filter(rng.normal(size=(SIDE_PX, SIDE_PX)), 3)
    nuclei = (fine / fine.std()) > 1.2
    rgb = np.where(nuclei[:, :, None], (110, 70, 150), (205, 130, 180))
    rgb = np.where((np.hypot(x, y) < 0.46)[:, :, None], rgb, (243, 242, 244))
    picture: NDArray[np.uint8] = np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)
    return picture


def _flip(data: bytearray, start: int, length: int, rng: np.random.Generator, most: int) -> str:
    count = int(rng.integers(1, most + 1))
    for place in rng.integers(start, start + max(1, length), count).tolist():
        if place < len(data):
            data[place] ^= int(rng.integers(1, 256))
    return f"{count} bytes in {start}..{start + length}"


def _header(_: Sound, data: bytearray, rng: np.random.Generator) -> str:
    return f"header: {_flip(data, 0, 16, rng, 3)}"


def _cut(_: Sound, data: bytearray, rng: np.random.Generator) -> str:
    left = int(rng.integers(0, len(data)))
    del data[left:]
    return f"cut to {left} bytes"


def _splice(_: Sound, data: bytearray, rng: np.random.Generator) -> str:
    source, target, length = (int(n) for n in rng.integers(1, len(data) // 2, 3))
    data[target : target + length] = data[source : source + length]
    return f"{length} bytes of {source} over {target}"


def _values(sound: Sound, data: bytearray, rng: np.random.Generator) -> str:
    start, length = sound.values[int(rng.integers(len(sound.values)))]
    return f"value of a tag: {_flip(data, start, length, rng, 4)}"


def _tag(sound: Sound, data: bytearray, rng: np.random.Generator) -> str:
    start = sound.entries[int(rng.integers(len(sound.entries)))]
    wide = sound.entry_bytes == 20
    kind = int(rng.integers(4))
    if kind == 0:
        return f"tag: {_flip(data, start, sound.entry_bytes, rng, 3)}"
    if kind == 1:
        value = int(rng.choice(_TYPES))
        struct.pack_into("<H", data, start + 2, value)
        return f"type of the tag at {start}: {value}"
    extreme = int(rng.choice(_EXTREMES))
    place = start + (4 if kind == 2 else 12 if wide else 8)
    struct.pack_into("<Q" if wide else "<I", data, place, extreme)
    return f"{'count' if kind == 2 else 'value'} of the tag at {start}: {extreme}"


def _tile(sound: Sound, data: bytearray, rng: np.random.Generator) -> str:
    start, length = sound.tiles[int(rng.integers(len(sound.tiles)))]
    if rng.integers(3):
        part = length if rng.integers(2) else min(length, 200)
        return f"tile: {_flip(data, start, part, rng, 20)}"
    frame = data.find(b"\xff\xc0", start, start + length)
    if frame < 0:
        data[start : start + length] = bytes(length)
        return f"tile at {start}: zeros"
    if rng.integers(2):  # a progressive one needs memory for the whole picture at once
        data[frame + 1] = 0xC2
    struct.pack_into(">HH", data, frame + 5, *(int(n) for n in rng.choice((64, 8192, 65_500), 2)))
    return f"tile at {start}: another size"


def write(folder: Path, number: int, sound: Sound, data: bytes) -> Path:
    """Put a slide where it can be read."""
    path = folder / f"{number:05d}_{sound.name}"
    path.write_bytes(data)
    return path
