"""Selected patches in training, all patches in evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from histotransfer_pl.data.bag_pieces import cut_into_batches
from histotransfer_pl.data.patch_cache import PatchCache
from histotransfer_pl.data.selection import read_selection
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.errors import ConfigError, StoreMismatchError
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
        assert batch.lengths.tolist() == [3] * len(batch.labels)
        bags = torch.split(batch.features, batch.lengths.tolist())
        for index, patches in zip(batch.indices.tolist(), bags, strict=True):
            slide_id = str(data.bags.loc[index, "bag_id"])
            rows = read_selection(data.store.slide(slide_id), "top3").rows
            np.testing.assert_array_equal(patches.numpy(), pixels(slide_id, rows.tolist()))
            seen.append(slide_id)
    assert sorted(seen) == sorted(data.split.train)


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
    rows = [(p.place, row) for batch in batches for p in batch for row in range(p.start, p.stop)]
    assert rows == [(place, row) for place, n in enumerate(lengths) for row in range(n)]
    counts = [sum(p.stop - p.start for p in batch) for batch in batches]
    assert all(count == size for count in counts[:-1])


def test_a_patient_bag_joins_the_selections_of_its_slides(tuning_cohort: Path) -> None:
    table = pd.read_csv("c.csv")
    table["patient_id"] = [f"p{i // 4 * 2 + i % 2}" for i in range(len(table))]  # s00 with s02
    table.to_csv("c.csv", index=False)
    data = module(bag="patient", batch_size=2)
    bags = data.bags.set_index("bag_id")["slide_ids"]
    for batch in data.train_dataloader():
        assert batch.lengths.tolist() == [6, 6]
    assert bags["p0"] == ["s00", "s02"]


def test_patches_are_decoded_once_within_the_limit(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histotransfer_pl.slides.reader import OpenSlideReader

    reads: list[tuple[int, int]] = []
    plain = OpenSlideReader.read_patch

    def counted(self: OpenSlideReader, x: int, y: int, px: int, mpp: float) -> Any:
        reads.append((x, y))
        return plain(self, x, y, px, mpp)

    monkeypatch.setattr(OpenSlideReader, "read_patch", counted)
    patch_bytes = PATCH_PX * PATCH_PX * 3
    cache = PatchCache(FeatureStore.open("s.zarr"), limit_bytes=2 * patch_bytes)
    for _ in range(3):
        for row in range(3):
            cache.read("s00", row)
    assert len(reads) == 2 + 3  # two kept, the third read each time
    cache.close()


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
