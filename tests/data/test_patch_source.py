"""Batches of patches: every row once, with the pixels of its place, whoever reads them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.data.patch_batch import PatchBatch, SlideWork, cut_into_batches
from histotransfer_pl.data.patch_source import PatchSource
from histotransfer_pl.data.patch_threads import PatchDataset
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.openslide_reader import OpenSlideReader
from histotransfer_pl.slides.reader import ReaderName
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore

GRID = GridSettings(patch_px=96, tissue=TissueSettings(method="none"))


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    paint_cohort(folder, n_patients=1, slides_per_patient=3, seed=0, size_px=512)
    return folder


@pytest.fixture
def store(tmp_path: Path, painted: Path) -> FeatureStore:
    """Slides of 25, 16 and 5 patches, off the tiles of their files."""
    opened = FeatureStore.open_or_create(tmp_path / "s.zarr", GRID.to_json())
    corners = np.array([(x, y) for y in range(0, 416, 96) for x in range(0, 416, 96)], np.int32)
    with opened.writing():
        for path, count in zip(sorted((painted / "slides").iterdir()), (25, 16, 5), strict=True):
            opened.add_slide(path.stem, corners[:count] + 7, count, {"path": str(path)})
    return opened


def work_on(store: FeatureStore, **other: Path) -> list[SlideWork]:
    slides = [store.slide(slide_id) for slide_id in store.slide_ids()]
    return [
        SlideWork(
            SlideEntry(s.slide_id, other.get(s.slide_id, Path(s.attributes["path"])), None),
            s.n_patches,
            0.5,
            ("features/a/b",),
        )
        for s in slides
    ]


def rows_of(batches: Sequence[PatchBatch]) -> Iterator[tuple[int, int, np.ndarray]]:
    for batch in batches:
        assert len(batch.patches) == len(batch.slides) == len(batch.rows)
        for place, row, patch in zip(batch.slides, batch.rows, batch.patches, strict=True):
            yield int(place), int(row), patch.numpy()


def reading(
    store: FeatureStore,
    work: list[SlideWork],
    batch_size: int,
    threads: int = 1,
    reader: ReaderName = "auto",
) -> PatchDataset:
    batches = list(cut_into_batches([item.n_patches for item in work], batch_size))
    return PatchDataset(PatchSource(store, GRID, reader), work, batches, threads, ahead=2)


@pytest.mark.parametrize("reader", ["auto", "direct", "openslide"])
@pytest.mark.parametrize(("batch_size", "threads"), [(7, 1), (7, 3), (100, 2)])
def test_every_row_comes_once_with_openslides_pixels(
    store: FeatureStore, reader: ReaderName, batch_size: int, threads: int
) -> None:
    work = work_on(store)
    batches = list(reading(store, work, batch_size, threads, reader))
    assert [len(b.patches) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    seen = []
    for place, row, patch in rows_of(batches):
        slide = store.slide(work[place].entry.slide_id)
        x, y = slide.coords()[row].tolist()
        plain = OpenSlideReader(work[place].entry.path, 0.5).read_patch(x, y, 96, 0.5)
        np.testing.assert_array_equal(patch, plain)
        seen.append((place, row))
    assert seen == [(place, row) for place, n in enumerate((25, 16, 5)) for row in range(n)]


def test_a_slide_that_cannot_be_read_loses_only_its_own_patches(
    store: FeatureStore, tmp_path: Path
) -> None:
    work = work_on(store, patient_00_slide_1=tmp_path / "gone.tiff")
    batches = list(reading(store, work, 10))
    seen = [(place, row) for place, row, _ in rows_of(batches)]
    assert seen == [(place, row) for place, n in ((0, 25), (2, 5)) for row in range(n)]
    failures = [failure for batch in batches for failure in batch.failures]
    assert [place for place, _ in failures] == [1]
    assert "gone.tiff does not exist" in failures[0][1]


def test_a_batch_says_where_its_time_went(store: FeatureStore) -> None:
    work = work_on(store)[:1]
    for reader in ("direct", "openslide"):
        (batch,) = reading(store, work, 100, reader=reader)
        inside = batch.cost.file + batch.cost.decoding
        assert batch.cost.reading > inside
        assert (inside > 0) == (reader == "direct")
