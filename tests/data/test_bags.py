from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histotransfer_pl.data.bags import Bag, BagDataset, BagItem, BagSampler, pack
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.importer import import_arrays

ARRAY = "features/given/last"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    rng = np.random.default_rng(0)
    bags = np.repeat(["a", "b", "c"], [3, 40, 1])
    features = rng.normal(size=(44, 5)).astype(np.float32)
    return import_arrays(tmp_path / "s.zarr", features, bags, "given", "last")


def places(sampler: BagSampler) -> list[list[int]]:
    return [[item.place for item in batch] for batch in sampler]


@given(
    n=st.integers(1, 40),
    batch=st.integers(1, 5),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
    fill=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_bag_counts_twice_on_any_number_of_ranks(
    n: int, batch: int, world: int, epoch: int, fill: bool
) -> None:
    ranks = []
    for rank in range(world):
        sampler = BagSampler(n, batch, shuffle=True, seed=1, rank=rank, world_size=world, fill=fill)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
    counted = Counter(i.place for batches in ranks for b in batches for i in b if i.weight > 0)
    assert counted == Counter(range(n))
    if fill:
        assert len({len(batches) for batches in ranks}) == 1
        # The mean over ranks of the weighted sums is the mean over the bags of the step.
        for step in zip(*ranks, strict=True):
            assert sum(item.weight for b in step for item in b) / world == pytest.approx(1)


def test_several_ranks_see_the_steps_of_one() -> None:
    alone = BagSampler(11, 4, shuffle=True, seed=3)
    pair = [BagSampler(11, 2, shuffle=True, seed=3, rank=r, world_size=2) for r in (0, 1)]
    for whole, left, right in zip(places(alone), *map(places, pair), strict=True):
        assert sorted(whole) == sorted(left + right)


def test_order_follows_seed_and_epoch() -> None:
    sampler = BagSampler(20, 1, shuffle=True, seed=3)
    first = places(sampler)
    assert places(sampler) == first
    sampler.set_epoch(1)
    assert places(sampler) != first
    assert places(BagSampler(20, 1, shuffle=True, seed=4)) != first


def test_packing_keeps_rows_and_lengths() -> None:
    bags = [Bag(torch.full((n, 2), float(n)), n, n, 0.5) for n in (1, 3)]
    batch = pack(bags)
    assert batch.features[:, 0].tolist() == [1, 3, 3, 3]
    assert batch.lengths.tolist() == [1, 3]
    assert batch.targets.tolist() == [1, 3]


KEPT = {False: None, True: torch.device("cpu")}


@pytest.mark.parametrize("keep", [False, True])
def test_a_bag_is_what_the_store_holds(store: FeatureStore, keep: bool) -> None:
    dataset = BagDataset(
        store,
        [ARRAY],
        [["a"], ["b", "c"]],
        torch.tensor([0, 1]),
        [0, 1],
        keep_on=torch.device("cpu") if keep else None,
    )
    for _ in range(2):
        np.testing.assert_array_equal(dataset[BagItem(0)].features, store.slide("a").read(ARRAY))
        joined = np.concatenate([store.slide(s).read(ARRAY) for s in ("b", "c")])
        np.testing.assert_array_equal(dataset[BagItem(1)].features, joined)


@pytest.mark.parametrize("keep", [False, True])
def test_max_patches_samples_other_rows_each_epoch(store: FeatureStore, keep: bool) -> None:
    dataset = BagDataset(
        store,
        [ARRAY],
        [["a", "b", "c"]],
        torch.tensor([0]),
        [0],
        max_patches=10,
        keep_on=torch.device("cpu") if keep else None,
    )
    whole = np.concatenate([store.slide(s).read(ARRAY) for s in ("a", "b", "c")])
    seen = []
    for epoch in (0, 1, 2, 3, 4, 0):
        features = dataset[BagItem(0, epoch=epoch)].features.numpy()
        rows = [int(np.flatnonzero((whole == row).all(1))[0]) for row in features]
        assert len(set(rows)) == 10
        assert rows == sorted(rows)
        seen.append(tuple(rows))
    assert len(set(seen[:5])) == 5
    assert seen[5] == seen[0], "a resumed run draws what the uninterrupted one does"


def test_vectors_of_several_depths_are_joined(store: FeatureStore) -> None:
    deeper = "features/given/deeper"
    with store.writing():
        for name in ("a", "b", "c"):
            slide = store.slide(name)
            slide.write(deeper, slide.read(ARRAY)[:, :2] + 1, {})
    bag = BagDataset(store, [ARRAY, deeper], [["a", "b"]], torch.tensor([0]), [0])[BagItem(0)]
    parts = [store.slide(s).read(array) for s in "ab" for array in (ARRAY, deeper)]
    expected = np.concatenate([np.hstack(parts[:2]), np.hstack(parts[2:])])
    np.testing.assert_array_equal(bag.features, expected)


def test_pairs_of_features_and_label_are_bags() -> None:
    batch = pack([(torch.zeros(2, 3), 1), (torch.ones(1, 3), torch.tensor(0))])
    assert batch.lengths.tolist() == [2, 1]
    assert batch.targets.tolist() == [1, 0]
    assert batch.weights.sum().item() == pytest.approx(1)


def test_lengths_stay_on_the_host() -> None:
    """Every head asks for them in every step, which would wait for the device each time."""
    data = FeatureDataModule(Path("s.zarr"), Path("c.csv"))
    batch = pack([Bag(torch.zeros(n, 2), 0, n, 0.5) for n in (1, 3)])
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.lengths is batch.lengths
    assert all(part.is_meta for part in (moved.features, moved.targets, moved.weights))
    assert moved.lengths.tolist() == [1, 3]


def test_bags_are_kept_on_the_gpu_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    data = FeatureDataModule(Path("s.zarr"), Path("c.csv"), cache_gb=1)
    size = 1000 * 100 * 2  # patches, features, bytes of float16
    monkeypatch.setattr(FeatureDataModule, "in_features", 100, raising=False)
    data.__dict__.update(
        store=SimpleNamespace(slide=lambda _: SimpleNamespace(n_patches=1000)),
        features=SimpleNamespace(dtype="float16"),
        arrays=["features/e/d"],
    )
    cuda = torch.device("cuda")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=cuda))
    assert data._memory_for([["a"]]) == torch.device("cpu")
    data.__dict__["trainer"] = trainer
    for free, place in ((4 * size + 4, cuda), (4 * size - 4, torch.device("cpu"))):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert data._memory_for([["a"]]) == place
    data.cache_gb = size / 1e9 / 2
    assert data._memory_for([["a"]]) is None
