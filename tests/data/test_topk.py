"""Selected patches in training, all patches in evaluation."""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from histotransfer_pl.data.bags import BagItem, pack
from histotransfer_pl.data.patch_batch import cut_into_batches
from histotransfer_pl.data.patch_cache import PatchCache
from histotransfer_pl.data.patch_shelf import DiskShelf
from histotransfer_pl.data.selection import read_selection, write_selection
from histotransfer_pl.data.topk import TopKDataset, TopKPatchDataModule
from histotransfer_pl.errors import ConfigError, SlideError, StoreMismatchError
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.store.feature_store import FeatureStore
from tests.tuning import PATCH_PX


def module(**settings: Any) -> TopKPatchDataModule:
    defaults = {"store": Path("s.zarr"), "cohort": Path("c.csv"), "selection": "top3"}
    data = TopKPatchDataModule(**{**defaults, "n_folds": 3, "augment": False, **settings})
    data.setup("fit")
    return data


def pixels(slide_id: str, rows: Sequence[int]) -> np.ndarray[Any, Any]:
    """Patches read straight from the slide."""
    slide = FeatureStore.open("s.zarr").slide(slide_id)
    with open_slide(slide.attributes["path"]) as reader:
        coords = slide.coords()
        corners = [(int(x), int(y)) for x, y in coords[list(rows)]]
        return np.stack([reader.read_patch(x, y, PATCH_PX, 0.5) for x, y in corners])


def test_training_bags_hold_the_selected_patches_in_order(tuning_cohort: Path) -> None:
    data = module(batch_size=2)
    seen = []
    for batch in data.train_dataloader():
        assert batch.lengths.tolist() == [3] * len(batch.targets)
        bags = torch.split(batch.features, batch.lengths.tolist())
        for index, patches in zip(batch.indices.tolist(), bags, strict=True):
            slide_id = str(data.bags.loc[index, "bag_id"])
            rows = read_selection(data.store.slide(slide_id), "top3").rows
            np.testing.assert_array_equal(patches.numpy(), pixels(slide_id, rows.tolist()))
            seen.append(slide_id)
    assert sorted(seen) == sorted(data.split.train)


def test_a_bag_is_augmented_alike_whatever_stands_beside_it(tuning_cohort: Path) -> None:
    data = module(augment=True, stain_jitter=0.05)
    dataset = data.train_dataloader().dataset
    bags = [dataset[BagItem(place)] for place in range(2)]
    data.trainer = SimpleNamespace(training=True, current_epoch=1)  # type: ignore[assignment]
    data._seed = 0
    found = []
    for order in ([0, 1], [1, 0], [0], [1]):
        batch = pack([bags[place] for place in order])
        moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        changed = torch.split(moved.features, moved.lengths.tolist())
        found.append(dict(zip(order, changed, strict=True)))
    for place in range(2):
        alone = found[2 + place][place]
        assert not torch.equal(alone, bags[place].features)
        assert all(torch.equal(both[place], alone) for both in found[:2])


@pytest.mark.parametrize("size", [5, 7, 12, 100])
def test_evaluation_reads_every_patch_of_every_bag_once(tuning_cohort: Path, size: int) -> None:
    data = module(eval_patches=size)
    found: dict[int, list[np.ndarray[Any, Any]]] = {}
    ended = []
    for batch in data.test_dataloader():
        assert len(batch.patches) <= size
        pieces = torch.split(batch.patches, batch.sizes.tolist())
        for index, patches in zip(batch.indices.tolist(), pieces, strict=True):
            found.setdefault(index, []).append(patches.numpy())
        ended += batch.indices[batch.ends].tolist()
    assert ended == list(found)
    assert {data.bags.loc[index, "bag_id"] for index in found} == set(data.split.test)
    for index, parts in found.items():
        expected = pixels(str(data.bags.loc[index, "bag_id"]), range(12))
        np.testing.assert_array_equal(np.concatenate(parts), expected)


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 9))
def test_batches_cover_all_rows_in_order(lengths: list[int], size: int) -> None:
    batches = list(cut_into_batches(lengths, size))
    rows = [(place, row) for batch in batches for place, a, b in batch for row in range(a, b)]
    assert rows == [(place, row) for place, n in enumerate(lengths) for row in range(n)]
    counts = [sum(stop - start for _, start, stop in batch) for batch in batches]
    assert all(count == size for count in counts[:-1])


def test_a_selection_that_was_replaced_in_part_is_refused(tuning_cohort: Path) -> None:
    store = FeatureStore.open("s.zarr")
    slide = store.slide(module().split.train[0])
    made = read_selection(slide, "top3")
    other = replace(made, attributes={**made.attributes, "rule": "random"})
    with store.writing():
        write_selection(slide, "top3", other, overwrite=True)
    with pytest.raises(StoreMismatchError, match=r"not made in one way .*rule random"):
        module()


def test_a_patient_bag_joins_the_selections_of_its_slides(tuning_cohort: Path) -> None:
    table = pd.read_csv("c.csv")
    table["patient_id"] = [f"p{i // 4 * 2 + i % 2}" for i in range(len(table))]  # s00 with s02
    table.to_csv("c.csv", index=False)
    data = module(bag="patient", batch_size=2)
    bags = data.bags.set_index("bag_id")["slide_ids"]
    for batch in data.train_dataloader():
        assert batch.lengths.tolist() == [6, 6]
    assert bags["p0"] == ["s00", "s02"]


class CountingReader:
    """A reader that notes which corners it is asked for, and fails at some."""

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self.plain = open_slide(path, mpp)

    reads: ClassVar[list[tuple[int, int]]] = []
    damaged: ClassVar[set[tuple[int, int]]] = set()

    def read_patch(self, x: int, y: int, px: int, mpp: float) -> NDArray[np.uint8]:
        self.reads.append((x, y))
        if (x, y) in self.damaged:
            raise SlideError(f"damaged at {(x, y)}")
        return self.plain.read_patch(x, y, px, mpp)

    def close(self) -> None:
        self.plain.close()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> type[CountingReader]:
    monkeypatch.setattr("histotransfer_pl.data.patch_cache.open_slide", CountingReader)
    monkeypatch.setattr(CountingReader, "reads", [])
    monkeypatch.setattr(CountingReader, "damaged", set())
    return CountingReader


def cache_of(limit: float, folder: Path | None = None) -> PatchCache:
    return PatchCache(FeatureStore.open("s.zarr"), limit, folder=folder)


@pytest.mark.parametrize("folder", [None, Path("kept")])
def test_patches_are_decoded_once_within_the_limit(
    tuning_cohort: Path, reader: type[CountingReader], folder: Path | None
) -> None:
    cache = cache_of(2 * PATCH_PX * PATCH_PX * 3, folder)
    for _ in range(3):
        found = [cache.read("s00", row) for row in range(3)]
        np.testing.assert_array_equal(np.stack(present(found)), pixels("s00", range(3)))
    assert len(reader.reads) == 2 + 3  # two kept, the third read each time
    cache.close()


def present(patches: Sequence[NDArray[np.uint8] | None]) -> list[NDArray[np.uint8]]:
    return [patch for patch in patches if patch is not None]


def test_the_next_run_finds_the_patches_on_disk(
    tuning_cohort: Path, reader: type[CountingReader]
) -> None:
    settings = {"cache": "disk", "cache_dir": tuning_cohort / "kept", "batch_size": 2}
    first, again = (module(**settings) for _ in range(2))
    for data in (first, again):
        for batch in data.train_dataloader():
            slides = data.bags.loc[batch.indices.tolist(), "bag_id"]
            rows = [read_selection(data.store.slide(s), "top3").rows.tolist() for s in slides]
            expected = [pixels(str(s), own) for s, own in zip(slides, rows, strict=True)]
            np.testing.assert_array_equal(batch.features.numpy(), np.concatenate(expected))
        data.teardown("fit")
    assert len(reader.reads) == 3 * len(first.split.train)
    # Only what was asked for takes room: files of 12 patches hold 3.
    kept = sum(file.stat().st_blocks * 512 for file in (tuning_cohort / "kept").iterdir())
    assert kept < 8 * PATCH_PX * PATCH_PX * 3 * len(first.split.train)


def test_patches_of_other_settings_are_not_taken_for_these(
    tuning_cohort: Path, reader: type[CountingReader]
) -> None:
    folder = tuning_cohort / "kept"
    cache_of(1e9, folder).read("s00", 1)
    for change in ({"patch_px": 16}, {"mpp": 0.25}):
        other = cache_of(1e9)
        other.grid = replace(other.grid, **change)
        other.shelf = DiskShelf(folder, 1e9, other.grid.patch_px, other._place)
        before = len(reader.reads)
        other.read("s00", 1)
        assert len(reader.reads) == before + 1
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("lost", ["pixels", "mark"])
def test_a_patch_on_disk_is_there_whole_or_not_at_all(
    tuning_cohort: Path, reader: type[CountingReader], lost: str
) -> None:
    folder = tuning_cohort / "kept"
    cache = cache_of(1e9, folder)
    cache.read("s00", 1)
    cache.close()
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    start, stop = (12 * 8 + PATCH_PX * PATCH_PX * 3, -1) if lost == "pixels" else (0, 12 * 8)
    content[start:stop] = bytes(len(content[start:stop]))
    file.write_bytes(content)
    found = cache_of(1e9, folder).read("s00", 1)
    np.testing.assert_array_equal(found, pixels("s00", [1])[0])
    assert len(reader.reads) == 2


def test_a_full_disk_stops_the_keeping_and_not_the_run(
    tuning_cohort: Path,
    reader: type[CountingReader],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = cache_of(1e9, tuning_cohort / "kept")
    monkeypatch.setattr("os.pwrite", full)
    for _ in range(2):
        found = cache.read("s00", 2)
        np.testing.assert_array_equal(found, pixels("s00", [2])[0])
    assert len(reader.reads) == 2
    assert caplog.text.count("takes no more patches") == 1


def test_a_folder_that_cannot_be_written_is_refused(tuning_cohort: Path) -> None:
    Path("kept").write_text("a file")
    with pytest.raises(ConfigError, match=r"no patches can be kept in kept .* data.cache_dir"):
        cache_of(1e9, Path("kept"))


def test_the_next_in_rank_replaces_a_damaged_patch(
    tuning_cohort: Path, reader: type[CountingReader], caplog: pytest.LogCaptureFixture
) -> None:
    data = module(cache="none")
    slide_id = data.split.train[0]
    ranked = data.candidates[slide_id].tolist()
    coords = data.store.slide(slide_id).coords()[ranked]
    reader.damaged = {(int(x), int(y)) for x, y in coords[[0, 3]]}  # of 4: the first and the spare
    dataset = data.train_dataloader().dataset
    assert isinstance(dataset, TopKDataset)
    bag = dataset[BagItem(dataset.bags.index([slide_id]))]
    expected = pixels(slide_id, [ranked[1], ranked[2], ranked[4]])
    np.testing.assert_array_equal(bag.features.numpy(), expected)
    assert set(data.cache.unreadable) == {(slide_id, ranked[0]), (slide_id, ranked[3])}
    assert f"patch {ranked[0]} of slide {slide_id} cannot be read: damaged at" in caplog.text


def test_moved_slides_keep_their_names(tuning_cohort: Path) -> None:
    (tuning_cohort / "new").mkdir()
    (tuning_cohort / "slides").rename(tuning_cohort / "new" / "slides")
    data = module(slides=tuning_cohort / "new")
    assert len(next(iter(data.train_dataloader())).features) == 3


def test_imported_arrays_have_no_patches(tmp_path: Path) -> None:
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", None)
    with pytest.raises(StoreMismatchError, match="has no patches to read"):
        PatchCache(store, 0)


@pytest.mark.parametrize(
    "wrong", [{"eval_patches": 0}, {"threads": 0}, {"stain_jitter": -1.0}, {"batch_size": 0}]
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="1"):
        TopKPatchDataModule(Path("s.zarr"), Path("c.csv"), "top3", **wrong)
