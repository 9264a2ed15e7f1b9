"""Tiles decoded directly: OpenSlide's pixels, bit for bit, and its errors."""

import logging
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from openslide import OpenSlide

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides import direct_reader, tiled_file
from histotransfer_pl.slides.direct_reader import DirectReader
from histotransfer_pl.slides.openslide_reader import OpenSlideReader
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.tiled_file import TileGrid, find_levels
from tests.slides.conftest import level0_on_white

SLIDES = ["painted", "breast", "aperio", "tcga"]


@pytest.fixture(params=SLIDES)
def slide(request: pytest.FixtureRequest, data_root: Path) -> Path:
    """JPEG in RGB and YCbCr, with and without shared tables, and JPEG 2000."""
    if request.param == "breast":
        return data_root / "idc_breast" / "slides" / "10253_r0.tif"
    name = "normal_slide" if request.param == "painted" else request.param
    path: Path = request.getfixturevalue(name)
    return path


def _places(dimensions: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Corners inside, on the edges and outside of a slide."""
    rng = np.random.default_rng(0)
    width, height = dimensions
    inside = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(count)]
    return [*inside, (-60, -60), (width - 30, height - 30), (2 * width, 0), (0, -1000)]


def test_level_0_is_openslides_bit_for_bit(slide: Path) -> None:
    reader = open_slide(slide, mpp=0.5, reader="direct")
    for place in _places(reader.dimensions_level0, 12):
        expected = level0_on_white(slide, *place, 224, 224)
        np.testing.assert_array_equal(reader.read_patch(*place, 224, 0.5), expected)


@pytest.mark.parametrize("mpp", [0.9, 1.0, 2.0, 2.1, 3.7, 8.0])
def test_every_resolution_is_openslides_bit_for_bit(slide: Path, mpp: float) -> None:
    direct, plain = DirectReader(slide, 0.5), OpenSlideReader(slide, 0.5)
    for x, y in _places(direct.dimensions_level0, 4):
        # Multiples of 16 begin on whole pixels of the painted levels, the others between two.
        for place in ((x, y), (x // 16 * 16, y // 16 * 16)):
            patch = direct.read_patch(*place, 96, mpp)
            np.testing.assert_array_equal(patch, plain.read_patch(*place, 96, mpp))


def test_thumbnail_is_openslides(slide: Path) -> None:
    thumbnail = DirectReader(slide, 0.5).thumbnail(8.0)
    np.testing.assert_array_equal(thumbnail, OpenSlideReader(slide, 0.5).thumbnail(8.0))


def test_coarser_levels_of_a_painted_slide_are_decoded_here(
    normal_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_openslide(monkeypatch)
    reader = open_slide(normal_slide)
    for mpp in (0.5, 2.0, 8.0):
        for place in ((0, 0), (160, 320), (16, 640)):
            reader.read_patch(*place, 32, mpp)
    assert len(calls) == 3  # the probe of each level


def test_auto_decodes_here_and_openslide_does_not(
    aperio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_openslide(monkeypatch)
    for name, expected in (("auto", 1), ("openslide", 3)):
        reader = open_slide(aperio, reader=name)  # type: ignore[arg-type]
        for x in (0, 300, 700):
            reader.read_patch(x, 300, 224, 0.499)
        assert len(calls) == expected, name
        calls.clear()


def test_a_probe_of_one_colour_proves_nothing(
    aperio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_openslide(monkeypatch)
    reader = open_slide(aperio)
    for place in ((-500, -500), (-500, 0), (600, 1200), (900, 1200)):
        reader.read_patch(*place, 224, 0.499)
    assert len(calls) == 3


def _count_openslide(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    plain = OpenSlide.read_region

    def counted(self: OpenSlide, *args: Any) -> Any:
        calls.append(args)
        return plain(self, *args)

    monkeypatch.setattr(OpenSlide, "read_region", counted)
    return calls


def _without_tiles(path: Path, target: Path, level: int, tiles: list[int]) -> Path:
    """A copy in which some tiles of a level have no data."""
    shutil.copy(path, target)
    with OpenSlide(path) as slide, tifffile.TiffFile(path) as tiff:
        shape = slide.level_dimensions[level][::-1]
        pages = [p for p in tiff.pages if isinstance(p, tifffile.TiffPage) and p.is_tiled]
        tag = next(p for p in pages if p.shape[:2] == shape).tags["TileByteCounts"]
        assert tag.count > max(tiles)
        size = {3: 2, 4: 4, 16: 8}[tag.dtype]
        order = tiff.byteorder
    with target.open("r+b") as file:
        for tile in tiles:
            file.seek(tag.valueoffset + tile * size)
            file.write(struct.pack(order + {2: "H", 4: "I", 8: "Q"}[size], 0))
    return target


@pytest.mark.parametrize("name", ["normal_slide", "tcga"])
@pytest.mark.parametrize("level", [0, 1])
def test_missing_tiles_are_what_openslide_makes_of_them(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, level: int
) -> None:
    source: Path = request.getfixturevalue(name)
    sparse = _without_tiles(source, tmp_path / source.name, level, [0, 3])
    direct, plain = DirectReader(sparse, 0.5), OpenSlideReader(sparse, 0.5)
    mpp = 0.5 * direct.level_downsamples[level]
    for place in ((960, 240), (480, 480), (0, 0), (720, 16)):
        patch = direct.read_patch(*place, 200, mpp)
        np.testing.assert_array_equal(patch, plain.read_patch(*place, 200, mpp), str(place))
    # Above level 0 of an Aperio file OpenSlide fills the gap from the finer level.
    if level == 0 or name == "normal_slide":
        assert (direct.read_patch(0, 0, 200, mpp) == 255).all()


@pytest.mark.parametrize("start", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("noise", [False, True])
def test_damaged_tile_is_an_error_as_with_openslide(
    aperio: Path, tmp_path: Path, start: float, noise: bool
) -> None:
    path = tmp_path / "damaged.svs"
    shutil.copy(aperio, path)
    grid = find_levels(aperio, [(2220, 2967)])[0]
    assert grid is not None
    offset, count = int(grid.offsets[54]), int(grid.counts[54])
    rng = np.random.default_rng(0)
    with path.open("r+b") as file:
        file.seek(offset + int(start * count))
        file.write(rng.bytes(300) if noise else bytes(300))
    readers = [open_slide(path, reader="direct"), open_slide(path, reader="openslide")]
    for reader in readers:
        reader.read_patch(0, 0, 128, 0.499)  # what is probed is not the damaged tile
    outcomes = [_outcome(reader) for reader in readers]
    assert outcomes[0] == outcomes[1]
    assert "cannot be read at level-0 pixel x=1000, y=1250" in str(outcomes[0])


def _outcome(reader: OpenSlideReader) -> str | bytes:
    try:
        return reader.read_patch(1000, 1250, 128, 0.499).tobytes()
    except SlideError as error:
        return str(error)


def test_other_pixels_than_openslides_are_not_used(
    aperio: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = TileGrid.decode

    def other(self: TileGrid, data: bytes) -> NDArray[np.uint8]:
        return plain(self, data) ^ np.uint8(1)

    monkeypatch.setattr(TileGrid, "decode", other)
    with caplog.at_level(logging.WARNING, direct_reader.__name__):
        reader = open_slide(aperio)
        for place in ((600, 600), (900, 1200)):
            expected = level0_on_white(aperio, *place, 128, 128)
            np.testing.assert_array_equal(reader.read_patch(*place, 128, 0.499), expected)
    assert caplog.text.count("OpenSlide reads level 0, its pixels differ") == 1


@pytest.mark.parametrize("name", ["format_fixtures/boxes.tiff", "format_fixtures/boxes_0.dcm"])
def test_a_file_of_another_kind_is_left_to_openslide_or_refused(data_root: Path, name: str) -> None:
    path = data_root / "wsi_real" / name
    with pytest.raises(SlideError, match=r"cannot be decoded directly.*use reader auto"):
        open_slide(path, 0.5, reader="direct")
    patch = open_slide(path, 0.5).read_patch(0, 0, 16, 0.5)
    np.testing.assert_array_equal(patch, level0_on_white(path, 0, 0, 16, 16))


def test_cache_is_bounded(aperio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_file, "TILE_CACHE_BYTES", 3 * 240 * 240 * 3)
    reader = DirectReader(aperio)
    for x, y in _places(reader.dimensions_level0, 8):
        expected = level0_on_white(aperio, x, y, 500, 500)
        np.testing.assert_array_equal(reader.read_patch(x, y, 500, 0.499), expected)
    tiled = reader._tiled()
    assert tiled is not None
    assert len(tiled._decoded) == 3


def test_a_tile_is_decoded_once(aperio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    plain = TileGrid.decode

    def counted(self: TileGrid, data: bytes) -> NDArray[np.uint8]:
        decoded.append(data)
        return plain(self, data)

    monkeypatch.setattr(TileGrid, "decode", counted)
    reader = open_slide(aperio)
    for y in range(0, 720, 90):
        for x in range(0, 960, 120):
            reader.read_patch(x, y, 120, 0.499)
    assert len(decoded) == len(set(decoded)) == 4 * 4  # 960 x 750 px of tiles of 240 px
