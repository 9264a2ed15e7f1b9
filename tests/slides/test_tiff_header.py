"""Headers that cannot be are refused before a library allocates what they ask for."""

from pathlib import Path
from typing import Literal

import pytest
import tifffile
from openslide import OpenSlide

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.tiff_header import check_tiff
from tests.slides.tiffs import set_tag, tissue, write_plain


@pytest.fixture(params=["little", "big endian", "bigtiff"])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """300 x 250 px in tiles of 64 px, two levels."""
    order: Literal["<", ">"] = ">" if request.param == "big endian" else "<"
    return write_plain(
        tmp_path / "a.tif",
        tissue(250, 300),
        tissue(125, 150),
        byteorder=order,
        bigtiff=request.param == "bigtiff",
    )


def test_a_sound_file_passes(slide: Path) -> None:
    check_tiff(slide, SLIDE_MEMORY_GIB)


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize(
    ("tag", "value", "kind", "count", "message"),
    [
        ("TileWidth", 64, 1, 1, r"1 values of type 1 as TileWidth, expected one whole number"),
        ("TileWidth", 0, 4, 1, "no TileWidth"),
        ("Compression", 8, 3, 2, "2 values of type 3 as Compression"),
        ("TileByteCounts", 1, 4, 1, r"1 TileByteCounts for (20|6) tiles"),
        ("TileOffsets", 1, 1, 20, "no TileOffsets in whole numbers"),
        ("TileOffsets", 2**31, 4, 20, "TileOffsets that reach beyond its end"),
        ("ImageLength", 2**30, 4, 1, r"\d+ TileOffsets for \d+ tiles"),
    ],
)
def test_sides_types_and_tables(
    slide: Path, page: int, tag: str, value: int, kind: int, count: int, message: str
) -> None:
    set_tag(slide, tag, value, kind, count, page)
    with pytest.raises(SlideError, match=rf"a\.tif is damaged: directory {page} .*{message}"):
        check_tiff(slide, SLIDE_MEMORY_GIB)


def test_a_tile_that_would_abort_the_process_is_not_opened(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenSlide, "__init__", lambda *_: pytest.fail("OpenSlide was asked"))
    for tag in ("TileWidth", "TileLength"):
        set_tag(slide, tag, 1 << 20)
    with pytest.raises(SlideError, match=r"a tile of 1048576 x 1048576 px would take .* GiB"):
        open_slide(slide)


@pytest.mark.parametrize("kind", ["LONG", "LONG8 of a classic TIFF"])
def test_a_tile_of_more_bytes_than_the_file(tmp_path: Path, kind: str) -> None:
    path = write_plain(tmp_path / "a.tif", tissue(250, 300))
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        assert (tag.dtype, tag.count) == (4, 20)
    data = bytearray(path.read_bytes())
    if kind == "LONG":
        data[tag.valueoffset + 28 : tag.valueoffset + 32] = b"\0\0\0\x7f"
    else:  # two counts are read as one
        data[tag.offset + 2] = 16
    path.write_bytes(data + bytes(200))
    with pytest.raises(
        SlideError, match=r"directory 0 .* has a tile of \d{10,} bytes in a file of"
    ):
        open_slide(path)


def test_more_pixels_than_a_file_can_hold(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", tissue(64, 64))
    for tag in ("TileWidth", "TileLength", "ImageWidth", "ImageLength"):
        set_tag(path, tag, 8192)
    with pytest.raises(SlideError, match=r"promises 8192 x 8192 px in a file of \d+ bytes"):
        open_slide(path)


def test_memory_is_a_setting(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", tissue(250, 300))
    need = 64 * 64 * 16 / 2**30
    check_tiff(path, need)
    with pytest.raises(SlideError, match=r"a tile of 64 x 64 px .* raise data\.slide_memory_gib"):
        check_tiff(path, need * 0.999)


@pytest.mark.parametrize("content", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"PK\3\4" * 9])
def test_other_files_and_cut_ones_are_left_to_openslide(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    check_tiff(path, SLIDE_MEMORY_GIB)


def test_a_chain_that_turns_back_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + bytes(2) + b"\x08\0\0\0")
    check_tiff(path, SLIDE_MEMORY_GIB)


def test_real_files_pass(data_root: Path) -> None:
    slides = [*(data_root / "wsi_real").glob("*.*"), *(data_root / "idc_breast/slides").iterdir()]
    assert len(slides) > 300
    for path in slides:
        check_tiff(path, 0.1)
