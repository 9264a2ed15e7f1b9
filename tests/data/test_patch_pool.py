"""Reading in processes: every row once, few decodes, and a clean end whatever happens."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typing_extensions import override

from histotransfer_pl.data import patch_pool
from histotransfer_pl.data.patch_pool import (
    ReaderPool,
    ReadPatches,
    UnreadableSlide,
    share_out_slides,
)
from histotransfer_pl.data.patch_source import PatchSource, ReadCost, SlideFile
from histotransfer_pl.errors import WorkerError
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.openslide_reader import OpenSlideReader
from histotransfer_pl.slides.synthetic import write_pyramid
from histotransfer_pl.store.feature_store import FeatureStore

GRID = GridSettings(patch_px=96, tissue=TissueSettings(method="none"))
SIDES = (2688, 768, 288)
STALLS, DIES = "slide_1", "slide_1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Slides of 784, 64 and 9 patches, without gaps."""
    folder = tmp_path_factory.mktemp("slides")
    opened = FeatureStore.open_or_create(folder / "s.zarr", GRID.for_store())
    rng = np.random.default_rng(0)
    with opened.writing():
        for number, side in enumerate(SIDES):
            path = folder / f"slide_{number}.tiff"
            write_pyramid(path, rng.integers(0, 256, (side, side, 3), np.uint8), 0.5)
            places = np.arange(0, side - 95, 96)
            corners = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
            opened.add_slide(path.stem, corners.astype(np.int32), len(corners), {"path": str(path)})
    return opened


def _files(store: FeatureStore) -> list[SlideFile]:
    return [
        SlideFile(name, Path(store.slide(name).attributes["path"]), 0.5)
        for name in store.slide_ids()
    ]


def _counts(store: FeatureStore) -> list[int]:
    return [store.slide(name).n_patches for name in store.slide_ids()]


class Recorder:
    """Copies what a pool gives."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[int, int]] = Counter()
        self.patches: dict[tuple[int, int], np.ndarray] = {}
        self.lost: list[UnreadableSlide] = []
        self.cost = ReadCost()

    def take(self, pieces: Iterator[ReadPatches | UnreadableSlide]) -> "Recorder":
        for piece in pieces:
            if isinstance(piece, UnreadableSlide):
                self.lost.append(piece)
                continue
            self.cost.add(piece.cost)
            for row, patch in zip(piece.rows.tolist(), piece.patches, strict=True):
                self.rows[piece.place, row] += 1
                self.patches[piece.place, row] = patch.copy()
        return self

    def places(self) -> set[int]:
        return {place for place, _ in self.rows}


Make = Callable[..., ReaderPool]


@pytest.fixture
def make(store: FeatureStore) -> Iterator[Make]:
    pools: list[ReaderPool] = []

    def start(workers: int = 2, source: PatchSource | None = None, **other: object) -> ReaderPool:
        pools.append(ReaderPool(source or PatchSource(store, GRID), workers, **other))  # type: ignore[arg-type]
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_every_row_comes_once_with_openslides_pixels(
    store: FeatureStore, make: Make, method: str
) -> None:
    files = _files(store)
    found = Recorder().take(make(start_method=method).read(files, _counts(store)))
    assert set(found.rows.values()) == {1}
    assert len(found.rows) == sum(_counts(store))
    assert found.lost == []
    for place, file in enumerate(files):
        coords = store.slide(file.slide_id).coords()
        plain = OpenSlideReader(file.path, 0.5)
        for row in range(0, len(coords), 7):
            x, y = coords[row].tolist()
            np.testing.assert_array_equal(
                found.patches[place, row], plain.read_patch(x, y, 96, 0.5)
            )


@pytest.mark.parametrize("workers", [1, 3, 5])
def test_each_tile_is_decoded_about_once(store: FeatureStore, make: Make, workers: int) -> None:
    """Deterministic: which worker reads a block does not change the blocks."""
    found = Recorder().take(make(workers).read(_files(store), _counts(store)))
    with tifffile.TiffFile(_files(store)[0].path) as tiff:
        tiles = len(tiff.pages.first.dataoffsets)
    decoded = [tile for tile in found.cost.tiles if tile[0] == 0]
    assert len(set(decoded)) == tiles
    assert len(decoded) <= 1.15 * tiles
    assert found.cost.reading > found.cost.decoding > 0


def test_one_pool_serves_job_after_job(store: FeatureStore, make: Make) -> None:
    pool = make()
    before = [child.pid for child in multiprocessing.active_children()]
    for _ in range(2):
        found = Recorder().take(pool.read(_files(store), _counts(store)))
        assert len(found.rows) == sum(_counts(store))
    assert [child.pid for child in multiprocessing.active_children()] == before


def test_a_slide_that_cannot_be_read_loses_only_its_own(store: FeatureStore, make: Make) -> None:
    files = _files(store)
    files[0] = files[0]._replace(path=Path("gone.tiff"))
    found = Recorder().take(make().read(files, _counts(store)))
    assert found.places() == {1, 2}
    assert [lost.place for lost in found.lost] == [0]
    assert "gone.tiff does not exist" in found.lost[0].reason


class Stalling(PatchSource):
    """A slide on a disk that no longer answers."""

    @override
    def read_into(
        self, images: np.ndarray, place: int, slide: SlideFile, rows: Iterable[int]
    ) -> ReadCost:
        if slide.slide_id == STALLS:
            time.sleep(60)
        return super().read_into(images, place, slide, rows)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_slide_that_stalls_is_named_and_the_others_go_on(
    store: FeatureStore, make: Make, workers: int
) -> None:
    pool = make(workers, Stalling(store, GRID), timeout_s=1.0, start_method="fork")
    found = Recorder().take(pool.read(_files(store), _counts(store)))
    assert found.places() == {0, 2}
    assert set(found.rows.values()) == {1}
    assert len(found.rows) == 784 + 9
    (lost,) = found.lost
    assert lost.place == 1
    assert "slide_1.tiff gave nothing for 1 s: look at its disk" in lost.reason


class Dying(PatchSource):
    """As when the kernel runs out of memory."""

    @override
    def read_into(
        self, images: np.ndarray, place: int, slide: SlideFile, rows: Iterable[int]
    ) -> ReadCost:
        if slide.slide_id == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_into(images, place, slide, rows)


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_killed_worker_is_one_error(store: FeatureStore, make: Make, method: str) -> None:
    pool = make(2, Dying(store, GRID), start_method=method)
    message = r"killed by signal 9, as the kernel .* run the same command again, .*now 2\)"
    with pytest.raises(WorkerError, match=message):
        Recorder().take(pool.read(_files(store), _counts(store)))


class Ending(PatchSource):
    """As when a script without a guard is run again by each process."""

    @override
    def read_into(
        self, images: np.ndarray, place: int, slide: SlideFile, rows: Iterable[int]
    ) -> ReadCost:
        os._exit(1)


def test_a_worker_that_ends_by_itself_is_another_error(store: FeatureStore, make: Make) -> None:
    pool = make(1, Ending(store, GRID), start_method="fork")
    with pytest.raises(WorkerError, match=r"ended with code 1, its error .* __name__"):
        Recorder().take(pool.read(_files(store), _counts(store)))


class Mistaken(PatchSource):
    """A mistake of the program."""

    @override
    def read_into(
        self, images: np.ndarray, place: int, slide: SlideFile, rows: Iterable[int]
    ) -> ReadCost:
        raise ZeroDivisionError("here")


def test_a_mistake_of_the_program_keeps_its_traceback(store: FeatureStore, make: Make) -> None:
    pool = make(1, Mistaken(store, GRID), start_method="fork")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError: here"):
        Recorder().take(pool.read(_files(store), _counts(store)))


def test_leaving_in_the_middle_ends_the_workers(store: FeatureStore, make: Make) -> None:
    pieces = make().read(_files(store), _counts(store))
    next(pieces)  # the fixture closes the pool and looks for what is left


def test_no_memory_to_share_is_an_error_before_any_process(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        ReaderPool(PatchSource(store, GRID), 2)
    assert not multiprocessing.active_children()


def test_tasks_are_large_in_long_jobs_and_enough_for_all_in_short_ones() -> None:
    slides = [SlideFile(str(i), Path(), 0.5) for i in range(3)]
    assert [t.parts for t in share_out_slides(slides[:1], [25_600], 16)] == [100] * 100
    assert [t.parts for t in share_out_slides(slides, [1_000_000, 5, 0], 16)][-2:] == [1, 1]
    assert next(share_out_slides(slides, [1_000_000, 5, 0], 16)).parts == 488
    assert patch_pool._TASKS >= 2
