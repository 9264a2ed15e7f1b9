from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histotransfer_pl.data.bags import Bag, BagDataset, BagSampler, pack
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
    return [[place for place, _ in batch] for batch in sampler]


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
    counted = Counter(p for batches in ranks for b in batches for p, weight in b if weight > 0)
    assert counted == Counter(range(n))
    if fill:
        assert len({len(batches) for batches in ranks}) == 1
        # The mean over ranks of the weighted sums is the mean over the bags of the step.
        for step in zip(*ranks, strict=True):
            assert sum(w for b in step for _, w in b) / world == pytest.approx(1)


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
    assert batch.labels.tolist() == [1, 3]


@pytest.mark.parametrize("keep", [False, True])
def test_a_bag_is_what_the_store_holds(store: FeatureStore, keep: bool) -> None:
    dataset = BagDataset(store, ARRAY, [["a"], ["b", "c"]], [0, 1], [0, 1], keep=keep)
    for _ in range(2):
        np.testing.assert_array_equal(dataset[(0, 1.0)].features, store.slide("a").read(ARRAY))
        joined = np.concatenate([store.slide(s).read(ARRAY) for s in ("b", "c")])
        np.testing.assert_array_equal(dataset[(1, 1.0)].features, joined)


@pytest.mark.parametrize("keep", [False, True])
def test_max_patches_samples_other_rows_each_time(store: FeatureStore, keep: bool) -> None:
    dataset = BagDataset(store, ARRAY, [["a", "b", "c"]], [0], [0], max_patches=10, keep=keep)
    whole = np.concatenate([store.slide(s).read(ARRAY) for s in ("a", "b", "c")])
    seen = set()
    for _ in range(5):
        features = dataset[(0, 1.0)].features.numpy()
        rows = [int(np.flatnonzero((whole == row).all(1))[0]) for row in features]
        assert len(set(rows)) == 10
        assert rows == sorted(rows)
        seen.add(tuple(rows))
    assert len(seen) > 1


def test_scaling_is_applied(store: FeatureStore) -> None:
    scaling = (torch.full((5,), 2.0), torch.full((5,), 4.0))
    dataset = BagDataset(store, ARRAY, [["a"]], [0], [0], scaling=scaling)
    expected = (store.slide("a").read(ARRAY) - 2) / 4
    np.testing.assert_allclose(dataset[(0, 1.0)].features, expected, rtol=1e-6)
