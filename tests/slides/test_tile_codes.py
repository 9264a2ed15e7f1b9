"""Tiles whose headers disagree with the TIFF: OpenSlide's colours, and no bombs."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from openslide import OpenSlide, OpenSlideError

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.reader import DirectReader, OpenSlideReader, open_slide
from histotransfer_pl.slides.tile_codes import (
    OversizedTileError,
    TileCodeError,
    jpeg2000_frame,
    jpeg_frame,
)
from histotransfer_pl.slides.tiled_file import find_levels
from tests.slides.tiffs import TILE_PX, jpeg, promise, tissue, write_tiles

TILES = [tissue(TILE_PX, TILE_PX, seed) for seed in range(4)]
ADOBE_YCBCR = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
ADOBE_RGB = ADOBE_YCBCR[:-1] + b"\x00"


def marked(data: bytes, mark: bytes) -> bytes:
    return data[:2] + mark + data[2:]


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
@pytest.mark.parametrize("marks", ["jfif", "adobe ycbcr", "adobe rgb", "both"])
def test_colours_are_the_tiffs_whatever_a_tile_says(
    tmp_path: Path, photometric: str, marks: str
) -> None:
    plain = [jpeg(pixels, jfif=False) for pixels in TILES]
    odd = {
        "jfif": jpeg(TILES[1]),
        "adobe ycbcr": marked(plain[1], ADOBE_YCBCR),
        "adobe rgb": marked(plain[1], ADOBE_RGB),
        "both": marked(jpeg(TILES[1]), ADOBE_RGB),
    }[marks]
    tiles = [plain[0], odd, plain[2], odd]  # the first tile, which is probed, is an honest one
    path = write_tiles(tmp_path / "a.tif", tiles, columns=2, photometric=photometric)
    direct, other = open_slide(path, reader="direct"), open_slide(path, reader="openslide")
    for x, y in ((0, 0), (64, 0), (0, 64), (64, 64)):
        patch = direct.read_patch(x, y, TILE_PX, 0.5)
        np.testing.assert_array_equal(patch, other.read_patch(x, y, TILE_PX, 0.5))
    assert direct._equal == {0: True}  # type: ignore[attr-defined]


def test_every_tile_is_decoded_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiles(tmp_path / "a.tif", map(jpeg, TILES), columns=2, photometric="rgb")
    reader = open_slide(path)
    reader.read_patch(0, 0, TILE_PX, 0.5)
    monkeypatch.setattr(OpenSlide, "read_region", lambda *_: pytest.fail("OpenSlide was asked"))
    assert reader.read_patch(64, 64, TILE_PX, 0.5).std() > 0


@pytest.mark.parametrize("progressive", [True, False])
@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_a_bomb_is_named_at_once_and_the_rest_reads(
    tmp_path: Path, progressive: bool, mpp: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = promise(jpeg(TILES[3], progressive=progressive), 65_500, 65_500)
    good = [jpeg(pixels) for pixels in TILES[:3]]
    # Both levels end with a bomb; corners that lie between pixels of level 1 OpenSlide reads.
    levels = [[*good * 5, bomb], [*good, bomb]]
    path = write_tiles(tmp_path / "a.tif", *levels, columns=4, photometric="ycbcr")
    reader = open_slide(path)
    assert reader.read_patch(1, 1, 32, mpp).std() > 0
    calls: list[object] = []
    monkeypatch.setattr(OpenSlide, "read_region", lambda *args: calls.append(args))
    start = time.perf_counter()
    with pytest.raises(SlideError, match=r"a\.tif cannot be read at .*a tile of 65500 x 65500 px"):
        reader.read_patch(255 - 50, 255 - 50, 32, mpp)
    assert time.perf_counter() - start < 1
    assert calls == []


def test_a_smaller_tile_is_openslides_affair(tmp_path: Path) -> None:
    small = jpeg(TILES[0][:32])
    path = write_tiles(tmp_path / "a.tif", [jpeg(TILES[0]), small], columns=2, photometric="ycbcr")
    with pytest.raises(SlideError, match="Dimensional mismatch reading JPEG, expected 64x64"):
        open_slide(path).read_patch(64, 0, TILE_PX, 0.5)


def test_a_tile_that_reaches_beyond_the_file_is_openslides_affair(tmp_path: Path) -> None:
    tiles = list(map(jpeg, TILES))
    path = write_tiles(tmp_path / "a.tif", tiles * 4, tiles, columns=4, photometric="ycbcr")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        assert tag.dtype == 4
    with path.open("r+b") as file:
        file.seek(tag.valueoffset + 15 * 4)
        file.write(struct.pack("<I", path.stat().st_size - 100))
    reader = open_slide(path)
    reader.read_patch(0, 0, TILE_PX, 0.5)
    with pytest.raises(SlideError, match="cannot be read at level-0 pixel x=192, y=192"):
        reader.read_patch(192, 192, TILE_PX, 0.5)


def test_restart_intervals_of_the_shared_tables_do_not_hold_for_the_tiles(aperio: Path) -> None:
    grid = find_levels(aperio, [(2220, 2967)])[0]
    assert grid is not None
    assert b"\xff\xdd" not in grid.jpeg_head
    assert grid.jpeg_head.count(b"\xff\xdb") >= 1


def test_jpeg2000_size_is_checked_before_decoding(tcga: Path) -> None:
    grid = find_levels(tcga, [(4443, 3567)])[0]
    assert grid is not None
    data = tcga.read_bytes()[int(grid.offsets[0]) :][: int(grid.counts[0])]
    assert grid.decode(data).shape == (grid.tile_height, grid.tile_width, 3)
    bomb = data[:8] + struct.pack(">II", 2**31, 2**31) + data[16:]
    with pytest.raises(OversizedTileError, match="a tile of 2147483648 x 2147483648 px"):
        grid.decode(bomb)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda\x00\x02", b"\xff\x4f\xff\x51", b"x" * 99]
)
def test_headers_that_cannot_be_read(data: bytes) -> None:
    for frame in (jpeg_frame, jpeg2000_frame):
        with pytest.raises(TileCodeError):
            frame(data)


@pytest.mark.parametrize("error", [TypeError, IndexError, MemoryError, RuntimeError, struct.error])
@pytest.mark.parametrize("method", ["__init__", "read"])
def test_whatever_the_direct_reader_raises_openslide_reads(
    normal_slide: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], method: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("odd file")

    monkeypatch.setattr(f"histotransfer_pl.slides.tiled_file.TiledFile.{method}", fail)
    patch = DirectReader(normal_slide).read_patch(320, 320, 64, 0.5)
    np.testing.assert_array_equal(
        patch, OpenSlideReader(normal_slide).read_patch(320, 320, 64, 0.5)
    )


@pytest.mark.parametrize("error", [TypeError, MemoryError, OpenSlideError, UnicodeError])
def test_whatever_a_slide_raises_names_the_slide(
    normal_slide: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    reader = open_slide(normal_slide, reader="openslide")

    def fail(*_: object) -> None:
        raise error("odd file")

    monkeypatch.setattr(OpenSlide, "read_region", fail)
    message = r"patient_00_slide_0\.tiff cannot be read.*odd file"
    with pytest.raises(SlideError, match=message):
        reader.read_patch(0, 0, 64, 0.5)
    with pytest.raises(SlideError, match=message):
        reader.thumbnail(8.0)
