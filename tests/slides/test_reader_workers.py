"""One reader in many threads and processes, and on damaged files."""

import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.reader import OpenSlideReader, open_slide

PLACES = [(x, y) for y in range(0, 2400, 300) for x in range(0, 2000, 300)]


def _read(reader: OpenSlideReader, place: tuple[int, int]) -> NDArray[np.uint8]:
    return reader.read_patch(*place, 128, 0.499)


@pytest.fixture(scope="module")
def expected(aperio: Path) -> list[NDArray[np.uint8]]:
    reader = open_slide(aperio)
    return [_read(reader, place) for place in PLACES]


def test_threads_share_a_reader(aperio: Path, expected: list[NDArray[np.uint8]]) -> None:
    reader = open_slide(aperio)
    reader.close()  # so that the threads race to open it
    with ThreadPoolExecutor(8) as pool:
        patches = list(pool.map(lambda place: _read(reader, place), PLACES))
    np.testing.assert_array_equal(patches, expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_reader(
    aperio: Path, expected: list[NDArray[np.uint8]], method: str
) -> None:
    reader = open_slide(aperio)
    _read(reader, PLACES[0])  # opened here: a child must not use this handle
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        patches = list(pool.map(_read, [reader] * 8, PLACES[:8]))
    np.testing.assert_array_equal(patches, expected[:8])


def test_pickled_reader_keeps_the_given_mpp(tcga: Path) -> None:
    copy: OpenSlideReader = pickle.loads(pickle.dumps(open_slide(tcga, mpp=0.25)))
    assert copy.mpp == 0.25
    assert copy.read_patch(2000, 2000, 16, 0.25).std() > 0


def test_closed_reader_opens_again(aperio: Path, expected: list[NDArray[np.uint8]]) -> None:
    with open_slide(aperio) as reader:
        pass
    np.testing.assert_array_equal(_read(reader, PLACES[3]), expected[3])


@pytest.fixture
def damaged(aperio: Path, tmp_path: Path) -> Path:
    """A copy whose tile at (960, 1200), 240 px wide, holds zeros."""
    path = tmp_path / "damaged.svs"
    shutil.copy(aperio, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        tile = 5 * -(-page.imagewidth // page.tilewidth) + 4
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    return path


def test_damaged_place_is_named_and_the_rest_still_reads(
    damaged: Path, expected: list[NDArray[np.uint8]]
) -> None:
    reader = open_slide(damaged)
    for _ in range(2):
        with pytest.raises(SlideError, match=r"damaged\.svs cannot be read.*x=1000, y=1250"):
            _read(reader, (1000, 1250))
        np.testing.assert_array_equal(_read(reader, PLACES[0]), expected[0])


def test_one_threads_damaged_tile_does_not_fail_the_others(
    damaged: Path, expected: list[NDArray[np.uint8]]
) -> None:
    reader = open_slide(damaged)
    hit = [960 - 128 < x < 1200 and 1200 - 128 < y < 1440 for x, y in PLACES]
    assert sum(hit) == 1

    def read(place: tuple[int, int]) -> NDArray[np.uint8] | None:
        try:
            return _read(reader, place)
        except SlideError:
            return None

    with ThreadPoolExecutor(4) as pool:
        patches = list(pool.map(read, PLACES * 3))
    for patch, reference, bad in zip(patches, expected * 3, hit * 3, strict=True):
        assert (patch is None) == bad
        if patch is not None:
            np.testing.assert_array_equal(patch, reference)


def test_file_removed_after_opening_is_a_slide_error(aperio: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.svs"
    shutil.copy(aperio, path)
    reader = open_slide(path)
    reader.close()
    path.unlink()
    with pytest.raises(SlideError, match=r"gone\.svs does not exist"):
        _read(reader, (0, 0))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"none\.svs does not exist; check"):
        open_slide(tmp_path / "none.svs")


def test_folder_is_no_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="cannot be opened: Is a directory"):
        open_slide(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    with pytest.raises(SlideError, match=r"empty\.svs is an empty file"):
        open_slide(tmp_path / "empty.svs")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
def test_truncated_copy(aperio: Path, tmp_path: Path, share: float) -> None:
    data = aperio.read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SlideError, match=r"cut\.svs .*copy it again"):
        open_slide(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("histolab_broken.svs", r"histolab_broken\.svs is not a whole-slide image"),
        ("unopenable.tiff", r"unopenable\.tiff cannot be opened: Unsupported TIFF compression"),
    ],
)
def test_files_that_are_no_slides(data_root: Path, name: str, message: str) -> None:
    with pytest.raises(SlideError, match=message):
        open_slide(data_root / "wsi_real" / "format_fixtures" / name)


def test_slide_that_opens_but_does_not_read(data_root: Path) -> None:
    reader = open_slide(data_root / "wsi_real" / "format_fixtures" / "unreadable.svs")
    with pytest.raises(SlideError, match=r"unreadable\.svs cannot be read at level-0 pixel x=0"):
        reader.read_patch(0, 0, 16, 0.499)
