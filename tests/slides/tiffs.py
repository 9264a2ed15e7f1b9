"""TIFF files whose tiles and tags a test chooses byte by byte."""

import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

TILE_PX = 64
_SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def tissue(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured noise of a few grey levels around pink, smooth enough for JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-40, 40, (height // 16 + 1, width // 16 + 1, 3))
    noise = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    return (np.array((200, 120, 170)) + noise).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], *, jfif: bool = True, **settings: bool) -> bytes:
    """A JPEG as Pillow writes it, with or without its JFIF mark."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, **settings)
    data = buffer.getvalue()
    assert data[2:4] == b"\xff\xe0"
    length = struct.unpack_from(">H", data, 4)[0]
    return data if jfif else data[:2] + data[4 + length :]


def promise(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size than its content has."""
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


def write_tiles(path: Path, *levels: Iterable[bytes], columns: int, photometric: str) -> Path:
    """A tiled JPEG TIFF of these very tiles, 0.5 um a pixel; each level has half the columns."""
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiles, width = list(level), columns >> number
            shape = (len(tiles) // width * TILE_PX, width * TILE_PX, 3)
            tiff.write(
                iter(tiles),
                shape=shape,
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                photometric=photometric,
                subfiletype=1 if number else 0,
                resolution=(20_000 >> number, 20_000 >> number),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def write_plain(
    path: Path,
    *pages: NDArray[np.uint8],
    mpp: float = 0.5,
    byteorder: Literal["<", ">"] = "<",
    bigtiff: bool = False,
) -> Path:
    """A tiled TIFF without loss; the pages behind the first are marked as reduced."""
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as tiff:
        for number, pixels in enumerate(pages):
            tiff.write(
                pixels,
                tile=(TILE_PX, TILE_PX),
                compression="deflate",
                photometric="rgb",
                subfiletype=1 if number else 0,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def set_tag(
    path: Path, name: str, value: int, kind: int = 4, count: int = 1, page: int = 0
) -> None:
    """Overwrites a tag in its directory: type, number of values, and the value."""
    with tifffile.TiffFile(path) as tiff:
        pages = [item for item in tiff.pages if isinstance(item, tifffile.TiffPage)]
        offset, big, order = pages[page].tags[name].offset, tiff.is_bigtiff, tiff.byteorder
    number = struct.pack(order + _SIZES[kind], value)
    layout = order + ("HQ8s" if big else "HI4s")
    with path.open("r+b") as file:
        file.seek(offset + 2)
        file.write(struct.pack(layout, kind, count, number))
